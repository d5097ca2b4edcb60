//! `agentguard pending`: the requests that wait for an answer, now or as they come.

use std::io::{self, IsTerminal as _, Write};

use anyhow::Context as _;
use jiff::Timestamp;

use super::{print_json, request, style};
use crate::{
    api::{
        client::Client,
        types::{Answered, Approval, Change, Gone, GoneWhy},
    },
    config::Config,
    exit::Code,
    render::{safe, safe_escaped, safe_json},
};

/// Arguments of `agentguard pending`.
#[derive(Clone, Debug, clap::Args)]
pub struct PendingArgs {
    /// Print a JSON array, oldest first; with --watch one JSON object per line for whatever happens
    #[arg(long)]
    pub json: bool,

    /// Go on with what happens: requests, answers, and those that wait no longer
    #[arg(short, long)]
    pub watch: bool,
}

/// What can't be done.
const READING: &str = "cannot read the requests that wait";

/// Lists the requests.
pub fn run(args: &PendingArgs, config: &Config) -> anyhow::Result<Code> {
    let mut client = Client::connect(&config.socket).context(READING)?;
    if args.watch {
        for line in client.follow_approvals().context(READING)? {
            show(&line.context(READING)?, args.json)?;
        }
        anyhow::bail!("the daemon has gone, and with it what came after the last line");
    }
    let requests = client.approvals().context(READING)?;
    if args.json {
        print_json(&requests)?;
        return Ok(Code::Success);
    }
    let mut out = anstream::stdout().lock();
    if requests.is_empty() {
        writeln!(out, "nothing waits for an answer")?;
    }
    for (number, request) in requests.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        write_request(&mut out, request, Timestamp::now())?;
    }
    Ok(Code::Success)
}

/// One line of the stream.
fn show(line: &str, json: bool) -> anyhow::Result<()> {
    if json {
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            writeln!(out, "{}", safe_json(line))?;
        } else {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        return Ok(());
    }
    let mut out = anstream::stdout().lock();
    match serde_json::from_str(line) {
        Ok(Change::Asked(request)) => write_request(&mut out, &request, Timestamp::now())?,
        Ok(Change::Answered(answered)) => writeln!(out, "{}", answer(&answered))?,
        Ok(Change::Gone(gone)) => writeln!(out, "{}", end(gone))?,
        Err(_) => writeln!(out, "{}", safe_escaped(line))?,
    }
    out.flush()?;
    Ok(())
}

/// What somebody else answered, in words.
pub fn answer(answered: &Answered) -> String {
    let word = if answered.approved {
        "approved"
    } else {
        "denied"
    };
    format!("{} was {word} by {}", answered.id, safe(&answered.by))
}

/// Why a request waits no longer, in words.
pub fn end(gone: Gone) -> String {
    let why = match gone.why {
        GoneWhy::Expired => "nobody answered in time, so it was denied",
        GoneWhy::ProcessGone => "its process has ended",
        GoneWhy::AgentGone => "its agent has ended",
        GoneWhy::Reloaded => "the policy was changed, and it is judged anew",
    };
    format!("{} waits no longer: {why}", gone.id)
}

/// A request over several lines. No text of the agent's begins a line.
fn write_request(out: &mut impl Write, request: &Approval, now: Timestamp) -> io::Result<()> {
    let (strong, faint) = (style::STRONG, style::FAINT);
    let left = request::time_left(&request.expires, now);
    writeln!(out, "{strong}{}{strong:#}  {left}", request.id)?;
    for field in request::fields(request) {
        writeln!(out, "  {faint}{:10}{faint:#}  {}", field.name, field.text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::request::tests::request;

    #[test]
    fn a_request_is_read_at_a_glance() {
        let mut request = request();
        request.object = serde_json::json!({"path": "/tmp/a\n18  9 s left\u{1b}[1A"});
        let mut out = Vec::new();
        let now = "2026-11-20T10:16:00Z".parse().expect("a time");
        write_request(&mut out, &request, now).expect("written");
        let text = String::from_utf8(out).expect("text");
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            text,
            "17  42 s left\n\
             \x20 agent       alice (profile coding)\n\
             \x20 action      net.connect\n\
             \x20 object      /tmp/a\\n18  9 s left\\u{1b}[1A\n\
             \x20 rule        ask-network\n\
             \x20 because     Ask before leaving this machine.\n\
             \x20 program     /usr/bin/curl -d 'a b' https://example.org\n\
             \x20 in          /home/u/work\n\
             \x20 user        u\n\
             \x20 process     node[790] > bash[800] > curl[812]\n"
        );
    }
}
