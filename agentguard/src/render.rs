//! Makes text that others chose (paths, arguments, names) harmless on a terminal, without hiding what
//! it was. Not a formatter: columns and colours are the business of whoever prints.
//!
//! An agent chooses the names of its files and the arguments of its programs, and a person reads them
//! in `agentguard tail`. Raw, they could clear the screen, draw a forged line, answer a terminal's
//! query, or turn the reading order around (CVE-2021-42574). So whatever does not print is written as
//! an escape, and a backslash is doubled, so that no name can imitate an escape.

use std::fmt::{self, Write as _};

/// Text shown with everything escaped that does not print: control characters (C0, DEL, C1),
/// bidirectional and other invisible format characters, line and paragraph separators, private and
/// unassigned code points.
#[derive(Clone, Copy, Debug)]
pub struct Safe<'a> {
    text: &'a str,
    /// The text's backslashes already begin escapes.
    escaped: bool,
}

/// Text as it is, for instance a name from a person or an agent.
pub fn safe(text: &str) -> Safe<'_> {
    Safe {
        text,
        escaped: false,
    }
}

/// Text in which a backslash already begins an escape: an event's object or argument whose `encoding`
/// is `escaped`. Only what still does not print is escaped further.
pub fn safe_escaped(text: &str) -> Safe<'_> {
    Safe {
        text,
        escaped: true,
    }
}

/// JSON with the same meaning that is harmless on a terminal: JSON itself leaves C1 control characters
/// and changes of direction as they are. Line ends between values stay.
pub fn safe_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !escapes(c) {
            out.push(c);
            continue;
        }
        // JSON has such characters only inside of strings, where a `\u` escape is the same thing.
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

/// Whether the character does not print.
fn escapes(c: char) -> bool {
    let shown = safe_escaped(c.encode_utf8(&mut [0; 4])).to_string();
    shown.len() > c.len_utf8()
}

impl fmt::Display for Safe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The standard library's debug escapes are what is wanted, but for three characters that
        // print as they are: both quotes and, in escaped text, the backslash. It works on the pieces
        // between those, because it leaves combining characters alone only inside a string (alone,
        // it would turn names in Thai or Devanagari into numbers).
        let keep = |c: char| matches!(c, '"' | '\'') || (self.escaped && c == '\\');
        for piece in self.text.split_inclusive(keep) {
            let (body, last) = match piece.char_indices().next_back() {
                Some((at, c)) if keep(c) => (&piece[..at], Some(c)),
                _ => (piece, None),
            };
            write!(f, "{}", body.escape_debug())?;
            if let Some(c) = last {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_text_is_unchanged() {
        for text in [
            "",
            "/home/u/.ssh/id_ed25519",
            "it's \"quoted\"",
            "/srv/Übung/données",
            "ภาษาไทย",
            "हिन्दी",
            "日本語",
            "🦀",
        ] {
            assert_eq!(safe(text).to_string(), text);
        }
    }

    #[test]
    fn terminal_sequences_are_escaped() {
        assert_eq!(safe("\x1b[2J\x07").to_string(), "\\u{1b}[2J\\u{7}");
        assert_eq!(safe("a\nb\r\tc").to_string(), "a\\nb\\r\\tc");
        assert_eq!(safe("\u{9b}31m\u{7f}").to_string(), "\\u{9b}31m\\u{7f}");
    }

    #[test]
    fn invisible_and_bidirectional_characters_are_escaped() {
        for c in [
            '\u{202a}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{061c}',
            '\u{2028}',
            '\u{2029}',
            '\u{feff}',
            '\u{00ad}',
            '\u{00a0}',
            '\u{e0041}',
        ] {
            let shown = safe(&format!("a{c}b")).to_string();
            assert_eq!(shown, format!("a\\u{{{:x}}}b", c as u32));
        }
    }

    #[test]
    fn a_name_cannot_imitate_an_escape() {
        assert_ne!(safe("a\\nb").to_string(), safe("a\nb").to_string());
        assert_eq!(safe("a\\nb").to_string(), "a\\\\nb");
        assert_eq!(safe_escaped("a\\xffb\n").to_string(), "a\\xffb\\n");
    }

    #[test]
    fn json_keeps_its_lines_and_loses_its_controls() {
        let json = "{\n  \"path\": \"/tmp/\u{9b}31m\u{202e}\u{e0041}\"\n}";
        assert_eq!(
            safe_json(json),
            "{\n  \"path\": \"/tmp/\\u009b31m\\u202e\\udb40\\udc41\"\n}"
        );
    }

    proptest! {
        #[test]
        fn safe_json_means_the_same(text in any::<String>()) {
            let json = serde_json::json!({ "path": text }).to_string();
            let shown = safe_json(&json);
            prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
            let back: serde_json::Value = serde_json::from_str(&shown)
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(back["path"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn nothing_shown_controls_a_terminal(text in any::<String>()) {
            for shown in [safe(&text).to_string(), safe_escaped(&text).to_string()] {
                prop_assert!(!shown.chars().any(char::is_control), "{shown:?}");
                prop_assert!(
                    !shown.contains(['\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
                        '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}', '\u{2028}', '\u{2029}']),
                    "{shown:?}"
                );
            }
        }

        #[test]
        fn control_characters_anywhere_are_caught(before in ".{0,8}", code in 0u32..0xa0, after in ".{0,8}") {
            let c = char::from_u32(code).ok_or_else(|| TestCaseError::reject("not a character"))?;
            prop_assume!(c.is_control());
            let shown = safe(&format!("{before}{c}{after}")).to_string();
            prop_assert!(!shown.contains(c));
        }

        #[test]
        fn different_texts_are_shown_differently(a in any::<String>(), b in any::<String>()) {
            prop_assume!(a != b);
            prop_assert_ne!(safe(&a).to_string(), safe(&b).to_string());
        }
    }
}
