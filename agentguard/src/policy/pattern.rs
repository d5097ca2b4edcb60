//! Path patterns: from the text in a policy file to tokens, and everything that can be wrong with the
//! text. Addresses have a grammar of their own (`address`).

use std::ops::Range;

use super::tokens::{ByteSet, Pattern, Token};

/// Longest pattern, in bytes. A path that can be judged has 4,095 at most.
pub const PATTERN_BYTES: usize = 4096;
/// Most patterns that the `{a,b}` of one pattern may stand for.
pub const ALTERNATIVES: usize = 1024;
/// Deepest nesting of `{a,b}`.
const NESTING: usize = 8;

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatternError {
    /// The offending bytes of the pattern's text.
    pub at: Range<usize>,
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl PatternError {
    pub(super) fn new(
        at: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            at,
            message: message.into(),
            help: help.into(),
        }
    }
}

/// What a pattern's text must begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// A path: `/` or `**/`.
    Path,
    /// The path or pseudo-path (`memfd:`, `deleted:`) of a program.
    Program,
    /// The name of an abstract Unix socket, with the `@` in front that stands for its NUL.
    Abstract,
}

/// The pseudo-paths of programs that have no path.
const PSEUDO_PATHS: [&str; 2] = ["memfd:", "deleted:"];

/// Whether this is the pseudo-path of a program that has no path.
pub(super) fn is_pseudo_path(text: &[u8]) -> bool {
    PSEUDO_PATHS.iter().any(|path| path.as_bytes() == text)
}

/// Parses a path pattern.
pub(super) fn parse(text: &str, space: Space) -> Result<Pattern, PatternError> {
    if text.len() > PATTERN_BYTES {
        return Err(PatternError::new(
            0..text.len(),
            format!(
                "pattern is {} bytes long, more than the {PATTERN_BYTES} that are read",
                text.len()
            ),
            "write a shorter one; no path that a process can name is longer",
        ));
    }
    if space == Space::Program && is_pseudo_path(text.as_bytes()) {
        return Ok(Pattern {
            alternatives: vec![text.bytes().map(Token::Byte).collect()],
        });
    }
    check_start(text, space)?;
    let mut lexer = Lexer {
        text,
        at: 0,
        argument: false,
    };
    let items = lexer.sequence(0)?;
    let mut alternatives = Vec::new();
    for flat in expand(&items, text)? {
        let tokens = assemble(&flat, space, text)?;
        if !alternatives.contains(&tokens) {
            alternatives.push(tokens);
        }
    }
    Ok(Pattern { alternatives })
}

/// Parses the pattern of one argument, in which `/` is a byte like any other. `**` stands for any number of
/// arguments, and only alone.
pub(super) fn parse_argument(text: &str) -> Result<Pattern, PatternError> {
    if text.len() > PATTERN_BYTES {
        return Err(PatternError::new(
            0..text.len(),
            format!(
                "pattern is {} bytes long, more than the {PATTERN_BYTES} that are read",
                text.len()
            ),
            "write a shorter one; no argument that can be judged is longer",
        ));
    }
    let mut lexer = Lexer {
        text,
        at: 0,
        argument: true,
    };
    let items = lexer.sequence(0)?;
    let mut alternatives = Vec::new();
    for flat in expand(&items, text)? {
        let tokens = match flat[..] {
            [Item::DoubleStar { .. }] => vec![Token::Arguments],
            _ => flat.iter().map(argument_token).collect::<Result<_, _>>()?,
        };
        if !alternatives.contains(&tokens) {
            alternatives.push(tokens);
        }
    }
    Ok(Pattern { alternatives })
}

fn argument_token(item: &Item) -> Result<Token, PatternError> {
    Ok(match item {
        Item::Byte { byte, .. } => Token::Byte(*byte),
        Item::Slash { .. } => Token::Byte(b'/'),
        Item::Set { set, .. } => set.token(),
        // `expand` leaves no groups.
        Item::Star { .. } | Item::Group { .. } => Token::Text,
        Item::DoubleStar { at } => {
            return Err(PatternError::new(
                *at..at + 2,
                "`**` stands for any number of whole arguments",
                "write `*` for a part of one argument, or \"**\" as an element of its own",
            ));
        }
    })
}

/// Refuses what can't be the beginning of a pattern, with a word on the usual mistakes.
fn check_start(text: &str, space: Space) -> Result<(), PatternError> {
    let whole = 0..text.len();
    if text.is_empty() {
        return Err(PatternError::new(
            whole,
            "empty pattern",
            "write an absolute path such as \"/etc/shadow\"",
        ));
    }
    if space == Space::Abstract {
        return Ok(());
    }
    if let Some(rest) = text.strip_prefix('~') {
        let rest = rest.trim_start_matches(|c: char| c != '/');
        return Err(PatternError::new(
            0..text.len() - rest.len(),
            "`~` is not expanded: the daemon's home is not the agent's",
            format!("write \"/home/*{rest}\" and \"/root{rest}\""),
        ));
    }
    if text.starts_with('/') || text.starts_with("**/") || text.starts_with('{') {
        return Ok(());
    }
    if text.starts_with('$') {
        // The lexer has the message for variables.
        return Ok(());
    }
    if text == "**" {
        return Err(PatternError::new(
            whole,
            "`**` alone is not a pattern",
            "write \"/**\" for every path",
        ));
    }
    let trimmed = text.trim_start_matches("./");
    Err(PatternError::new(
        whole,
        "relative pattern: a pattern begins with `/` or `**/`",
        format!("write \"/…/{trimmed}\" for one place or \"**/{trimmed}\" for every folder"),
    ))
}

/// A piece of a pattern's text.
#[derive(Clone, Debug)]
enum Item {
    Byte { byte: u8, at: usize },
    Slash { at: usize },
    Set { set: ByteSet, at: usize },
    Star { at: usize },
    DoubleStar { at: usize },
    Group { choices: Vec<Vec<Item>> },
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// It is an argument's, not a path's.
    argument: bool,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Items up to the end or, inside of braces, to the next `,` or `}`.
    fn sequence(&mut self, depth: usize) -> Result<Vec<Item>, PatternError> {
        let mut items = Vec::new();
        while let Some(byte) = self.peek() {
            let at = self.at;
            match byte {
                b',' | b'}' if depth > 0 => break,
                b'}' => {
                    return Err(PatternError::new(
                        at..at + 1,
                        "`}` without a `{`",
                        "write `\\}` for the character",
                    ));
                }
                b'{' => items.push(self.group(depth)?),
                b'[' => items.push(self.class()?),
                b'*' => items.push(self.stars()?),
                b'?' => {
                    let mut set = ByteSet::ALL;
                    set.remove(self.outside());
                    self.at += 1;
                    items.push(Item::Set { set, at });
                }
                b'\\' => {
                    let Some(escaped) = self.text.as_bytes().get(at + 1).copied() else {
                        return Err(PatternError::new(
                            at..at + 1,
                            "`\\` at the end escapes nothing",
                            "write `\\\\` for the character",
                        ));
                    };
                    self.at += 2;
                    items.push(self.byte(escaped, at)?);
                }
                b'$' if self.is_variable() => {
                    let rest = &self.text[at + 1..];
                    let end = rest
                        .find(|c: char| !(c.is_ascii_alphanumeric() || "_{}".contains(c)))
                        .unwrap_or(rest.len());
                    return Err(PatternError::new(
                        at..at + 1 + end,
                        "environment variables are not expanded: the daemon's are not the agent's",
                        "write the path itself, `*` for what varies, or `\\$` for the character",
                    ));
                }
                _ => {
                    self.at += 1;
                    items.push(self.byte(byte, at)?);
                }
            }
        }
        Ok(items)
    }

    /// The byte that no wildcard and no class matches.
    fn outside(&self) -> u8 {
        if self.argument { 0 } else { b'/' }
    }

    fn byte(&self, byte: u8, at: usize) -> Result<Item, PatternError> {
        match byte {
            b'/' => Ok(Item::Slash { at }),
            0 => Err(PatternError::new(
                at..at + 1,
                if self.argument {
                    "an argument can't hold a NUL byte"
                } else {
                    "a path can't hold a NUL byte"
                },
                "leave it out",
            )),
            _ => Ok(Item::Byte { byte, at }),
        }
    }

    fn is_variable(&self) -> bool {
        self.text
            .as_bytes()
            .get(self.at + 1)
            .is_some_and(|next| next.is_ascii_alphabetic() || matches!(next, b'_' | b'{'))
    }

    fn stars(&mut self) -> Result<Item, PatternError> {
        let at = self.at;
        while self.peek() == Some(b'*') {
            self.at += 1;
        }
        match self.at - at {
            1 => Ok(Item::Star { at }),
            2 => Ok(Item::DoubleStar { at }),
            _ => Err(PatternError::new(
                at..self.at,
                "more than two `*` in a row",
                if self.argument {
                    "write `*` for a part of one argument or `**` for any number of arguments"
                } else {
                    "write `*` for a part of one component or `**` for any number of components"
                },
            )),
        }
    }

    fn group(&mut self, depth: usize) -> Result<Item, PatternError> {
        let start = self.at;
        if depth == NESTING {
            return Err(PatternError::new(
                start..start + 1,
                format!("`{{` nested more than {NESTING} deep"),
                "write several patterns",
            ));
        }
        let mut choices = Vec::new();
        loop {
            self.at += 1;
            choices.push(self.sequence(depth + 1)?);
            match self.peek() {
                Some(b',') => {}
                Some(_) => break,
                None => {
                    return Err(PatternError::new(
                        start..start + 1,
                        "`{` without a `}`",
                        "close it, or write `\\{` for the character",
                    ));
                }
            }
        }
        self.at += 1;
        Ok(Item::Group { choices })
    }

    fn class(&mut self) -> Result<Item, PatternError> {
        let start = self.at;
        let unclosed = || {
            PatternError::new(
                start..start + 1,
                "`[` without a `]`",
                "close it, or write `\\[` for the character",
            )
        };
        self.at += 1;
        let negated = self.peek() == Some(b'!');
        if negated {
            self.at += 1;
        } else if self.peek() == Some(b'^') {
            return Err(PatternError::new(
                self.at..self.at + 1,
                "`[^` is not how a class is turned around here",
                "write `[!`, or `\\^` for the character",
            ));
        }
        let mut set = ByteSet::NONE;
        let first = self.at;
        loop {
            let at = self.at;
            match self.peek().ok_or_else(unclosed)? {
                b']' if at > first => break,
                _ => {}
            }
            let low = self.class_byte().ok_or_else(unclosed)??;
            let bytes = self.text.as_bytes();
            let is_range = self.peek() == Some(b'-') && bytes.get(self.at + 1) != Some(&b']');
            let high = if is_range {
                self.at += 1;
                self.class_byte().ok_or_else(unclosed)??
            } else {
                low
            };
            if low > high {
                return Err(PatternError::new(
                    at..self.at,
                    "the range's end is before its beginning",
                    "write the lower byte first",
                ));
            }
            set.extend(&ByteSet::range(low, high));
        }
        self.at += 1;
        if negated {
            set = set.complement();
        }
        set.remove(self.outside());
        if set.is_empty() {
            return Err(PatternError::new(
                start..self.at,
                if self.argument {
                    "a class that no byte is in"
                } else {
                    "a class that no byte is in (`/` never is)"
                },
                "write the bytes that may stand here",
            ));
        }
        Ok(Item::Set { set, at: start })
    }

    /// One byte of a class, escaped or not. `None` at the end of the text.
    fn class_byte(&mut self) -> Option<Result<u8, PatternError>> {
        let at = self.at;
        let mut byte = self.peek()?;
        self.at += 1;
        if byte == b'\\' {
            byte = self.peek()?;
            self.at += 1;
        }
        if !byte.is_ascii() {
            let end = (at + 1..=self.text.len())
                .find(|end| self.text.is_char_boundary(*end))
                .unwrap_or(self.text.len());
            return Some(Err(PatternError::new(
                at..end,
                "a class holds single bytes, and this character has several",
                "write alternatives such as `{é,è}`",
            )));
        }
        if byte == b'/' && !self.argument {
            return Some(Err(PatternError::new(
                at..self.at,
                "a class never matches `/`",
                "leave it out",
            )));
        }
        Some(Ok(byte))
    }
}

/// The sequences without groups that a sequence stands for.
fn expand(items: &[Item], text: &str) -> Result<Vec<Vec<Item>>, PatternError> {
    let mut flat = vec![Vec::new()];
    for item in items {
        let Item::Group { choices } = item else {
            flat.iter_mut()
                .for_each(|sequence| sequence.push(item.clone()));
            continue;
        };
        let mut tails = Vec::new();
        for choice in choices {
            tails.extend(expand(choice, text)?);
        }
        if flat.len() * tails.len() > ALTERNATIVES {
            return Err(PatternError::new(
                0..text.len(),
                format!("the `{{…}}` stand for more than {ALTERNATIVES} patterns"),
                "use `*` or fewer alternatives",
            ));
        }
        flat = flat
            .iter()
            .flat_map(|head: &Vec<Item>| {
                tails.iter().map(move |tail| {
                    let mut sequence = head.clone();
                    sequence.extend(tail.iter().cloned());
                    sequence
                })
            })
            .collect();
    }
    Ok(flat)
}

/// Tokens of a sequence without groups, after a check of its components.
fn assemble(items: &[Item], space: Space, text: &str) -> Result<Vec<Token>, PatternError> {
    let end = text.len();
    let mut tokens = Vec::with_capacity(items.len());
    let mut rest = items;
    match (space, items) {
        (Space::Abstract, [Item::Byte { byte: b'@', .. }, tail @ ..]) => {
            tokens.push(Token::Byte(b'@'));
            rest = tail;
        }
        (_, [Item::Slash { .. }, tail @ ..]) => {
            tokens.push(Token::Byte(b'/'));
            rest = tail;
        }
        // `**/x` is `/**/x`: every path begins with a `/`.
        (_, [Item::DoubleStar { .. }, Item::Slash { .. }, ..]) => tokens.push(Token::Byte(b'/')),
        _ => {
            return Err(PatternError::new(
                0..end,
                "relative pattern: every alternative begins with `/` or `**/`",
                "put the `/` in front of the `{`",
            ));
        }
    }
    if rest.is_empty() {
        // The root directory, or the abstract socket without a name.
        return Ok(tokens);
    }
    let components: Vec<&[Item]> = rest
        .split(|item| matches!(item, Item::Slash { .. }))
        .collect();
    let last = components.len() - 1;
    let mut deep = false;
    for (number, component) in components.iter().enumerate() {
        if matches!(component, [Item::DoubleStar { .. }]) {
            // `**/**` is `**`.
            deep = true;
            if number == last {
                close(&mut tokens);
            }
            continue;
        }
        if space != Space::Abstract {
            check_component(component, number == last, items, text)?;
        }
        if deep {
            tokens.push(Token::Deep);
            deep = false;
        }
        for item in *component {
            tokens.push(match item {
                Item::Byte { byte, .. } => Token::Byte(*byte),
                Item::Set { set, .. } => set.token(),
                Item::Star { .. } => Token::Star,
                Item::DoubleStar { at } => {
                    return Err(PatternError::new(
                        *at..at + 2,
                        "`**` stands for whole components only",
                        "write `*` for a part of one component, or `/**/` between slashes",
                    ));
                }
                Item::Slash { .. } | Item::Group { .. } => continue,
            });
        }
        if number != last {
            tokens.push(Token::Byte(b'/'));
        }
    }
    Ok(tokens)
}

/// Ends a pattern with `**`: the `/` in front of it, if it isn't the pattern's first byte, is only
/// needed when something follows.
fn close(tokens: &mut Vec<Token>) {
    if tokens.len() > 1 && tokens.last() == Some(&Token::Byte(b'/')) {
        tokens.pop();
        tokens.push(Token::Below);
    } else {
        tokens.push(Token::Rest);
    }
}

/// Refuses components that no resolved path has.
fn check_component(
    component: &[Item],
    is_last: bool,
    items: &[Item],
    text: &str,
) -> Result<(), PatternError> {
    let offset = |item: &Item| match item {
        Item::Byte { at, .. }
        | Item::Slash { at }
        | Item::Set { at, .. }
        | Item::Star { at }
        | Item::DoubleStar { at } => *at,
        Item::Group { .. } => 0,
    };
    match component {
        [] if is_last => {
            let at = items.last().map_or(0, offset);
            Err(PatternError::new(
                at..at + 1,
                "a path does not end with `/`",
                "leave it out for the folder itself, or write `/**` for it and everything below",
            ))
        }
        [] => Err(PatternError::new(
            0..text.len(),
            "`//` is in no resolved path",
            "write one `/`",
        )),
        [Item::Byte { byte: b'.', at }] => Err(PatternError::new(
            *at..at + 1,
            "`.` is in no resolved path",
            "leave the component out",
        )),
        [Item::Byte { byte: b'.', at }, Item::Byte { byte: b'.', .. }] => Err(PatternError::new(
            *at..at + 2,
            "`..` is in no resolved path",
            "write the folder that it leads to",
        )),
        [first, ..] if component.len() > 255 && is_literal(component) => {
            let at = offset(first);
            Err(PatternError::new(
                at..at + component.len(),
                format!(
                    "a name of {} bytes; a file's has 255 at most",
                    component.len()
                ),
                "write a shorter one",
            ))
        }
        _ => Ok(()),
    }
}

fn is_literal(component: &[Item]) -> bool {
    component
        .iter()
        .all(|item| matches!(item, Item::Byte { .. }))
}
