//! Whether there is a text that two patterns both match.

use std::collections::BTreeSet;

use crate::policy::tokens::{ByteSet, Token};

/// Whether some text matches both.
pub(in crate::policy) fn overlap(a: &[Token], b: &[Token]) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![(Position::START, Position::START)];
    while let Some((in_a, in_b)) = open.pop() {
        if !seen.insert((in_a, in_b)) {
            continue;
        }
        if in_a.is_end(a) && in_b.is_end(b) {
            return true;
        }
        let (by_a, by_b) = (in_a.moves(a), in_b.moves(b));
        for next in &by_a {
            match next {
                Move::Free(next) => open.push((*next, in_b)),
                Move::Byte(bytes, next_a) => {
                    for other in &by_b {
                        if let Move::Byte(others, next_b) = other
                            && bytes.meets(others)
                        {
                            open.push((*next_a, *next_b));
                        }
                    }
                }
            }
        }
        for next in &by_b {
            if let Move::Free(next) = next {
                open.push((in_a, *next));
            }
        }
    }
    false
}

/// A place in a pattern: in front of a token, or inside of what a `**` stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    token: usize,
    inside: bool,
}

#[derive(Clone, Copy)]
enum Move {
    Free(Position),
    Byte(ByteSet, Position),
}

impl Position {
    const START: Self = Self {
        token: 0,
        inside: false,
    };

    fn next(self) -> Self {
        Self {
            token: self.token + 1,
            inside: false,
        }
    }

    fn inside(self) -> Self {
        Self {
            inside: true,
            ..self
        }
    }

    fn is_end(self, tokens: &[Token]) -> bool {
        match tokens.get(self.token) {
            None | Some(Token::Rest | Token::Below | Token::ArgumentsRest) => true,
            Some(_) => false,
        }
    }

    fn moves(self, tokens: &[Token]) -> Vec<Move> {
        let slash = ByteSet::range(b'/', b'/');
        let nul = ByteSet::range(0, 0);
        let text = nul.complement();
        let mut name = text;
        name.remove(b'/');
        let star = |bytes| vec![Move::Free(self.next()), Move::Byte(bytes, self)];
        let pieces = |bytes, separator| {
            let mut moves = vec![
                Move::Byte(bytes, self.inside()),
                Move::Byte(separator, self.next()),
            ];
            if !self.inside {
                moves.push(Move::Free(self.next()));
            }
            moves
        };
        match tokens.get(self.token) {
            None => Vec::new(),
            Some(Token::Byte(byte)) => vec![Move::Byte(ByteSet::range(*byte, *byte), self.next())],
            Some(Token::Set(set)) => vec![Move::Byte(*set, self.next())],
            Some(Token::Star) => star(slash.complement()),
            Some(Token::Name) => star(name),
            Some(Token::Text | Token::NameRest) => star(text),
            Some(Token::Deep) => pieces(ByteSet::ALL, slash),
            Some(Token::DeepName) => pieces(text, slash),
            Some(Token::Arguments) => pieces(ByteSet::ALL, nul),
            Some(Token::Rest | Token::ArgumentsRest) => vec![Move::Byte(ByteSet::ALL, self)],
            Some(Token::Below) if self.inside => vec![Move::Byte(ByteSet::ALL, self)],
            Some(Token::Below) => vec![Move::Byte(slash, self.inside())],
        }
    }
}
