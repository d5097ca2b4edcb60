//! An error and its causes as one line, each said once: most of this crate's errors already name
//! their cause, some of the libraries' don't.

use std::error::Error;

/// The error's text, followed by those of its causes that are not part of it yet.
pub fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Level {
        text: &'static str,
        source: Option<Box<Level>>,
    }

    fn level(text: &'static str, source: Option<Level>) -> Level {
        Level {
            text,
            source: source.map(Box::new),
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        let inner = level("not permitted", None);
        let middle = level("bpf failed", Some(inner));
        let outer = level("cannot attach x: bpf failed", Some(middle));
        assert_eq!(text(&outer), "cannot attach x: bpf failed: not permitted");
    }
}
