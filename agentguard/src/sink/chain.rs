//! How the lines of the log hang together. Each holds the hash of the one before it, and its own:
//! `hash = BLAKE3(prev || line without hash)`, over the text as it is written, so that
//! `printf '%s%s' "$prev" "$line" | b3sum` shows it without this program.

use blake3::Hash;

/// Digits of a hash.
const DIGITS: usize = 2 * blake3::OUT_LEN;
const PREV: &[u8] = br#","prev":""#;
const HASH: &[u8] = br#","hash":""#;
const END: &[u8] = br#""}"#;

/// What the first line of a log comes after.
pub const START: Hash = Hash::from_bytes([0; blake3::OUT_LEN]);

/// The line with its place in the chain, and its hash. `line` is a JSON object.
pub fn seal(line: &str, prev: Hash) -> (String, Hash) {
    let body = line.strip_suffix('}').unwrap_or(line);
    let mut text = String::with_capacity(body.len() + PREV.len() + HASH.len() + 2 * DIGITS + 3);
    text.push_str(body);
    text.push_str(r#","prev":""#);
    text.push_str(&prev.to_hex());
    text.push('"');
    let hash = hash_of(prev, text.as_bytes());
    text.push_str(r#","hash":""#);
    text.push_str(&hash.to_hex());
    text.push_str(r#""}"#);
    (text, hash)
}

/// What a line says of its place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub prev: Hash,
    pub hash: Hash,
    /// The hash is that of what the line says.
    pub holds: bool,
}

impl Link {
    /// None where the line does not end as every line of the log does.
    pub fn of(line: &[u8]) -> Option<Self> {
        let rest = line.strip_suffix(END)?;
        let (rest, hash) = digits(rest)?;
        let rest = rest.strip_suffix(HASH)?.strip_suffix(b"\"")?;
        let (rest, prev) = digits(rest)?;
        rest.strip_suffix(PREV)?;
        let body = &line[..line.len() - END.len() - DIGITS - HASH.len()];
        Some(Self {
            prev,
            hash,
            holds: hash_of(prev, body) == hash,
        })
    }
}

/// What comes before the hash at the end, and the hash. Only as it is written: in small letters.
fn digits(text: &[u8]) -> Option<(&[u8], Hash)> {
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
    let hash = Hash::from_hex(digits).ok()?;
    (hash.to_hex().as_bytes() == digits).then_some((rest, hash))
}

/// The hash of a line. `body` is what comes before its own hash.
fn hash_of(prev: Hash, body: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(prev.to_hex().as_bytes());
    hasher.update(body);
    hasher.update(b"}");
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_sealed_as_the_format_says() {
        let (first, hash) = seal(r#"{"v":1,"seq":1}"#, START);
        let zeros = "0".repeat(64);
        let hashed =
            blake3::hash(format!(r#"{zeros}{{"v":1,"seq":1,"prev":"{zeros}"}}"#).as_bytes());
        assert_eq!(hash, hashed);
        assert_eq!(
            first,
            format!(r#"{{"v":1,"seq":1,"prev":"{zeros}","hash":"{hashed}"}}"#)
        );
        let (second, _) = seal(r#"{"v":1,"seq":2}"#, hash);
        let link = Link::of(second.as_bytes()).expect("a link");
        assert!(link.holds && link.prev == hash);
    }

    #[test]
    fn what_is_no_line_of_a_log_has_no_link() {
        let (line, _) = seal("{}", START);
        for line in ["", "{}", &line[1..line.len() - 1], &line.to_uppercase()] {
            assert_eq!(Link::of(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_byte_can_be_another(text in "[a-z\"\\\\]{0,200}", at: prop::sample::Index, by in 1_u8..=255) {
            let line = serde_json::json!({ "seq": 7, "text": text }).to_string();
            let (sealed, hash) = seal(&line, blake3::hash(b"before"));
            let link = Link::of(sealed.as_bytes()).expect("a link");
            prop_assert!(link.holds && link.hash == hash);
            serde_json::from_str::<serde_json::Value>(&sealed).expect("still JSON");
            let mut bytes = sealed.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert!(Link::of(&bytes).is_none_or(|link| !link.holds));
        }
    }
}
