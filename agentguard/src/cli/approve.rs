//! `agentguard approve` and `agentguard deny`: answers to a request. Whether the request is still there, and
//! who may answer, the daemon decides.

use std::{io::Write, time::Duration};

use anyhow::Context as _;

use super::style;
use crate::{
    api::{
        client::Client,
        types::{Decide, Decided, How, Scope},
    },
    config::Config,
    exit::Code,
    render::safe_escaped,
};

/// Longest time that a yes can be given for.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Arguments of `agentguard approve`.
#[derive(Clone, Debug, clap::Args)]
pub struct ApproveArgs {
    /// Number of the request, as in `agentguard pending`
    #[arg(value_name = "ID")]
    pub id: u64,

    #[command(flatten)]
    pub scope: ScopeArgs,

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// How far a yes goes.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(multiple = false)]
pub struct ScopeArgs {
    /// This action, now; what is meant when nothing is said
    #[arg(long)]
    pub once: bool,

    /// Any number of times for so long, such as 90s, 10m or 2h: this agent, this object
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Everything that the asking rule covers, until the agent ends
    #[arg(long)]
    pub rule: bool,

    /// From now on and for every agent of the profile: make the object an exception of the asking rule. The policy is
    /// changed and loaded anew, and the change is shown
    #[arg(long)]
    pub always: bool,
}

/// Arguments of `agentguard deny`.
#[derive(Clone, Debug, clap::Args)]
pub struct DenyArgs {
    /// Number of the request, as in `agentguard pending`
    #[arg(value_name = "ID")]
    pub id: u64,

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

impl ScopeArgs {
    fn scope(&self) -> Scope {
        match self.duration {
            Some(duration) => Scope::For(duration.as_secs()),
            None if self.rule => Scope::Rule,
            None if self.always => Scope::Always,
            None => Scope::Once,
        }
    }
}

/// Reads how long a yes is to last.
fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| duration.subsec_nanos() == 0)
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST)
        .ok_or_else(|| {
            "write whole seconds, minutes or hours such as 90s, 10m or 2h, at most 168h".to_owned()
        })
}

/// Says yes.
pub fn approve(args: &ApproveArgs, config: &Config) -> anyhow::Result<Code> {
    let answer = Decide {
        approve: true,
        scope: args.scope.scope(),
        reason: args.reason.clone(),
        how: How::Cli,
    };
    send(args.id, &answer, config).with_context(|| format!("cannot approve {}", args.id))
}

/// Says no.
pub fn deny(args: &DenyArgs, config: &Config) -> anyhow::Result<Code> {
    let answer = Decide {
        approve: false,
        scope: Scope::Once,
        reason: args.reason.clone(),
        how: How::Cli,
    };
    send(args.id, &answer, config).with_context(|| format!("cannot deny {}", args.id))
}

fn send(id: u64, answer: &Decide, config: &Config) -> anyhow::Result<Code> {
    let decided = Client::connect(&config.socket)?.decide(id, answer)?;
    let mut out = anstream::stdout().lock();
    writeln!(out, "{}", summary(&decided))?;
    for line in decided.diff.iter().flat_map(|diff| diff.lines()) {
        let style = match line.as_bytes().first() {
            Some(b'+') => style::GOOD,
            Some(b'-') => style::BAD,
            _ => style::FAINT,
        };
        writeln!(out, "{style}{}{style:#}", safe_escaped(line))?;
    }
    Ok(Code::Success)
}

/// What came of an answer, in words.
pub fn summary(decided: &Decided) -> String {
    let id = decided.id;
    if !decided.approved {
        return format!("{id} denied");
    }
    match decided.scope {
        Scope::Once => format!("{id} approved, once"),
        Scope::For(seconds) => {
            let span = jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            format!("{id} approved, for {span:#}")
        }
        Scope::Rule => format!("{id} approved, with all that its rule covers"),
        Scope::Always => format!("{id} approved, for good"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_and_bounded() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("1h 30m", 5400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0s", "10", "-5m", "1ms", "800h", "forever"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_yes_says_how_far_it_goes() {
        for (scope, text) in [
            (Scope::Once, "7 approved, once"),
            (Scope::For(600), "7 approved, for 10m"),
            (Scope::Rule, "7 approved, with all that its rule covers"),
            (Scope::Always, "7 approved, for good"),
        ] {
            let decided = Decided {
                id: 7,
                approved: true,
                scope,
                diff: None,
            };
            assert_eq!(summary(&decided), text);
        }
    }
}
