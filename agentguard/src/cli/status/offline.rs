//! The status when no daemon answers: what lies pinned in the BPF file system enforces without it. It
//! only looks at names; what the kernel programs decide can't be seen from here.

use std::{
    io::{self, Write},
    path::Path,
};

use agentguard_common::counter::Hook;
use anyhow::Context as _;
use serde::Serialize;

use crate::{
    api::client,
    cli::{print_json, style},
    exit::Code,
    loader::requirements,
    pins::Pins,
    render::safe_escaped,
};

/// What is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Pinned {
    /// Always false: there is no daemon that could say so.
    enforcing: bool,
    /// Whether the kernel still enforces: `None` when the pins can't be read.
    kernel_enforces: Option<bool>,
    /// Hooks whose link is pinned.
    attached: Vec<&'static str>,
    /// Hooks without a pinned link.
    missing: Vec<&'static str>,
    /// Why the daemon could not be asked.
    problem: String,
}

impl Pinned {
    /// Sorts the hooks that this kernel has by the names of the pinned links, `None` when they can't be read.
    fn new(links: Option<&[String]>, absent: &[Hook], problem: String) -> Self {
        // Those of cgroups are attached to each agent's.
        let hooks = Hook::ALL
            .iter()
            .filter(|hook| !hook.is_of_cgroups() && !absent.contains(hook))
            .map(|hook| hook.name());
        let (attached, missing): (Vec<_>, Vec<_>) = match links {
            Some(links) => hooks.partition(|hook| links.iter().any(|link| link == hook)),
            None => (Vec::new(), Vec::new()),
        };
        Self {
            enforcing: false,
            kernel_enforces: links.map(|_| missing.is_empty()),
            attached,
            missing,
            problem,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (bad, warn) = (style::BAD, style::WARN);
        match self.kernel_enforces {
            Some(true) => writeln!(
                out,
                "{warn}NO DAEMON, BUT THE KERNEL ENFORCES{warn:#}: what was denied stays denied (all \
                 {} hooks are pinned), asks are denied, and nothing is written to the log",
                self.attached.len()
            )?,
            Some(false) if self.attached.is_empty() => writeln!(
                out,
                "{bad}NOT ENFORCING{bad:#}: nothing is loaded in the kernel, and no daemon runs"
            )?,
            Some(false) => writeln!(
                out,
                "{bad}NOT ENFORCING{bad:#}: no daemon runs, and these hooks are missing: {}",
                self.missing.join(", ")
            )?,
            None => writeln!(
                out,
                "{bad}NOT KNOWN{bad:#}: no daemon answers, and only root can see what is pinned"
            )?,
        }
        writeln!(
            out,
            "  {bad}problem:{bad:#} {}",
            safe_escaped(&self.problem)
        )?;
        writeln!(
            out,
            "  {warn}what to do:{warn:#} `systemctl start agentguard.service`; when that fails, \
             `journalctl -u agentguard.service` and `agentguard doctor` say why"
        )
    }
}

/// Tells what is pinned, and that no daemon answers.
pub fn tell(json: bool, pins: &Path, error: &client::Error) -> anyhow::Result<Code> {
    let absent = requirements::absent_hooks();
    let links = Pins::new(pins).links();
    let pinned = match links {
        Ok(links) => Pinned::new(Some(&links), &absent, error.to_string()),
        Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
            Pinned::new(None, &absent, error.to_string())
        }
        Err(error) => return Err(error).context("cannot tell the status"),
    };
    let mut out = anstream::stdout().lock();
    if json {
        print_json(&pinned)?;
    } else {
        pinned.write(&mut out)?;
    }
    Ok(Code::DaemonUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pinned: &Pinned) -> String {
        let mut out = Vec::new();
        pinned.write(&mut out).expect("a vector takes everything");
        let text = String::from_utf8(out).expect("text");
        anstream::adapter::strip_str(&text).to_string()
    }

    fn all() -> Vec<String> {
        Hook::ALL
            .iter()
            .map(|hook| hook.name().to_owned())
            .collect()
    }

    #[test]
    fn with_every_link_pinned_the_kernel_enforces() {
        let pinned = Pinned::new(Some(&all()), &[], "no socket".to_owned());
        assert_eq!(pinned.kernel_enforces, Some(true));
        let text = shown(&pinned);
        assert!(
            text.starts_with("NO DAEMON, BUT THE KERNEL ENFORCES"),
            "{text}"
        );
        assert!(text.contains("problem: no socket"));
    }

    #[test]
    fn one_missing_link_is_not_enforcement() {
        let mut links = all();
        links.retain(|link| link != "file_open");
        let pinned = Pinned::new(Some(&links), &[], String::new());
        assert_eq!(pinned.kernel_enforces, Some(false));
        assert_eq!(pinned.missing, ["file_open"]);
        assert!(shown(&pinned).contains("missing: file_open"));
        // On a kernel that has no such hook there is nothing to miss.
        let pinned = Pinned::new(Some(&links), &[Hook::FileOpen], String::new());
        assert_eq!(pinned.kernel_enforces, Some(true));
    }

    #[test]
    fn without_pins_nothing_is_enforced_and_without_access_nothing_is_known() {
        let none = Pinned::new(Some(&[]), &[], String::new());
        assert!(shown(&none).contains("nothing is loaded"));
        let unknown = Pinned::new(None, &[], String::new());
        assert_eq!(unknown.kernel_enforces, None);
        assert!(shown(&unknown).starts_with("NOT KNOWN"));
    }
}
