//! Reads values out of a parsed TOML file and collects what is wrong with them, so that one run shows
//! every mistake. Knows types and words, not what they mean.

use std::{ops::Range, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::policy::{
    diagnostic::{Diagnostic, Diagnostics, Severity, excerpt},
    pattern::PatternError,
    source::{Source, Span},
};

/// A value with its place.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

pub(super) struct Reader {
    pub source: Arc<Source>,
    pub diagnostics: Diagnostics,
}

impl Reader {
    pub fn error(
        &mut self,
        span: Span,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics.push(Diagnostic::at(
            &self.source,
            span,
            Severity::Error,
            code,
            message,
            Some(help.into()),
        ));
    }

    pub fn warning(
        &mut self,
        span: Span,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics.push(Diagnostic::at(
            &self.source,
            span,
            Severity::Warning,
            code,
            message,
            Some(help.into()),
        ));
    }

    fn wrong_type(&mut self, what: &str, value: &Value, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(
            value.span(),
            "wrong-type",
            format!("`{what}` is {found}, not {wanted}"),
            format!("write {wanted}"),
        );
    }

    pub fn string<'v>(&mut self, what: &str, value: &'v Value) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(what, value, "a string in quotes");
        }
        text
    }

    pub fn boolean(&mut self, what: &str, value: &Value) -> Option<bool> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(what, value, "true or false");
        }
        boolean
    }

    pub fn table<'v, 'i>(&mut self, what: &str, value: &'v Value<'i>) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(what, value, "a table");
        }
        table
    }

    /// The tables of `[[what]]`.
    pub fn tables<'v, 'i>(
        &mut self,
        what: &str,
        value: &'v Value<'i>,
    ) -> Vec<(&'v DeTable<'i>, Span)> {
        let Some(array) = value.get_ref().as_array() else {
            self.error(
                value.span(),
                "wrong-type",
                format!("`{what}` is a list of tables"),
                format!("write [[{what}]]"),
            );
            return Vec::new();
        };
        array
            .iter()
            .filter_map(|element| Some((self.table(what, element)?, element.span())))
            .collect()
    }

    /// A string, or a list of at least one string.
    pub fn strings<'v>(&mut self, what: &str, value: &'v Value) -> Option<Vec<(&'v str, Span)>> {
        match value.get_ref() {
            DeValue::String(text) => Some(vec![(text.as_ref(), value.span())]),
            DeValue::Array(array) if array.is_empty() => {
                self.error(
                    value.span(),
                    "empty-list",
                    format!("`{what}` is an empty list"),
                    "write at least one element, or leave the key out",
                );
                None
            }
            DeValue::Array(array) => {
                let mut strings = Vec::with_capacity(array.len());
                for element in array.iter() {
                    strings.push((self.string(what, element)?, element.span()));
                }
                Some(strings)
            }
            _ => {
                self.wrong_type(what, value, "a string in quotes or a list of them");
                None
            }
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(
        &mut self,
        what: &str,
        text: &str,
        span: Span,
        words: &[(&str, T)],
    ) -> Option<T> {
        let word = words.iter().find(|(word, _)| *word == text);
        if word.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let help = match nearest(text, &names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write {}", or_list(&names)),
            };
            self.error(
                span,
                "bad-value",
                format!("`{}` is not a value of `{what}`", excerpt(text)),
                help,
            );
        }
        word.map(|(_, value)| *value)
    }

    /// Reports a key that means nothing in this place.
    pub fn unknown_key(&mut self, key: &str, span: Span, place: &str, known: &[&str]) {
        let help = match nearest(key, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys of {place} are {}", and_list(known)),
        };
        self.error(
            span,
            "unknown-key",
            format!("unknown key `{}` in {place}", excerpt(key)),
            help,
        );
    }

    /// Reports a bad pattern at the exact place inside of the string.
    pub fn pattern_error(&mut self, error: PatternError, text: &str, span: Span) {
        let at = self.within(span, text, error.at.clone());
        let message = format!("{} in \"{}\"", error.message, excerpt(text));
        self.error(at, "bad-pattern", message, error.help);
    }

    /// The place of some bytes of a string. The whole string, when it is written with escapes.
    pub fn within(&self, span: Span, text: &str, at: Range<usize>) -> Span {
        let start = span.start + 1;
        let verbatim = self
            .source
            .text
            .get(start..span.end.saturating_sub(1))
            .is_some_and(|inner| inner == text);
        if verbatim && !at.is_empty() {
            start + at.start..start + at.end
        } else {
            span
        }
    }
}

/// The word that was probably meant.
pub(in crate::policy) fn nearest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    words
        .iter()
        .map(|word| (strsim::jaro_winkler(text, word), *word))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

fn or_list(words: &[&str]) -> String {
    list(words, "\"", "or")
}

fn and_list(words: &[&str]) -> String {
    list(words, "`", "and")
}

fn list(words: &[&str], quote: &str, last: &str) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("{quote}{word}{quote}"))
        .collect();
    match quoted.split_last() {
        Some((end, [])) => end.clone(),
        Some((end, front)) => format!("{} {last} {end}", front.join(", ")),
        None => String::new(),
    }
}
