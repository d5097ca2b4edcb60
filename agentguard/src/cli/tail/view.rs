//! An event as `agentguard tail` shows it to people: one line of text. It reads what it knows from the
//! JSON and passes over the rest, because the log may have been written by another version.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use jiff::{Timestamp, tz::TimeZone};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cli::style,
    render::{Safe, safe, safe_escaped},
};

/// The fields of an event that are shown or filtered by.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    pub seq: Option<u64>,
    pub time: Option<String>,
    pub agent: Option<String>,
    pub action: String,
    pub verdict: Option<String>,
    /// Audit mode: the verdict that enforce mode would have given.
    pub would: Option<String>,
    pub rule: Option<String>,
    /// Why no rule was asked.
    pub reason: Option<String>,
    pub because: Option<String>,
    pub object: Option<BTreeMap<String, Value>>,
    pub process: Option<Process>,
    /// How many identical events this one stands for.
    pub count: Option<u64>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// The acting process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    pid: Option<u64>,
    comm: Option<String>,
    encoding: Option<String>,
}

/// Fields that aren't shown on the line of an event that has neither object nor rule.
const HIDDEN: [&str; 7] = [
    "v", "session", "profile", "errno", "prev", "hash", "encoding",
];

impl Event {
    /// The event as one line without an end, coloured.
    pub fn line<'a>(&'a self, zone: &'a TimeZone) -> impl fmt::Display + 'a {
        Line { event: self, zone }
    }
}

struct Line<'a> {
    event: &'a Event,
    zone: &'a TimeZone,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = self.event;
        let (strong, faint) = (style::STRONG, style::FAINT);
        write!(f, "{faint}{}{faint:#}", self.time())?;
        self.verdict(f)?;
        if let Some(agent) = &event.agent {
            write!(f, "  {}", safe(agent))?;
        }
        write!(f, "  {strong}{}{strong:#}", safe(&event.action))?;
        match &event.object {
            Some(object) => write!(f, "{}", Object(object))?,
            None => write!(f, "{}", Fields(&event.rest))?,
        }
        if let Some(count) = event.count.filter(|count| *count > 1) {
            write!(f, "  ×{count}")?;
        }
        if let Some(rule) = &event.rule {
            write!(f, "  rule {strong}{}{strong:#}", safe(rule))?;
        }
        if let Some(reason) = &event.reason {
            write!(f, "  {strong}{}{strong:#}", safe(reason))?;
        }
        if let Some(process) = &event.process {
            let comm = process.comm.as_deref().unwrap_or("?");
            write!(f, "  {}", text(comm, process.encoding.as_deref()))?;
            if let Some(pid) = process.pid {
                write!(f, "[{pid}]")?;
            }
        }
        if let Some(because) = &event.because {
            write!(f, "  {faint}{}{faint:#}", safe(because))?;
        }
        Ok(())
    }
}

impl Line<'_> {
    /// Local time to the millisecond.
    fn time(&self) -> String {
        let Some(text) = &self.event.time else {
            return "-".to_owned();
        };
        match text.parse::<Timestamp>() {
            Ok(time) => time
                .to_zoned(self.zone.clone())
                .strftime("%b %d %H:%M:%S%.3f")
                .to_string(),
            Err(_) => safe(text).to_string(),
        }
    }

    /// Verdict in its colour; nothing for what has none.
    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(verdict) = self.event.verdict.as_deref() else {
            return write!(f, "  {:5}", "-");
        };
        let style = match verdict {
            "allow" => style::GOOD,
            "deny" | "kill" => style::BAD,
            _ => style::WARN,
        };
        let mut shown = safe(verdict).to_string();
        if let Some(would) = &self.event.would {
            write!(shown, " (would {})", safe(would))?;
        }
        write!(f, "  {style}{shown:5}{style:#}")
    }
}

/// An event's object in one line: what it is first, then how it was accessed, then the rest.
pub fn object(value: &Value) -> String {
    let Value::Object(fields) = value else {
        return Plain(value, None).to_string();
    };
    let fields: BTreeMap<String, Value> = fields.clone().into_iter().collect();
    Object(&fields).to_string().trim_start().to_owned()
}

/// Text of an event under its `encoding`.
pub fn text<'a>(text: &'a str, encoding: Option<&str>) -> Safe<'a> {
    if encoding == Some("escaped") {
        safe_escaped(text)
    } else {
        safe(text)
    }
}

/// An event's object: what it is first, then how it was accessed, then the rest.
struct Object<'a>(&'a BTreeMap<String, Value>);

/// Keys that are shown in a form of their own.
const SHAPED: [&str; 8] = [
    "path", "to", "abstract", "address", "port", "protocol", "access", "encoding",
];

/// Keys of connections and lookups that are, too.
const OF_HOSTS: [&str; 5] = ["name", "type", "response", "addresses", "private"];

impl Object<'_> {
    /// Whether it is a connection to an address, or a lookup of a name.
    fn is_about_hosts(&self) -> bool {
        self.0.contains_key("address") || self.0.contains_key("response")
    }

    /// A host's name: what was answered for it, or what it was the name of.
    fn host(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = self.text("name") else {
            return Ok(());
        };
        if self.0.contains_key("address") {
            return write!(f, " ({name})");
        }
        write!(f, " {name}")?;
        for key in ["type", "response"] {
            if let Some(value) = self.text(key) {
                write!(f, " {value}")?;
            }
        }
        for (key, mark) in [("addresses", ""), ("private", " (private)")] {
            if let Some(Value::Array(addresses)) = self.0.get(key) {
                for address in addresses.iter().filter_map(Value::as_str) {
                    write!(f, " {}{mark}", safe(address))?;
                }
            }
        }
        Ok(())
    }

    fn text(&self, key: &str) -> Option<Safe<'_>> {
        let value = self.0.get(key)?.as_str()?;
        Some(text(value, self.encoding()))
    }

    fn encoding(&self) -> Option<&str> {
        self.0.get("encoding").and_then(Value::as_str)
    }

    /// An internet address as policies write it.
    fn address(&self) -> Option<String> {
        let address = self.text("address")?.to_string();
        let mut shown = match self.text("protocol") {
            Some(protocol) => format!("{protocol}://"),
            None => String::new(),
        };
        if address.contains(':') {
            shown.push_str(&format!("[{address}]"));
        } else {
            shown.push_str(&address);
        }
        if let Some(port) = self.0.get("port").and_then(Value::as_u64) {
            shown.push_str(&format!(":{port}"));
        }
        Some(shown)
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.text("path") {
            write!(f, " {path}")?;
        }
        if let Some(to) = self.text("to") {
            write!(f, " -> {to}")?;
        }
        if let Some(name) = self.text("abstract") {
            write!(f, " @{name}")?;
        }
        if let Some(address) = self.address() {
            write!(f, " {address}")?;
        }
        if self.is_about_hosts() {
            self.host(f)?;
        }
        if let Some(Value::Array(access)) = self.0.get("access") {
            let names: Vec<&str> = access.iter().filter_map(Value::as_str).collect();
            write!(f, " ({})", safe(&names.join(", ")))?;
        }
        for (key, value) in self.0 {
            // A refusal's excerpts are many lines; its message is one. Of warnings, one line tells how
            // many there are.
            if key == "warnings"
                && let Value::Array(warnings) = value
            {
                write!(f, " warnings={}", warnings.len())?;
            } else if self.is_about_hosts() && OF_HOSTS.contains(&key.as_str()) {
                // Said above.
            } else if !SHAPED.contains(&key.as_str()) && key != "diagnostics" {
                write!(f, " {}={}", safe(key), Plain(value, self.encoding()))?;
            }
        }
        Ok(())
    }
}

/// The fields of an event that has no object (losses, reloads, a daemon's start).
struct Fields<'a>(&'a BTreeMap<String, Value>);

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in self.0 {
            if !HIDDEN.contains(&key.as_str()) {
                write!(f, " {}={}", safe(key), Plain(value, None))?;
            }
        }
        Ok(())
    }
}

/// A value without the quotes of JSON around a bare string.
struct Plain<'a>(&'a Value, Option<&'a str>);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(value) => write!(f, "{}", text(value, self.1)),
            Value::Array(values) if values.iter().all(|value| name(value).is_some()) => {
                let names: Vec<&str> = values.iter().filter_map(name).collect();
                write!(f, "{}", safe(&names.join(",")))
            }
            // JSON's own escapes stay what they are; only what it lets through is escaped further.
            other => write!(f, "{}", safe_escaped(&other.to_string())),
        }
    }
}

/// The name of a thing that is listed with more about it.
fn name(value: &Value) -> Option<&str> {
    value.get("name")?.as_str()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(json: &str) -> String {
        let event: Event = serde_json::from_str(json).expect("an event");
        let line = event.line(&TimeZone::UTC).to_string();
        anstream::adapter::strip_str(&line).to_string()
    }

    const DENIAL: &str = r#"{"v":1,"seq":4711,"time":"2026-11-20T10:15:42.123456789Z","agent":"alice",
        "session":"01JC","profile":"coding","action":"file.open","verdict":"deny","errno":"EPERM",
        "rule":"private-keys","because":"Private keys stay with people.",
        "object":{"path":"/home/u/.ssh/id_ed25519","access":["read"]},
        "process":{"pid":812,"tid":812,"comm":"cat","args":["cat"],"uid":1000},"prev":"","hash":""}"#;

    #[test]
    fn a_denial_is_one_line_with_everything_a_person_needs() {
        assert_eq!(
            shown(DENIAL),
            "Nov 20 10:15:42.123  deny   alice  file.open /home/u/.ssh/id_ed25519 (read)  \
             rule private-keys  cat[812]  Private keys stay with people."
        );
    }

    #[test]
    fn times_are_local() {
        let event: Event = serde_json::from_str(DENIAL).expect("an event");
        let zone = TimeZone::fixed(jiff::tz::offset(5));
        assert!(
            event
                .line(&zone)
                .to_string()
                .contains("Nov 20 15:15:42.123")
        );
    }

    #[test]
    fn audit_says_what_would_have_been() {
        let line = shown(r#"{"action":"exec","verdict":"audit","would":"deny","count":3}"#);
        assert_eq!(line, "-  audit (would deny)  exec  ×3");
    }

    #[test]
    fn a_loss_shows_its_numbers() {
        let line = shown(
            r#"{"v":1,"seq":2,"action":"lost","object":{"stage":"kernel","count":3,
                "counts":[{"hook":"file_open","verdict":"allow","count":3}]}}"#,
        );
        assert_eq!(
            line,
            r#"-  -      lost count=3 counts=[{"count":3,"hook":"file_open","verdict":"allow"}] stage=kernel"#
        );
    }

    #[test]
    fn addresses_are_shown_as_policies_write_them() {
        for (object, expected) in [
            (
                r#"{"address":"10.0.0.7","port":443,"protocol":"tcp"}"#,
                "tcp://10.0.0.7:443",
            ),
            (
                r#"{"address":"::1","port":53,"protocol":"udp"}"#,
                "udp://[::1]:53",
            ),
            (
                r#"{"address":"203.0.113.80","port":443,"protocol":"tcp","name":"api.example"}"#,
                "tcp://203.0.113.80:443 (api.example)",
            ),
            (
                r#"{"name":"api.example","type":"A","response":"NOERROR","addresses":["203.0.113.80"],"private":["10.0.0.1"]}"#,
                "api.example A NOERROR 203.0.113.80 10.0.0.1 (private)",
            ),
            (r#"{"path":"/run/x"}"#, "/run/x"),
            (r#"{"abstract":"a\u0000b"}"#, "@a\\0b"),
        ] {
            let line = shown(&format!(r#"{{"action":"net.connect","object":{object}}}"#));
            assert_eq!(line, format!("-  -      net.connect {expected}"));
        }
    }

    #[test]
    fn what_happened_to_policies_fits_a_line() {
        let line = shown(
            r#"{"action":"policy.loaded","object":{"install":2,"profiles":[{"name":"a","digest":"00"},
                {"name":"b","digest":"11"}],"warnings":["x","y"]}}"#,
        );
        assert_eq!(
            line,
            "-  -      policy.loaded install=2 profiles=a,b warnings=2"
        );
        let line = shown(
            r#"{"action":"policy.refused","object":{"message":"1 error","diagnostics":"a\nb"}}"#,
        );
        assert_eq!(line, "-  -      policy.refused message=1 error");
    }

    #[test]
    fn a_denial_without_a_rule_says_why() {
        let line = shown(r#"{"action":"exec","verdict":"deny","reason":"no-path"}"#);
        assert_eq!(line, "-  deny   exec  no-path");
    }

    #[test]
    fn an_agent_cannot_write_to_the_terminal() {
        let line = shown(
            r#"{"action":"exec","object":{"path":"/tmp/\u001b[2J\n\u202ex","args":["\u0007"]},
                "process":{"pid":1,"comm":"\u009b31m"}}"#,
        );
        assert_eq!(
            line,
            "-  -      exec /tmp/\\u{1b}[2J\\n\\u{202e}x args=[\"\\u0007\"]  \\u{9b}31m[1]"
        );
    }

    #[test]
    fn escaped_text_keeps_its_escapes() {
        let line =
            shown(r#"{"action":"exec","object":{"path":"/tmp/\\xff","encoding":"escaped"}}"#);
        assert_eq!(line, "-  -      exec /tmp/\\xff");
        let line = shown(r#"{"action":"exec","object":{"path":"/tmp/\\xff"}}"#);
        assert_eq!(line, "-  -      exec /tmp/\\\\xff");
    }

    proptest! {
        #[test]
        fn no_event_controls_a_terminal(path in any::<String>(), agent in any::<String>(), key in any::<String>()) {
            let json = serde_json::json!({"action": "exec", "agent": agent, "object": {"path": path, (key): [agent]}});
            let line = shown(&json.to_string());
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
}
