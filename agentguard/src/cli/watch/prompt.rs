//! What `agentguard watch` shows and what its keys mean. No terminal, no daemon.
//!
//! The person must be able to trust the screen. What an agent chose is escaped, stands behind a bar that it
//! can't draw itself, and never begins a line; what doesn't fit is said to be missing. And a key answers only
//! what the person can have read: one that comes too soon after the request on the screen has changed was
//! meant for the one before.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use jiff::Timestamp;
use unicode_width::UnicodeWidthChar as _;

use super::terminal::Size;
use crate::{
    api::{
        client,
        types::{Approval, Change, Decide, Decided, How, Scope},
    },
    cli::{
        approve::summary,
        pending,
        request::{self, Field, Source},
        style,
    },
    render::safe_escaped,
};

/// How long a request must have been on the screen before a key answers it.
const READING: Duration = Duration::from_millis(700);
/// What the key for a while gives.
const WHILE: Duration = Duration::from_secs(600);
/// Columns of the names of fields.
const NAMES: usize = 12;
/// Fewest columns and rows on which a request can be judged.
const SMALLEST: Size = Size {
    columns: 40,
    rows: 16,
};
/// Rows that aren't the request's fields: the heading, the legend, the keys, the latest note.
const FRAME: usize = 8;
/// What marks text that the agent chose.
const BAR: &str = "│ ";

/// The state of the prompt.
#[derive(Debug, Default)]
pub struct Prompt {
    /// Oldest first.
    requests: Vec<Approval>,
    skipped: BTreeSet<u64>,
    /// The request on the screen, and since when.
    shown: Option<(u64, Instant)>,
    /// The latest that happened; already escaped.
    note: Option<String>,
    /// How the policy was changed by the latest answer; shown until a key is pressed.
    diff: Vec<String>,
    /// Why there is no connection.
    lost: Option<String>,
    /// Whether the last screen was too small to judge by.
    small: bool,
}

/// What a key does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    Quit,
    Answer(u64, Decide),
}

impl Prompt {
    /// A new connection; what waits comes anew.
    pub fn connected(&mut self) {
        self.requests.clear();
        self.lost = None;
    }

    /// The connection is gone.
    pub fn lost(&mut self, why: &str) {
        self.lost = Some(safe_escaped(why).to_string());
    }

    pub fn change(&mut self, change: Change) {
        match change {
            Change::Asked(request) => {
                match self.requests.iter_mut().find(|old| old.id == request.id) {
                    Some(old) => *old = request,
                    None => self.requests.push(request),
                }
            }
            Change::Answered(answered) => {
                if self.remove(answered.id) {
                    self.note = Some(pending::answer(&answered));
                }
            }
            Change::Gone(gone) => {
                if self.remove(gone.id) {
                    self.note = Some(pending::end(gone));
                }
            }
        }
    }

    fn remove(&mut self, id: u64) -> bool {
        let before = self.requests.len();
        self.requests.retain(|request| request.id != id);
        self.skipped.remove(&id);
        self.requests.len() < before
    }

    /// What came of an answer.
    pub fn answered(&mut self, id: u64, result: Result<Decided, client::Error>) {
        self.note = Some(match result {
            Ok(decided) => {
                self.remove(id);
                self.diff = decided
                    .diff
                    .iter()
                    .flat_map(|diff| diff.lines())
                    .map(|line| safe_escaped(line).to_string())
                    .collect();
                summary(&decided)
            }
            Err(error) => format!("{id} not answered: {}", safe_escaped(&error.to_string())),
        });
    }

    fn current(&self) -> Option<&Approval> {
        self.requests
            .iter()
            .find(|request| !self.skipped.contains(&request.id))
    }

    /// Says that what is shown now is seen from `now` on, if it is another request than before.
    pub fn settle(&mut self, now: Instant) {
        if let Some(id) = self.current().map(|request| request.id)
            && self.shown.is_none_or(|(shown, _)| shown != id)
        {
            self.shown = Some((id, now));
        }
    }

    pub fn key(&mut self, key: KeyEvent, now: Instant) -> Effect {
        if key.kind != KeyEventKind::Press {
            return Effect::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Effect::Quit;
        }
        if !key.modifiers.is_empty() {
            return Effect::Nothing;
        }
        if !self.diff.is_empty() {
            self.diff.clear();
            // What comes next on the screen is seen from now on.
            self.shown = self.shown.map(|(id, _)| (id, now));
            return Effect::Nothing;
        }
        if key.code == KeyCode::Char('q') {
            return Effect::Quit;
        }
        let Some(id) = self.current().map(|request| request.id) else {
            if key.code == KeyCode::Char('s') {
                self.skipped.clear();
            }
            return Effect::Nothing;
        };
        let (approve, scope) = match key.code {
            KeyCode::Char('y') => (true, Scope::Once),
            KeyCode::Char('n') => (false, Scope::Once),
            KeyCode::Char('f') => (true, Scope::For(WHILE.as_secs())),
            KeyCode::Char('a') => (true, Scope::Always),
            KeyCode::Char('s') => {
                self.skipped.insert(id);
                return Effect::Nothing;
            }
            _ => return Effect::Nothing,
        };
        let seen = matches!(self.shown, Some((shown, since)) if shown == id && now.duration_since(since) >= READING);
        if !seen {
            self.note = Some(format!(
                "{id} has only just appeared: press the key again when you have read it"
            ));
            return Effect::Nothing;
        }
        if approve && self.small {
            self.note =
                Some("not everything is on the screen: make the terminal larger".to_owned());
            return Effect::Nothing;
        }
        Effect::Answer(
            id,
            Decide {
                approve,
                scope,
                reason: None,
                how: How::Cli,
            },
        )
    }

    /// The screen, line by line.
    pub fn screen(&mut self, size: Size, now: Timestamp) -> Vec<String> {
        self.small = size.columns < SMALLEST.columns || size.rows < SMALLEST.rows;
        let (strong, faint, warn) = (style::STRONG, style::FAINT, style::WARN);
        let mut lines = Vec::new();
        let waiting = self.requests.len();
        lines.push(format!(
            "{strong}agentguard watch{strong:#}  {waiting} waiting, {} skipped",
            self.skipped.len()
        ));
        if let Some(lost) = &self.lost {
            let text = cut(&format!("no daemon: {lost}"), size.columns);
            lines.push(format!("{warn}{text}{warn:#}"));
        } else {
            lines.push(String::new());
        }
        let mut keys = "[q] quit";
        if !self.diff.is_empty() {
            lines.push("The policy was changed:".to_owned());
            let room = size.rows.saturating_sub(FRAME);
            let shown = self.diff.iter().take(room);
            lines.extend(
                shown.map(|line| format!("  {}", cut(line, size.columns.saturating_sub(2)))),
            );
            if self.diff.len() > room {
                lines.push(format!("  … {} more lines", self.diff.len() - room));
            }
            keys = "[any key] go on";
        } else if let Some(request) = self.current().cloned() {
            let left = request::time_left(&request.expires, now);
            lines.push(format!(
                "{strong}request {}{strong:#}  {warn}{left}{warn:#}",
                request.id
            ));
            let fields = request::fields(&request);
            let room = size.rows.saturating_sub(FRAME);
            match lay_out(&fields, size.columns, room) {
                Some(body) if !self.small => {
                    lines.extend(body);
                    lines.push(format!(
                        "{faint}{:NAMES$}{BAR}marks what the agent chose{faint:#}",
                        ""
                    ));
                    keys = "[y] yes, once  [n] no  [f] for 10 min  [a] always  [s] skip  [q] quit";
                }
                _ => {
                    self.small = true;
                    lines.push("the terminal is too small to show it".to_owned());
                    keys = "[n] no  [s] skip  [q] quit";
                }
            }
        } else if self.skipped.is_empty() {
            lines.push("nothing waits for an answer".to_owned());
        } else {
            lines.push("all that waits was skipped".to_owned());
            keys = "[s] show again  [q] quit";
        }
        lines.push(String::new());
        lines.push(format!("{strong}{}{strong:#}", cut(keys, size.columns)));
        if let Some(note) = &self.note {
            lines.push(cut(note, size.columns));
        }
        lines.truncate(size.rows);
        lines
    }
}

/// The fields over at most `room` lines; `None` when there are more fields.
fn lay_out(fields: &[Field], columns: usize, room: usize) -> Option<Vec<String>> {
    let width = columns.checked_sub(NAMES + 2).filter(|width| *width > 0)?;
    let wrapped: Vec<Vec<String>> = fields
        .iter()
        .map(|field| wrap(&field.text, width))
        .collect();
    // The longest fields give way first.
    let most = (1..=room).rev().find(|most| {
        wrapped
            .iter()
            .map(|lines| lines.len().min(*most))
            .sum::<usize>()
            <= room
    })?;
    let (faint, warn) = (style::FAINT, style::WARN);
    let mut out = Vec::new();
    for (field, lines) in fields.iter().zip(&wrapped) {
        for (number, line) in clip(lines, most, width).iter().enumerate() {
            let name = if number == 0 { field.name } else { "" };
            out.push(match field.source {
                Source::Trusted => format!("{faint}{name:NAMES$}{faint:#}  {line}"),
                Source::Seen => format!("{faint}{name:NAMES$}{faint:#}{warn}{BAR}{warn:#}{line}"),
                Source::Claimed => format!("{warn}{name:NAMES$}{BAR}{warn:#}{line}"),
            });
        }
    }
    Some(out)
}

/// At most so many of the lines; of more, how many characters are missing.
fn clip(lines: &[String], most: usize, width: usize) -> Vec<String> {
    if lines.len() <= most {
        return lines.to_vec();
    }
    let kept = most.saturating_sub(1);
    let missing: usize = lines[kept..].iter().map(|line| line.chars().count()).sum();
    let warn = style::WARN;
    let text = cut(
        &format!("… {missing} characters more: agentguard pending"),
        width,
    );
    let mut out = lines[..kept].to_vec();
    out.push(format!("{warn}{text}{warn:#}"));
    out
}

/// The text over lines of at most so many columns.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut columns = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if columns + wide > width {
            lines.push(std::mem::take(&mut line));
            columns = 0;
        }
        line.push(c);
        columns += wide;
    }
    lines.push(line);
    lines
}

/// As much of the text as fits.
fn cut(text: &str, width: usize) -> String {
    wrap(text, width.max(2)).swap_remove(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        api::types::{Answered, Gone, GoneWhy},
        cli::request::tests::request,
    };

    const SIZE: Size = Size {
        columns: 72,
        rows: 24,
    };

    fn now() -> Timestamp {
        "2026-11-20T10:16:00Z".parse().expect("a time")
    }

    fn screen(prompt: &mut Prompt, size: Size) -> Vec<String> {
        prompt
            .screen(size, now())
            .iter()
            .map(|line| anstream::adapter::strip_str(line).to_string())
            .collect()
    }

    fn asked(requests: impl IntoIterator<Item = Approval>) -> (Prompt, Instant) {
        let mut prompt = Prompt::default();
        prompt.connected();
        for request in requests {
            prompt.change(Change::Asked(request));
        }
        let start = Instant::now();
        prompt.settle(start);
        (prompt, start + READING)
    }

    fn numbered(id: u64) -> Approval {
        Approval { id, ..request() }
    }

    fn press(prompt: &mut Prompt, c: char, now: Instant) -> Effect {
        prompt.key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE), now)
    }

    fn decided(id: u64) -> Decided {
        Decided {
            id,
            approved: true,
            scope: Scope::Once,
            diff: None,
        }
    }

    #[test]
    fn a_request_and_what_can_be_said_to_it() {
        let (mut prompt, _) = asked([Approval {
            justification: Some("The issue says so.".to_owned()),
            ..request()
        }]);
        assert_eq!(
            screen(&mut prompt, SIZE),
            [
                "agentguard watch  1 waiting, 0 skipped",
                "",
                "request 17  42 s left",
                "agent         alice (profile coding)",
                "action        net.connect",
                "object      │ tcp://192.0.2.7:443",
                "rule          ask-network",
                "because       Ask before leaving this machine.",
                "program     │ /usr/bin/curl -d 'a b' https://example.org",
                "in          │ /home/u/work",
                "user          u",
                "process     │ node[790] > bash[800] > curl[812]",
                "AGENT SAYS  │ The issue says so.",
                "            │ marks what the agent chose",
                "",
                "[y] yes, once  [n] no  [f] for 10 min  [a] always  [s] skip  [q] quit",
            ]
        );
    }

    #[test]
    fn each_key_is_one_answer() {
        for (key, approve, scope) in [
            ('y', true, Scope::Once),
            ('n', false, Scope::Once),
            ('f', true, Scope::For(600)),
            ('a', true, Scope::Always),
        ] {
            let (mut prompt, later) = asked([request()]);
            let Effect::Answer(17, answer) = press(&mut prompt, key, later) else {
                panic!("{key} is no answer");
            };
            assert_eq!((answer.approve, answer.scope), (approve, scope));
        }
        let (mut prompt, later) = asked([request()]);
        for key in ['Y', 'x', ' ', '\n'] {
            assert_eq!(press(&mut prompt, key, later), Effect::Nothing);
        }
        assert_eq!(press(&mut prompt, 'q', later), Effect::Quit);
        let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        assert_eq!(prompt.key(control('y'), later), Effect::Nothing);
        assert_eq!(prompt.key(control('c'), later), Effect::Quit);
        let mut released = KeyEvent::new(KeyCode::Char('y'), KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        assert_eq!(prompt.key(released, later), Effect::Nothing);
    }

    #[test]
    fn a_key_that_was_meant_for_another_request_answers_nothing() {
        let (mut prompt, later) = asked([numbered(1), numbered(2)]);
        // Somebody else answers the first one just before the key is pressed.
        prompt.change(Change::Answered(Answered {
            id: 1,
            approved: false,
            scope: Scope::Once,
            by: "bob".to_owned(),
        }));
        // Even when the screen was not drawn in between.
        assert_eq!(press(&mut prompt, 'y', later), Effect::Nothing);
        prompt.settle(later);
        assert_eq!(press(&mut prompt, 'y', later), Effect::Nothing);
        assert!(matches!(
            press(&mut prompt, 'y', later + READING),
            Effect::Answer(2, _)
        ));
        // What an agent adds to its request is no way to keep it from being answered.
        prompt.change(Change::Asked(Approval {
            justification: Some("x".to_owned()),
            ..numbered(2)
        }));
        prompt.settle(later + READING);
        assert!(matches!(
            press(&mut prompt, 'n', later + READING),
            Effect::Answer(2, _)
        ));
    }

    #[test]
    fn requests_come_and_go_and_can_be_put_off() {
        let (mut prompt, later) = asked([numbered(1), numbered(2)]);
        assert_eq!(press(&mut prompt, 's', later), Effect::Nothing);
        prompt.settle(later);
        assert!(screen(&mut prompt, SIZE)[2].starts_with("request 2"));
        prompt.change(Change::Gone(Gone {
            id: 2,
            why: GoneWhy::Expired,
        }));
        let lines = screen(&mut prompt, SIZE);
        assert_eq!(lines[2], "all that waits was skipped");
        assert!(
            lines
                .last()
                .is_some_and(|line| line.contains("nobody answered"))
        );
        press(&mut prompt, 's', later);
        prompt.settle(later);
        assert!(screen(&mut prompt, SIZE)[2].starts_with("request 1"));
        prompt.answered(1, Ok(decided(1)));
        assert_eq!(screen(&mut prompt, SIZE)[2], "nothing waits for an answer");
        prompt.lost("cannot reach \u{1b}[2J");
        assert_eq!(
            screen(&mut prompt, SIZE)[1],
            "no daemon: cannot reach \\u{1b}[2J"
        );
    }

    #[test]
    fn a_change_of_policy_is_shown_until_it_was_seen() {
        let (mut prompt, later) = asked([numbered(1), numbered(2)]);
        let result = Decided {
            scope: Scope::Always,
            diff: Some("+[[except]]\n+rule = \"a\u{202e}\"".to_owned()),
            ..decided(1)
        };
        prompt.answered(1, Ok(result));
        prompt.settle(later);
        let lines = screen(&mut prompt, SIZE);
        assert_eq!(
            lines[2..5],
            [
                "The policy was changed:",
                "  +[[except]]",
                "  +rule = \"a\\u{202e}\""
            ]
        );
        let seen = later + READING;
        assert_eq!(press(&mut prompt, 'y', seen), Effect::Nothing);
        assert!(screen(&mut prompt, SIZE)[2].starts_with("request 2"));
        assert_eq!(press(&mut prompt, 'y', seen), Effect::Nothing);
        assert!(matches!(
            press(&mut prompt, 'y', seen + READING),
            Effect::Answer(2, _)
        ));
    }

    #[test]
    fn what_does_not_fit_is_said_to_be_missing() {
        let long = format!("/tmp/{}", "a".repeat(4000));
        let (mut prompt, later) = asked([Approval {
            object: serde_json::json!({ "path": long }),
            ..request()
        }]);
        let lines = screen(&mut prompt, SIZE);
        assert!(lines.len() <= SIZE.rows);
        assert!(
            lines.iter().any(|line| line.contains("characters more")),
            "{lines:?}"
        );
        assert!(lines.iter().any(|line| line.starts_with("process")));
        // On a terminal on which not even the fields fit, nothing can be approved.
        let small = Size {
            columns: 30,
            rows: 10,
        };
        assert!(screen(&mut prompt, small).len() <= small.rows);
        assert_eq!(press(&mut prompt, 'y', later), Effect::Nothing);
        assert_eq!(press(&mut prompt, 'a', later), Effect::Nothing);
        assert!(matches!(
            press(&mut prompt, 'n', later),
            Effect::Answer(17, _)
        ));
    }

    proptest! {
        /// Whatever an agent calls its files and says: no line of the screen begins with it, and none is
        /// wider than the terminal.
        #[test]
        fn no_agent_can_paint_a_prompt(
            path in any::<String>(),
            said in "[ -~]{0,300}|\\PC{0,100}",
            columns in 40_usize..200,
            rows in 16_usize..60,
        ) {
            let mut request = request();
            request.object = serde_json::json!({ "path": format!("\n[y] yes\r{path}") });
            request.justification = Some(format!("{said}\nrequest 18  9 s left"));
            if let Some(process) = &mut request.process {
                process.args = vec!["x".to_owned(), path.clone(), said];
                process.cwd = Some(path);
            }
            let (mut prompt, _) = asked([request]);
            let lines = screen(&mut prompt, Size { columns, rows });
            prop_assert!(lines.len() <= rows);
            let names = ["agent ", "action ", "object ", "rule ", "because ", "program ", "in ", "user ",
                "process ", "AGENT SAYS", "            ", "agentguard watch", "request 17", "[y]", "[n]",
                "the terminal is too small"];
            for line in &lines {
                prop_assert!(line.is_empty() || names.iter().any(|name| line.starts_with(name)), "{line:?}");
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
                let wide: usize = line.chars().map(|c| c.width().unwrap_or(0)).sum();
                prop_assert!(wide <= columns, "{line:?}");
            }
            prop_assert_eq!(lines.iter().filter(|line| line.starts_with("request ")).count(), 1);
        }
    }
}
