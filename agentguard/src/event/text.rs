//! Bytes as text: as they are when they are UTF-8, with `\xNN` escapes otherwise.

/// What `encoding` says of escaped text.
pub const ESCAPED: &str = "escaped";

/// The bytes as text, and whether they had to be escaped. Escaped text has its backslashes escaped
/// as well, so that the bytes can be had back.
pub fn decode(bytes: &[u8]) -> (String, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => {
            let mut out = String::with_capacity(bytes.len() + 16);
            for chunk in bytes.utf8_chunks() {
                for character in chunk.valid().chars() {
                    if character == '\\' {
                        out.push_str("\\x5c");
                    } else {
                        out.push(character);
                    }
                }
                for byte in chunk.invalid() {
                    out.push_str(&format!("\\x{byte:02x}"));
                }
            }
            (out, true)
        }
    }
}

/// The text before the first NUL of a zero-padded field.
pub fn padded(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes back.
    fn encode(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("\\x") {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two digits"));
            rest = &rest[at + 4..];
        }
        out.extend_from_slice(rest.as_bytes());
        out
    }

    #[test]
    fn utf8_stays_as_it_is() {
        assert_eq!(
            decode("/tmp/ü\\x".as_bytes()),
            ("/tmp/ü\\x".to_owned(), false)
        );
    }

    #[test]
    fn the_rest_is_escaped() {
        assert_eq!(
            decode(b"/tmp/\xff\\a"),
            ("/tmp/\\xff\\x5ca".to_owned(), true)
        );
    }

    #[test]
    fn padding_is_cut() {
        assert_eq!(padded(b"cat\0\0"), b"cat");
        assert_eq!(padded(b"cat"), b"cat");
        assert_eq!(padded(b""), b"");
    }

    proptest! {
        #[test]
        fn nothing_is_lost(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let (text, escaped) = decode(&bytes);
            if escaped {
                prop_assert_eq!(encode(&text), bytes);
            } else {
                prop_assert_eq!(text.as_bytes(), &bytes[..]);
            }
        }
    }
}
