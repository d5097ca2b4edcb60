//! `agentguard status`: first whether agents are held to their profiles, then what is wrong and what to
//! do about it, then the numbers. When no daemon answers, the pins tell whether the kernel enforces
//! without it.

mod offline;

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
};

use anyhow::Context as _;

use super::{agents, print_json, style};
use crate::{
    api::{
        client::{self, Client},
        types::{Count, Status},
    },
    config::Config,
    enforcement::Foundation,
    exit::Code,
    render::{safe, safe_escaped},
};

/// Arguments of `agentguard status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Tells the status. The exit code is success only when everything is enforced and the daemon answers.
pub fn run(args: &StatusArgs, config: &Config) -> anyhow::Result<Code> {
    let status = match Client::connect(&config.socket).and_then(|mut client| client.status()) {
        Ok(status) => status,
        Err(error @ client::Error::Unreachable { .. }) => {
            return offline::tell(args.json, &config.pins, &error);
        }
        Err(error) => return Err(error).context("cannot tell the status"),
    };
    let mut out = anstream::stdout().lock();
    if args.json {
        print_json(&status)?;
    } else {
        write_status(&mut out, &status)?;
    }
    Ok(if status.enforcing {
        Code::Success
    } else {
        Code::Failure
    })
}

/// Writes the status for people.
fn write_status(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let (good, bad, warn) = (style::GOOD, style::BAD, style::WARN);
    if status.enforcing {
        writeln!(
            out,
            "{good}ENFORCING{good:#}: the kernel holds {} to {}",
            Number(status.agents.len(), "agent"),
            Number(status.policy.profiles.len(), "profile"),
        )?;
    } else {
        writeln!(
            out,
            "{bad}NOT ENFORCING{bad:#}: agents can do what their profiles forbid"
        )?;
    }
    for problem in &status.problems {
        writeln!(out, "  {bad}problem:{bad:#} {}", safe_escaped(problem))?;
    }
    for warning in &status.warnings {
        writeln!(out, "  {warn}warning:{warn:#} {}", safe_escaped(warning))?;
    }
    if status.pending > 0 {
        writeln!(
            out,
            "  {warn}waiting:{warn:#} {} for an answer; see `agentguard pending`",
            Number(status.pending, "question"),
        )?;
    }
    for advice in advice(status) {
        writeln!(out, "  {warn}what to do:{warn:#} {advice}")?;
    }
    write_agents(out, status)?;
    write_profiles(out, status)?;
    write_verbs(out, &status.verbs)?;
    write_decisions(out, status)?;
    write_rest(out, status)
}

/// What an operator should do, most urgent first; nothing when all is well.
fn advice(status: &Status) -> Vec<String> {
    let mut advice = Vec::new();
    if !status.enforcing {
        advice.push(
            "stop the agents or trust nothing they do; then `agentguard doctor` and \
             `journalctl -u agentguard.service` say why, and `systemctl restart agentguard.service` \
             loads everything anew"
                .to_owned(),
        );
    }
    if !status.log.writing {
        advice.push(format!(
            "make {} writable again ({}); denials still happen, and what could not be written is \
             counted and will be told in the log",
            safe(&status.log.path.to_string_lossy()),
            safe_escaped(
                status
                    .log
                    .error
                    .as_deref()
                    .unwrap_or("the reason is not known")
            ),
        ));
    }
    if status.policy.refused.is_some() {
        advice.push(
            "correct the policy that was refused, try it with `agentguard policy check`, then \
             `agentguard reload`; until then the policy before it is in force"
                .to_owned(),
        );
    }
    if losses(status) > 0 {
        advice.push(
            "events were lost, though no verdict was: set `[log] allow` of busy profiles to \
             \"first\" or \"none\""
                .to_owned(),
        );
    }
    advice
}

/// Events that are not in the log.
fn losses(status: &Status) -> u64 {
    let counters = &status.counters;
    let kernel: u64 = counters.lost_kernel.iter().map(|count| count.count).sum();
    kernel + counters.lost_sink + counters.undecodable
}

fn heading(out: &mut impl Write, text: &str) -> io::Result<()> {
    let strong = style::STRONG;
    writeln!(out, "\n{strong}{text}{strong:#}")
}

fn write_agents(out: &mut impl Write, status: &Status) -> io::Result<()> {
    heading(out, "Agents")?;
    if status.agents.is_empty() {
        return writeln!(out, "none");
    }
    agents::write_agents(out, &status.agents)
}

fn write_profiles(out: &mut impl Write, status: &Status) -> io::Result<()> {
    heading(
        out,
        &format!("Profiles of policy {}", status.policy.install),
    )?;
    let mut table = style::table(&["PROFILE", "MODE", "RULES", "AGENTS", "FILE"]);
    for profile in &status.policy.profiles {
        let mode = if profile.mode == "enforce" {
            profile.mode.clone()
        } else {
            format!(
                "{} (denies only what no profile can allow)",
                safe(&profile.mode)
            )
        };
        table.add_row([
            safe(&profile.name).to_string(),
            mode,
            profile.rules.to_string(),
            profile.agents.to_string(),
            safe(&profile.source.to_string_lossy()).to_string(),
        ]);
    }
    style::write_table(out, &table)?;
    let warn = style::WARN;
    let warnings = &status.policy.warnings;
    for warning in warnings.iter().take(WARNINGS) {
        writeln!(out, "{warn}warning:{warn:#} {}", safe_escaped(warning))?;
    }
    if warnings.len() > WARNINGS {
        writeln!(
            out,
            "{warn}and {} more warnings{warn:#}: `agentguard status --json` has them all",
            warnings.len() - WARNINGS
        )?;
    }
    if let Some(refused) = &status.policy.refused {
        let bad = style::BAD;
        writeln!(
            out,
            "{bad}refused{bad:#} on {}: {}",
            style::local_time(&refused.time),
            safe_escaped(&refused.message)
        )?;
        for line in refused.diagnostics.iter().flat_map(|text| text.lines()) {
            writeln!(out, "  {}", safe_escaped(line))?;
        }
    }
    Ok(())
}

/// Warnings of the policy that are shown.
const WARNINGS: usize = 3;
/// What is judged, and what that rests on.
pub(super) fn write_verbs(out: &mut impl Write, verbs: &[Foundation]) -> io::Result<()> {
    heading(out, "Verbs")?;
    let mut table = style::table(&["VERB", "STATE", "RESTS ON"]);
    for foundation in verbs {
        let list = |names: &[String]| safe(&names.join(", ")).to_string();
        let state = if foundation.missing.is_empty() {
            let holds = if foundation.holds { ", can wait" } else { "" };
            format!("enforced{holds}")
        } else {
            format!("NOT ENFORCED, missing: {}", list(&foundation.missing))
        };
        table.add_row([
            safe(&foundation.verb).to_string(),
            state,
            list(&foundation.hooks),
        ]);
    }
    style::write_table(out, &table)
}

/// Verdicts in the order of the table's columns, as the counters name them.
const VERDICTS: [&str; 5] = ["allow", "ask", "deny", "kill", "would-deny"];

fn write_decisions(out: &mut impl Write, status: &Status) -> io::Result<()> {
    heading(out, "Decisions")?;
    let counters = &status.counters;
    let mut rows: BTreeMap<&str, [u64; VERDICTS.len() + 1]> = BTreeMap::new();
    let mut add = |count: &'_ Count, column| {
        let hook = status
            .hooks
            .iter()
            .find(|hook| hook.name == count.hook)
            .map_or("other", |hook| hook.name.as_str());
        rows.entry(hook).or_default()[column] += count.count;
    };
    for count in &counters.decisions {
        if let Some(column) = VERDICTS.iter().position(|name| *name == count.verdict) {
            add(count, column);
        }
    }
    for count in &counters.lost_kernel {
        add(count, VERDICTS.len());
    }
    if rows.is_empty() {
        writeln!(out, "none yet")?;
    } else {
        let mut table =
            style::table(&["HOOK", "ALLOW", "ASK", "DENY", "KILL", "WOULD DENY", "LOST"]);
        for (hook, counts) in rows {
            let mut row = vec![safe(hook).to_string()];
            row.extend(counts.map(|count| count.to_string()));
            table.add_row(row);
        }
        style::write_table(out, &table)?;
    }
    Ok(())
}

fn write_rest(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let counters = &status.counters;
    let kernel: u64 = counters.lost_kernel.iter().map(|count| count.count).sum();
    heading(out, "Health")?;
    if losses(status) == 0 {
        writeln!(out, "events   none lost")?;
    } else {
        let bad = style::BAD;
        writeln!(
            out,
            "events   {bad}{} lost{bad:#}: {kernel} in the kernel, {} by the log, {} not understood",
            losses(status),
            counters.lost_sink,
            counters.undecodable
        )?;
    }
    let log = &status.log;
    let state = if log.writing {
        "written"
    } else {
        "NOT WRITTEN"
    };
    let state_style = if log.writing { style::GOOD } else { style::BAD };
    writeln!(
        out,
        "log      {} {state_style}{state}{state_style:#}, event {} is the latest, {} waiting",
        safe(&log.path.to_string_lossy()),
        log.seq,
        log.backlog
    )?;
    let missing: Vec<String> = status
        .hooks
        .iter()
        .filter(|hook| !hook.attached)
        .map(|hook| safe(&hook.name).to_string())
        .collect();
    let attached = status.hooks.len() - missing.len();
    write!(
        out,
        "hooks    {attached} of {} attached",
        status.hooks.len()
    )?;
    if missing.is_empty() {
        writeln!(out)?;
    } else {
        let bad = style::BAD;
        writeln!(out, ", {bad}missing: {}{bad:#}", missing.join(", "))?;
    }
    let absent: BTreeMap<&str, &str> = status
        .verbs
        .iter()
        .flat_map(|verb| &verb.absent)
        .map(|absent| (absent.hook.as_str(), absent.instead.as_str()))
        .collect();
    for (hook, instead) in absent {
        writeln!(
            out,
            "hooks    not in this kernel: {} ({} sees the same)",
            safe(hook),
            safe(instead)
        )?;
    }
    for failure in &counters.failures {
        let warn = style::WARN;
        writeln!(
            out,
            "kernel   {warn}{} failures{warn:#} at {} (each was a denial)",
            failure.count,
            safe(&failure.site)
        )?;
    }
    let memory: u64 = status.maps.iter().map(|map| map.memory_bytes).sum();
    writeln!(
        out,
        "maps     {} holding {:.1} MiB of kernel memory",
        status.maps.len(),
        memory as f64 / f64::from(1 << 20)
    )?;
    writeln!(
        out,
        "daemon   agentguard {}, pid {}, up {}",
        safe(&status.version),
        status.pid,
        Span(status.uptime_seconds)
    )?;
    writeln!(
        out,
        "kernel   {}, LSMs {}",
        safe(&status.kernel.release),
        safe(&status.kernel.lsm.join(","))
    )
}

/// A number with its noun.
struct Number(usize, &'static str);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.0, self.1)
    }
}

/// Seconds as the two largest units.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, hours, days) = (self.0 / 60, self.0 / 3600, self.0 / 86400);
        if days > 0 {
            write!(f, "{days} d {} h", hours % 24)
        } else if hours > 0 {
            write!(f, "{hours} h {} min", minutes % 60)
        } else if minutes > 0 {
            write!(f, "{minutes} min {} s", self.0 % 60)
        } else {
            write!(f, "{} s", self.0)
        }
    }
}

#[cfg(test)]
mod tests;
