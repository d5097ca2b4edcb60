//! Files and programs as objects of events.

use agentguard_common::profile::verb;
use serde::Serialize;

use super::text;

/// A file; without accesses, a program that was to be run or mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    pub path: String,
    /// The new name, where somebody is asked about a rename or a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Vec<&'static str>>,
    /// What a program is run with after `argv[0]`, where a rule had to look at that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// The program was to be mapped as code, not run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mapped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
    /// The path is only its end, or the arguments are only their beginning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl Object {
    /// A file with the accesses that were asked for.
    pub fn new(path: &[u8], access: &[&'static str]) -> Self {
        Self {
            access: Some(access.to_vec()),
            ..Self::program(path)
        }
    }

    /// A file and the new name that it would get.
    pub fn names(both: &[u8], access: &[&'static str]) -> Self {
        let mut names = both.splitn(2, |byte| *byte == 0);
        let mut object = Self::new(names.next().unwrap_or_default(), access);
        object.to = names.next().map(|name| {
            let (name, escaped) = text::decode(name);
            if escaped {
                object.encoding = Some(text::ESCAPED);
            }
            name
        });
        object
    }

    /// A program.
    pub fn program(path: &[u8]) -> Self {
        let (path, escaped) = text::decode(path);
        Self {
            path,
            to: None,
            access: None,
            args: None,
            mapped: false,
            encoding: escaped.then_some(text::ESCAPED),
            partial: false,
        }
    }

    /// The arguments of a program, each with its NUL, taken apart at those; the piece after the last is none.
    pub fn set_args<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) {
        let mut args = Vec::new();
        for piece in pieces {
            let (text, escaped) = text::decode(piece);
            if escaped {
                self.encoding = Some(text::ESCAPED);
            }
            args.push(text);
        }
        if args.last().is_some_and(String::is_empty) {
            args.pop();
        }
        self.args = Some(args);
    }
}

/// The names of a set of verbs.
pub fn accesses(verbs: u8) -> Vec<&'static str> {
    [
        (verb::READ, "read"),
        (verb::WRITE, "write"),
        (verb::CREATE, "create"),
        (verb::DELETE, "delete"),
        (verb::METADATA, "metadata"),
    ]
    .into_iter()
    .filter(|(number, _)| verbs & verb::bit(*number) != 0)
    .map(|(_, name)| name)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_have_names() {
        assert_eq!(accesses(0b10011), ["read", "write", "metadata"]);
        assert!(accesses(0b1110_0000).is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_say_so() {
        let object = serde_json::to_string(&Object::program(b"/a\xfe")).expect("written");
        assert_eq!(object, r#"{"path":"/a\\xfe","encoding":"escaped"}"#);
    }
}
