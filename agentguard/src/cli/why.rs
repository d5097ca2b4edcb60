//! `agentguard why` and `justify`: inside of an agent, what it was refused lately, by which rule, and what a person
//! could do about it; and what the agent says for a request of its own that waits. They ask the agents' own socket, which answers about nobody else.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::Context as _;
use jiff::Timestamp;

use super::{print_json, request::time_left, style, tail::view::object};
use crate::{
    api::{
        self, client,
        client::Client,
        types::{Approval, Denial, Justify},
    },
    exit::Code,
    render::safe,
};

/// Arguments of `agentguard why`.
#[derive(Clone, Debug, clap::Args)]
pub struct WhyArgs {
    /// How many of the latest denials
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    pub last: usize,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `agentguard justify`.
#[derive(Clone, Debug, clap::Args)]
pub struct JustifyArgs {
    /// Number of the request, as in `agentguard why`
    #[arg(value_name = "ID")]
    pub id: u64,

    /// What is to be shown to the person who decides, at most 1,000 bytes
    #[arg(value_name = "TEXT")]
    pub text: String,
}

/// What can't be done.
const ASKING: &str = "cannot ask what this agent was refused";

/// Shows the agent's own denials. The configuration isn't read: an agent can't.
pub fn run(args: &WhyArgs, socket: Option<&Path>) -> anyhow::Result<Code> {
    let own = connect(socket)
        .and_then(|mut client| client.why(args.last))
        .context(ASKING)?;
    if args.json {
        print_json(&own)?;
        return Ok(Code::Success);
    }
    let mut out = anstream::stdout().lock();
    for request in &own.waiting {
        write_waiting(&mut out, request)?;
    }
    if own.denials.is_empty() {
        writeln!(out, "nothing was denied to this agent lately")?;
    }
    for denial in &own.denials {
        write_denial(&mut out, denial)?;
    }
    Ok(Code::Success)
}

/// Says something for a request of the agent that asks.
pub fn justify(args: &JustifyArgs, socket: Option<&Path>) -> anyhow::Result<Code> {
    let text = Justify {
        text: args.text.clone(),
    };
    connect(socket)
        .and_then(|mut client| client.justify(args.id, &text))
        .with_context(|| format!("cannot say anything for {}", args.id))?;
    let mut out = anstream::stdout().lock();
    writeln!(out, "whoever decides about {} will see it", args.id)?;
    Ok(Code::Success)
}

/// Connects to the agents' own socket, which lies beside the daemon's.
pub fn connect(socket: Option<&Path>) -> Result<Client, client::Error> {
    Client::connect(&api::own_socket(socket.unwrap_or(Path::new(api::SOCKET))))
}

fn write_waiting(out: &mut impl Write, request: &Approval) -> io::Result<()> {
    let (strong, warn, faint) = (style::STRONG, style::WARN, style::FAINT);
    let left = time_left(&request.expires, Timestamp::now());
    let action = safe(&request.action);
    let object = object(&request.object);
    let id = request.id;
    writeln!(
        out,
        "{warn}waiting{warn:#}  {strong}{id}{strong:#}  {strong}{action}{strong:#} {object}  {left}"
    )?;
    writeln!(out, "  {faint}rule{faint:#}     {}", safe(&request.rule))?;
    if let Some(because) = &request.because {
        writeln!(out, "  {faint}because{faint:#}  {}", safe(because))?;
    }
    writeln!(
        out,
        "  {faint}person{faint:#}   is asked; `agentguard justify {id} TEXT` shows them why you need it"
    )
}

fn write_denial(out: &mut impl Write, denial: &Denial) -> io::Result<()> {
    let (strong, bad, faint) = (style::STRONG, style::BAD, style::FAINT);
    let time = style::local_time(&denial.time);
    let verdict = safe(&denial.verdict);
    let action = safe(&denial.action);
    write!(
        out,
        "{faint}{time}{faint:#}  {bad}{verdict}{bad:#}  {strong}{action}{strong:#}"
    )?;
    if let Some(value) = &denial.object {
        write!(out, " {}", object(value))?;
    }
    if let Some(pid) = denial.pid {
        write!(out, "  by process {pid}")?;
    }
    if denial.count > 1 {
        write!(out, "  ×{}", denial.count)?;
    }
    writeln!(out)?;
    if let Some(rule) = &denial.rule {
        writeln!(out, "  {faint}rule{faint:#}     {}", safe(rule))?;
    }
    if let Some(because) = &denial.because {
        writeln!(out, "  {faint}because{faint:#}  {}", safe(because))?;
    }
    if let Some(reason) = &denial.reason {
        writeln!(out, "  {faint}reason{faint:#}   {}", safe(reason))?;
    }
    writeln!(out, "  {faint}person{faint:#}   {}", advice(denial))
}

/// What a person could do, for the agent to pass on. An agent itself can do nothing about it.
fn advice(denial: &Denial) -> String {
    let profile = safe(&denial.profile);
    match denial.reason.as_deref() {
        Some("refused") => {
            return "said no, just now or a short while ago: ask them before you try again"
                .to_owned();
        }
        Some("timed-out") => {
            return "was asked and did not answer in time: tell them, and try again".to_owned();
        }
        Some("no-room") => {
            return "could not be asked, because too much waits already: try again later"
                .to_owned();
        }
        Some("too-many-pending") => {
            return "has as many questions of this agent to answer as there may be: wait for them"
                .to_owned();
        }
        Some("ask-unavailable") => {
            return "could not be asked, because the daemon was not running: try again".to_owned();
        }
        Some("cant-be-held") => {
            return "can't be asked about this, because the action can't wait: do it in another way"
                .to_owned();
        }
        _ => {}
    }
    match denial.rule.as_deref() {
        Some(rule) if rule.starts_with("agentguard/") => {
            "nothing: this holds for every agent, whatever its profile says".to_owned()
        }
        Some(rule) if rule == format!("{}/default", denial.profile) => format!(
            "no rule of the profile {profile} names this: a person can add one to [[allow]], or to \
             [[ask]] to be asked each time"
        ),
        Some(rule) if denial.verdict == "ask" => format!(
            "the rule {} has a person asked, and there was no yes: ask the person, and try again",
            safe(rule)
        ),
        Some(rule) => format!(
            "can make an exception of the rule {} (in the profile {profile}, or where that includes it \
             from), or do this for the agent",
            safe(rule)
        ),
        None => {
            "no rule was asked, for the reason above; `agentguard tail` shows a person all of it"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use agentguard_common::event::Reason;

    use super::*;
    use crate::ring::record::reason_name;

    fn denial(rule: Option<&str>, verdict: &str) -> Denial {
        Denial {
            time: "-".to_owned(),
            profile: "coding".to_owned(),
            action: "file.open".to_owned(),
            verdict: verdict.to_owned(),
            object: Some(serde_json::json!({"path": "/a\u{1b}[2J", "access": ["read"]})),
            rule: rule.map(str::to_owned),
            because: Some("No\u{202e}.".to_owned()),
            reason: None,
            pid: Some(7),
            count: 3,
        }
    }

    #[test]
    fn a_denial_says_what_by_which_rule_and_what_a_person_can_do() {
        let mut out = Vec::new();
        write_denial(&mut out, &denial(Some("secret"), "deny")).expect("written");
        let text = String::from_utf8(out).expect("text");
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            text,
            "-  deny  file.open /a\\u{1b}[2J (read)  by process 7  ×3\n\
             \x20 rule     secret\n\
             \x20 because  No\\u{202e}.\n\
             \x20 person   can make an exception of the rule secret (in the profile coding, or where \
             that includes it from), or do this for the agent\n"
        );
    }

    #[test]
    fn advice_depends_on_who_denied() {
        for (reason, part) in [
            (Reason::Refused, "said no"),
            (Reason::TimedOut, "did not answer"),
            (Reason::TooManyPending, "wait"),
            (Reason::NoRoom, "try again"),
            (Reason::AskUnavailable, "daemon"),
            (Reason::CantHold, "can't wait"),
        ] {
            let reason = reason_name(reason);
            let mut denial = denial(Some("network"), "deny");
            denial.reason = Some(reason.to_owned());
            assert!(advice(&denial).contains(part), "{reason}");
        }
        for (rule, verdict, part) in [
            (Some("agentguard/socket"), "deny", "nothing"),
            (Some("coding/default"), "deny", "[[allow]]"),
            (Some("network"), "ask", "there was no yes"),
            (None, "deny", "no rule was asked"),
        ] {
            let advice = advice(&denial(rule, verdict));
            assert!(advice.contains(part), "{rule:?}: {advice}");
        }
    }
}
