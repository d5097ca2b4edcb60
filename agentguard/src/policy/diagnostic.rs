//! What is wrong with a policy: where, why, and what to write instead. For people on a terminal (through
//! `miette`), for people reading a file of messages, and as JSON for editors and scripts.

use std::{fmt, sync::Arc};

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};
use serde::Serialize;

use super::source::{Source, SourceError, Span};

/// Longest excerpt of offending text in a message, in characters.
const EXCERPT: usize = 72;
/// Longest line that is drawn whole.
const DRAWN_LINE_BYTES: usize = 512;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The profile can't be used.
    Error,
    /// The profile can be used, but probably doesn't say what was meant.
    Warning,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// A short name of the kind of finding, stable for scripts.
    pub code: &'static str,
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// The file's name as it was opened.
    pub file: String,
    /// From 1; 0 when the finding is about the whole file.
    pub line: u32,
    /// In characters, from 1; 0 when the finding is about the whole file.
    pub column: u32,
    /// The offending text, shortened.
    pub text: String,
    place: Option<(Arc<Source>, Span)>,
}

/// How findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Drawn with colours, for a terminal.
    Graphical,
    /// `file:line:column: severity: message`, the line, and help.
    Plain,
}

/// Everything found in a set of files, in the order of files and places.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostic {
    /// A finding at a place of a file.
    pub(super) fn at(
        source: &Arc<Source>,
        span: Span,
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) -> Self {
        let (line, column) = source.position(span.start);
        Self {
            severity,
            code,
            message: message.into(),
            help: help.into(),
            file: source.name.clone(),
            line,
            column,
            text: excerpt(source.text.get(span.clone()).unwrap_or_default()),
            place: Some((source.clone(), span)),
        }
    }

    /// A finding about a whole file, or about a place that has none.
    pub(super) fn whole_file(
        file: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            help: help.into(),
            file: file.into(),
            line: 0,
            column: 0,
            text: String::new(),
            place: None,
        }
    }

    /// The same, of what doesn't keep a profile from being used.
    pub(super) fn whole_file_warning(
        file: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::whole_file(file, code, message, help)
        }
    }

    fn plain(&self, out: &mut String) {
        out.push_str(&self.file);
        if self.line != 0 {
            out.push_str(&format!(":{}:{}", self.line, self.column));
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        out.push_str(&format!(": {severity}[{}]: {}\n", self.code, self.message));
        if let Some((source, span)) = &self.place {
            let line = source.line(self.line);
            if line.len() <= DRAWN_LINE_BYTES {
                let number = self.line.to_string();
                let in_line = span.end.saturating_sub(span.start).min(line.len());
                let marked = source.text[span.start..]
                    .chars()
                    .scan(0, |taken, c| {
                        *taken += c.len_utf8();
                        (*taken <= in_line && c != '\n').then_some(c)
                    })
                    .count()
                    .max(1);
                let pad: String = line
                    .chars()
                    .take(self.column as usize - 1)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                let gap = " ".repeat(number.len());
                out.push_str(&format!(
                    " {number} | {line}\n {gap} | {pad}{}\n",
                    "^".repeat(marked)
                ));
            } else {
                out.push_str(&format!("   | {}\n", self.text));
            }
        }
        if let Some(help) = &self.help {
            out.push_str(&format!("   = help: {help}\n"));
        }
    }

    fn graphical(&self, out: &mut String) {
        let drawable = self
            .place
            .as_ref()
            .is_some_and(|(source, _)| source.line(self.line).len() <= DRAWN_LINE_BYTES);
        if !drawable {
            return self.plain(out);
        }
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode())
            .with_links(false)
            .with_context_lines(1);
        let mut drawn = String::new();
        match handler.render_report(&mut drawn, &Report::new(self)) {
            Ok(()) => out.push_str(&drawn),
            Err(fmt::Error) => self.plain(out),
        }
    }
}

impl Diagnostics {
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.list.extend(other.list);
    }

    /// Adds the findings that aren't there yet: a file that several profiles include is looked at for
    /// each of them.
    pub fn extend_new(&mut self, other: Self) {
        for diagnostic in other.list {
            let same = |known: &Diagnostic| {
                (&known.file, known.line, known.column, &known.message)
                    == (
                        &diagnostic.file,
                        diagnostic.line,
                        diagnostic.column,
                        &diagnostic.message,
                    )
            };
            if !self.list.iter().any(same) {
                self.list.push(diagnostic);
            }
        }
    }

    /// Sorts by place within each file, files staying in the order in which they were read.
    pub(super) fn sort(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for diagnostic in &self.list {
            if !files.contains(&diagnostic.file) {
                files.push(diagnostic.file.clone());
            }
        }
        self.list.sort_by_key(|diagnostic| {
            let file = files.iter().position(|file| *file == diagnostic.file);
            (file, diagnostic.line, diagnostic.column)
        });
    }

    /// The findings in order.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.list
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    }

    /// All findings as text.
    pub fn render(&self, style: Style) -> String {
        let mut out = String::new();
        for diagnostic in &self.list {
            match style {
                Style::Graphical => diagnostic.graphical(&mut out),
                Style::Plain => diagnostic.plain(&mut out),
            }
        }
        out
    }

    /// All findings as JSON objects.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        self.list
            .iter()
            .map(|diagnostic| {
                serde_json::json!({
                    "severity": diagnostic.severity,
                    "code": diagnostic.code,
                    "message": diagnostic.message,
                    "help": diagnostic.help,
                    "file": diagnostic.file,
                    "line": (diagnostic.line != 0).then_some(diagnostic.line),
                    "column": (diagnostic.column != 0).then_some(diagnostic.column),
                    "text": diagnostic.text,
                })
            })
            .collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Style::Plain).trim_end())
    }
}

impl std::error::Error for Diagnostics {}

impl From<SourceError> for Diagnostic {
    fn from(error: SourceError) -> Self {
        let message = error.to_string();
        match error {
            SourceError::Read { name, .. } => Self::whole_file(name, "unreadable", message, None),
            SourceError::TooLong { name, .. } => Self::whole_file(
                name,
                "too-long",
                message,
                "split it into profiles that include each other".to_owned(),
            ),
            SourceError::NotUtf8 {
                name,
                line,
                column,
                byte,
                ..
            } => Self {
                line,
                column,
                text: format!("\\x{byte:02x}"),
                ..Self::whole_file(
                    name,
                    "not-utf8",
                    message,
                    "save the file as UTF-8; a byte of a path that is none is matched by `?`"
                        .to_owned(),
                )
            },
        }
    }
}

/// A finding in the shape that `miette` draws.
#[derive(Debug)]
struct Report<'a> {
    diagnostic: &'a Diagnostic,
    source: Option<NamedSource<String>>,
}

impl<'a> Report<'a> {
    fn new(diagnostic: &'a Diagnostic) -> Self {
        Self {
            diagnostic,
            source: diagnostic
                .place
                .as_ref()
                .map(|(source, _)| NamedSource::new(&source.name, source.text.clone())),
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn code(&self) -> Option<Box<dyn fmt::Display + '_>> {
        Some(Box::new(self.diagnostic.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        let help = self.diagnostic.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source
            .as_ref()
            .map(|source| source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, span) = self.diagnostic.place.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::underline(
            span.clone(),
        ))))
    }
}

/// The beginning of a text on one line, for messages.
pub(super) fn excerpt(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut out: String = chars.by_ref().take(EXCERPT).collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}
