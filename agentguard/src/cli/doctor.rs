//! `agentguard doctor`: each requirement of enforcement, found or missing, and what to do. What the
//! requirements are is the loader's; it refuses to start by the same list.

use std::io::{self, Write};

use agentguard_common::counter::Hook;
use serde::Serialize;

use super::{print_json, style};
use crate::{
    enforcement::Foundation,
    exit::Code,
    loader::requirements::{Requirement, host},
    render::safe_escaped,
};

/// Arguments of `agentguard doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What the requirements come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Finding {
    /// Enforcement is possible.
    Possible,
    /// Nothing is missing that an ordinary user can see; root has to look at the rest.
    Unknown,
    /// Enforcement is impossible.
    Impossible,
}

/// How one requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Found,
    Missing,
    /// Missing, but enforcement is possible without it.
    Advised,
    /// Only root can find out.
    Unknown,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    enforcement: Finding,
    requirements: Vec<Line<'a>>,
    /// What this kernel's hooks can enforce.
    verbs: Vec<Foundation>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    state: State,
    #[serde(flatten)]
    requirement: &'a Requirement,
}

impl<'a> Report<'a> {
    /// Judges the requirements as seen by root or by an ordinary user.
    fn new(requirements: &'a [Requirement], absent: &[Hook], root: bool) -> Self {
        let state = |requirement: &Requirement| match requirement.code {
            _ if requirement.found => State::Found,
            Code::NotRoot | Code::LoadingForbidden if !root => State::Unknown,
            _ if requirement.fatal => State::Missing,
            _ => State::Advised,
        };
        let requirements: Vec<_> = requirements
            .iter()
            .map(|requirement| Line {
                state: state(requirement),
                requirement,
            })
            .collect();
        let any = |state| requirements.iter().any(|line| line.state == state);
        let enforcement = if any(State::Missing) {
            Finding::Impossible
        } else if any(State::Unknown) {
            Finding::Unknown
        } else {
            Finding::Possible
        };
        Self {
            enforcement,
            requirements,
            verbs: Foundation::all(absent, |_| true),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for line in &self.requirements {
            let (style, word) = match line.state {
                State::Found => (style::GOOD, "found"),
                State::Missing => (style::BAD, "missing"),
                State::Advised => (style::WARN, "advised"),
                State::Unknown => (style::WARN, "unknown"),
            };
            let requirement = line.requirement;
            writeln!(
                out,
                "{style}{word:7}{style:#}  {}: {}",
                requirement.name,
                safe_escaped(&requirement.detail)
            )?;
            if line.state != State::Found {
                writeln!(out, "         what to do: {}", requirement.remedy)?;
            }
        }
        for foundation in self.verbs.iter().filter(|verb| !verb.missing.is_empty()) {
            let (style, missing) = (style::WARN, foundation.missing.join(", "));
            writeln!(
                out,
                "{style}not enforceable{style:#}  {}: this kernel has no {missing}",
                foundation.verb
            )?;
        }
        let (style, text) = match self.enforcement {
            Finding::Possible => (style::GOOD, "this machine can enforce"),
            Finding::Unknown => (
                style::WARN,
                "nothing is missing that an ordinary user can see; root has to look at the rest",
            ),
            Finding::Impossible => (style::BAD, "this machine can't enforce"),
        };
        writeln!(out, "\n{style}{text}{style:#}")
    }

    fn code(&self) -> Code {
        match self.enforcement {
            Finding::Possible => Code::Success,
            Finding::Unknown => Code::NotRoot,
            Finding::Impossible => Code::Failure,
        }
    }
}

/// Checks the machine.
pub fn run(args: &DoctorArgs) -> anyhow::Result<Code> {
    let host = host();
    let report = Report::new(
        &host.requirements,
        &host.absent,
        rustix::process::geteuid().is_root(),
    );
    let mut out = anstream::stdout().lock();
    if args.json {
        print_json(&report)?;
    } else {
        report.write(&mut out)?;
    }
    Ok(report.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(name: &'static str, found: bool, fatal: bool, code: Code) -> Requirement {
        Requirement {
            name,
            found,
            detail: format!("{name} is {found}"),
            remedy: "get it",
            fatal,
            code,
        }
    }

    #[test]
    fn one_fatal_want_makes_enforcement_impossible() {
        let list = [
            requirement("root", true, true, Code::NotRoot),
            requirement("btf", false, true, Code::NoBtf),
        ];
        let report = Report::new(&list, &[], true);
        assert_eq!(report.code(), Code::Failure);
        let mut out = Vec::new();
        report.write(&mut out).expect("a vector takes everything");
        let text = String::from_utf8(out).expect("text");
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            text,
            "found    root: root is true\n\
             missing  btf: btf is false\n         what to do: get it\n\n\
             this machine can't enforce\n"
        );
    }

    #[test]
    fn what_is_only_advised_does_not_stand_in_the_way() {
        let list = [requirement("sysctl", false, false, Code::Success)];
        assert_eq!(Report::new(&list, &[], true).code(), Code::Success);
    }

    #[test]
    fn an_ordinary_user_is_told_what_only_root_can_see() {
        let list = [
            requirement("root", false, true, Code::NotRoot),
            requirement("loading", false, true, Code::LoadingForbidden),
        ];
        assert_eq!(Report::new(&list, &[], false).enforcement, Finding::Unknown);
        assert_eq!(Report::new(&list, &[], false).code(), Code::NotRoot);
        assert_eq!(Report::new(&list, &[], true).code(), Code::Failure);
        let list = [
            requirement("root", false, true, Code::NotRoot),
            requirement("btf", false, true, Code::NoBtf),
        ];
        assert_eq!(Report::new(&list, &[], false).code(), Code::Failure);
    }

    #[test]
    fn what_the_kernel_has_no_hook_for_is_named() {
        let list = [requirement("btf", true, true, Code::NoBtf)];
        let report = Report::new(&list, &[Hook::PerfEventOpen, Hook::InodeSetAcl], true);
        let mut out = Vec::new();
        report.write(&mut out).expect("a vector takes everything");
        let text = String::from_utf8(out).expect("text");
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(
            text.contains("not enforceable  system.perf: this kernel has no perf_event_open\n"),
            "{text}"
        );
        assert!(!text.contains("inode_set_acl"));
    }

    #[test]
    fn the_json_has_the_finding_and_each_state() {
        let list = [requirement("btf", false, true, Code::NoBtf)];
        let json = serde_json::to_value(Report::new(&list, &[], true)).expect("JSON");
        assert_eq!(json["enforcement"], "impossible");
        assert_eq!(json["requirements"][0]["state"], "missing");
        assert_eq!(json["requirements"][0]["name"], "btf");
        assert_eq!(json["requirements"][0]["remedy"], "get it");
    }
}
