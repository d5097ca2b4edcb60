//! Host names: in a rule with their wildcards, and as the one name that a question is about. Both end up as the bytes that
//! `agentguard_common::name` lays down.

use std::{fmt, ops::RangeInclusive};

use agentguard_common::name::{NAME_BYTES, PRIVATE, PUBLIC, service};

use super::{
    pattern::PatternError,
    tokens::{ByteSet, Pattern, Token},
};

/// Longest label, in bytes (RFC 1035 section 2.3.4).
const LABEL_BYTES: usize = 63;

/// A host's name as rules know it: lower-case labels in ASCII, the first one first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName {
    labels: Vec<String>,
}

impl HostName {
    /// Reads a name as a person writes it: in any case, in any script, with or without the dot at its end.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let whole = 0..text.len();
        let bad = |message: String, help: &str| PatternError::new(whole.clone(), message, help);
        let plain = text.strip_suffix('.').unwrap_or(text);
        let ascii = if plain.is_ascii() {
            plain.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_cow(plain.as_bytes(), idna::AsciiDenyList::EMPTY)
                .map_err(|_| {
                    bad(
                        format!("`{text}` is not a host name"),
                        "write its ASCII form, which begins with xn--",
                    )
                })?
                .into_owned()
        };
        if let Some(label) = ascii.split('.').find(|label| !is_label(label.as_bytes())) {
            return Err(bad(
                match label.len() {
                    0 => format!("`{text}` has an empty label"),
                    len if len > LABEL_BYTES => {
                        format!("a label of `{text}` is longer than {LABEL_BYTES} bytes")
                    }
                    _ => format!("`{text}` is not a host name"),
                },
                "write labels of letters, digits, `-` and `_` with dots between them; `*.` and `**.` go in front",
            ));
        }
        if ascii.len() > NAME_BYTES {
            return Err(bad(
                format!("a host name has at most {NAME_BYTES} bytes"),
                "write a shorter one",
            ));
        }
        Ok(Self {
            labels: ascii.split('.').map(str::to_owned).collect(),
        })
    }

    /// The name in a lookup. `None` when no host can have it, and so no rule can be about it.
    pub fn from_labels<'l>(labels: impl IntoIterator<Item = &'l [u8]>) -> Option<Self> {
        let labels = labels
            .into_iter()
            .map(|label| {
                let label = String::from_utf8(label.to_ascii_lowercase()).ok()?;
                is_label(label.as_bytes()).then_some(label)
            })
            .collect::<Option<Vec<String>>>()?;
        let len: usize = labels.iter().map(|label| label.len() + 1).sum();
        (!labels.is_empty() && len <= NAME_BYTES + 1).then_some(Self { labels })
    }

    /// The names that this one may have been made of, by putting a domain behind: all that it begins with.
    pub fn beginnings(&self) -> impl Iterator<Item = Self> {
        (1..self.labels.len()).rev().map(|count| Self {
            labels: self.labels[..count].to_vec(),
        })
    }

    /// What the automata read up to the name's end. `class` is [`PUBLIC`] or [`PRIVATE`].
    pub fn object(&self, class: u8) -> Vec<u8> {
        let mut object = vec![class];
        for (index, label) in self.labels.iter().rev().enumerate() {
            if index > 0 {
                object.push(b'/');
            }
            object.extend_from_slice(label.as_bytes());
        }
        object.push(0);
        object
    }

    /// What they read of a connection to it.
    pub fn service(&self, class: u8, protocol: u8, port: u16) -> Vec<u8> {
        let mut object = self.object(class);
        object.extend(service(protocol, port));
        object
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.labels.join("."))
    }
}

fn is_label(label: &[u8]) -> bool {
    (1..=LABEL_BYTES).contains(&label.len())
        && label.iter().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
        })
}

/// What stands in front of the name in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    None,
    /// `*.`: one label.
    One,
    /// `**.`: any number of labels, also none.
    Any,
}

/// A host in a rule, with what else the rule says of it.
#[derive(Clone, Debug)]
pub(super) struct HostPattern {
    pub front: Front,
    pub name: HostName,
    /// IPPROTO_* numbers; any if it is empty.
    pub protocols: Vec<u8>,
    pub ports: RangeInclusive<u16>,
}

/// What a pattern of a host does in its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// It is about addresses on private and other special networks as well.
    pub private: bool,
    /// It lets the name be looked up, or takes that away, whatever the protocol and the port. Others do so only when
    /// they are for all of them.
    pub lookup: bool,
}

impl HostPattern {
    /// Reads the host of an address; the rest of it is known. `None` when there is a wildcard where none can be.
    pub fn parse(
        host: &str,
        protocols: Vec<u8>,
        ports: RangeInclusive<u16>,
    ) -> Result<Self, PatternError> {
        let (front, skipped) = if host.starts_with("**.") {
            (Front::Any, 3)
        } else if host.starts_with("*.") {
            (Front::One, 2)
        } else {
            (Front::None, 0)
        };
        let rest = &host[skipped..];
        if rest.contains('*') {
            return Err(PatternError::new(
                0..host.len(),
                format!("`{host}` has a wildcard that can't be there"),
                "write `*.` for one label or `**.` for any number of them, in front of the name",
            ));
        }
        Ok(Self {
            front,
            name: HostName::parse(rest).map_err(|error| PatternError {
                at: error.at.start + skipped..error.at.end + skipped,
                ..error
            })?,
            protocols,
            ports,
        })
    }

    /// The pattern as the compiler knows it.
    pub fn pattern(&self, how: Use, ports: &[[Token; 2]]) -> Pattern {
        let mut class = ByteSet::NONE;
        class.insert(PUBLIC);
        if how.private {
            class.insert(PRIVATE);
        }
        let mut name = vec![class.token()];
        for (index, label) in self.name.labels.iter().rev().enumerate() {
            if index > 0 {
                name.push(Token::Byte(b'/'));
            }
            name.extend(label.bytes().map(Token::Byte));
        }
        let below = |token| [name.as_slice(), &[Token::Byte(b'/'), token]].concat();
        let mut names = match self.front {
            Front::None => vec![name],
            Front::One => vec![below(Token::Name)],
            Front::Any => vec![below(Token::NameRest), name],
        };
        names
            .iter_mut()
            .for_each(|tokens| tokens.push(Token::Byte(0)));
        let protocol = if self.protocols.is_empty() {
            Token::Set(ByteSet::ALL)
        } else {
            let mut set = ByteSet::NONE;
            self.protocols.iter().for_each(|number| set.insert(*number));
            set.token()
        };
        let mut alternatives = Vec::new();
        for name in &names {
            if how.lookup || self.is_for_all() {
                alternatives.push(name.clone());
            }
            for port in ports {
                alternatives.push([name.as_slice(), &[protocol], port].concat());
            }
        }
        Pattern { alternatives }
    }

    fn is_for_all(&self) -> bool {
        self.protocols.is_empty() && self.ports == (0..=u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_however_they_are_written() {
        for (text, shown) in [
            ("API.Example.COM", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("_dmarc.example", "_dmarc.example"),
            ("registry", "registry"),
        ] {
            assert_eq!(HostName::parse(text).expect(text).to_string(), shown);
        }
        let long = ["a"; 127].join(".");
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "a/b",
            "a\0b",
            &"a".repeat(64),
            &format!("{long}.ab"),
        ] {
            assert!(HostName::parse(text).is_err(), "{text}");
        }
        assert!(HostName::parse(&long).is_ok());
    }

    #[test]
    fn a_lookup_is_of_a_name_that_a_host_can_have() {
        let labels = |labels: &[&'static str]| {
            HostName::from_labels(labels.iter().map(|label| label.as_bytes()))
        };
        assert_eq!(
            labels(&["API", "example"]).map(|name| name.to_string()),
            Some("api.example".to_owned())
        );
        for none in [&[][..], &["a/b"], &["a.b"], &["a", "\0"], &["b\u{fc}cher"]] {
            assert_eq!(labels(none), None, "{none:?}");
        }
        let name = HostName::parse("a.b.c").expect("a name");
        let beginnings: Vec<String> = name.beginnings().map(|name| name.to_string()).collect();
        assert_eq!(beginnings, ["a.b", "a"]);
        let name = HostName::parse("api.example").expect("a name");
        assert_eq!(name.object(PUBLIC), b"\x01example/api\0");
        assert_eq!(
            name.service(PRIVATE, 6, 443),
            b"\x02example/api\0\x06\x01\xbb"
        );
    }
}
