//! What every pattern, of paths and of addresses, is taken apart into: a few kinds of token over
//! bytes. The compiler knows nothing else of patterns.

use std::fmt;

/// A pattern: it matches what any of its alternatives matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub alternatives: Vec<Vec<Token>>,
}

/// One step of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Token {
    /// This byte.
    Byte(u8),
    /// One byte of these.
    Set(ByteSet),
    /// Any number of bytes other than `/` (`*`).
    Star,
    /// Any number of whole components, each with its `/` (`**/`). Comes after a `/` or at the start.
    Deep,
    /// Any bytes at all, also none, and the end (`**` after the first byte of a pattern).
    Rest,
    /// The end, or `/`, any bytes at all and the end (`/**`).
    Below,
    // Where arguments follow a path, all of them with a NUL at their end, that NUL is in nothing that a wildcard
    // stands for. These take the place of the ones above.
    /// `*` in the path.
    Name,
    /// `**/` in the path.
    DeepName,
    /// `**` at the end of the path.
    NameRest,
    /// `*` in an argument.
    Text,
    /// Any number of whole arguments, each with its NUL (`**`).
    Arguments,
    /// The same at the end of the arguments.
    ArgumentsRest,
}

/// A set of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    /// Every byte.
    pub const ALL: Self = Self([u64::MAX; 4]);
    /// No byte.
    pub const NONE: Self = Self([0; 4]);

    /// The bytes from `low` to `high`, both included.
    pub fn range(low: u8, high: u8) -> Self {
        let mut set = Self::NONE;
        (low..=high).for_each(|byte| set.insert(byte));
        set
    }

    pub fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub fn remove(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] &= !(1 << (byte & 63));
    }

    pub fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & 1 << (byte & 63) != 0
    }

    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    #[must_use]
    pub fn complement(&self) -> Self {
        Self(self.0.map(|word| !word))
    }

    pub fn extend(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
    }

    /// Whether a byte is in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(other.0)
            .any(|(word, other)| word & other != 0)
    }

    /// The bytes in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> {
        self.0
            .into_iter()
            .zip([0, 64, 128, 192])
            .flat_map(|(word, front)| {
                let mut word = word;
                std::iter::from_fn(move || {
                    let bit = word.trailing_zeros();
                    word &= word.wrapping_sub(1);
                    (bit < 64).then(|| front + bit as u8)
                })
            })
    }

    /// The set as a token: a single byte is one.
    pub fn token(self) -> Token {
        let mut bytes = self.iter();
        match (bytes.next(), bytes.next()) {
            (Some(byte), None) => Token::Byte(byte),
            _ => Token::Set(self),
        }
    }
}

impl fmt::Debug for ByteSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes:", self.len())?;
        for byte in self.iter().take(8) {
            write!(f, " {byte:02x}")?;
        }
        f.write_str("]")
    }
}
