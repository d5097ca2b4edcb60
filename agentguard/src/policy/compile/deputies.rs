//! Warns of rules, and of a default, that let an agent talk to something that acts for it outside of its cgroup
//! (a confused deputy). What such a thing does is not judged as the agent's.

use agentguard_common::{
    Outcome, Verdict,
    profile::{Subject, verb},
};

use crate::policy::{
    diagnostic::{Diagnostic, Diagnostics, Severity},
    model::{Document, Rule},
    profile::CompiledProfile,
    simulator::{Object, ask},
};

/// An address where each kind of them listens by custom, and what whoever may talk to it can do.
const DEPUTIES: [(&str, &str); 18] = [
    (
        "/run/docker.sock",
        "a container engine runs anything as root",
    ),
    (
        "/run/containerd/containerd.sock",
        "a container engine runs anything as root",
    ),
    (
        "/run/podman/podman.sock",
        "a container engine runs anything as root",
    ),
    (
        "/run/user/1000/podman/podman.sock",
        "a container engine runs anything as the user",
    ),
    (
        "/run/libvirt/libvirt-sock",
        "virtual machines get any file and device of the machine",
    ),
    (
        "/run/dbus/system_bus_socket",
        "the system bus starts services, and init behind it units",
    ),
    (
        "/run/user/1000/bus",
        "the session bus starts programs, and systemd behind it units, as the user",
    ),
    ("/run/systemd/private", "init starts units as root"),
    (
        "/run/user/1000/systemd/private",
        "the user's init starts units as the user",
    ),
    (
        "/run/systemd/io.systemd.Manager",
        "init starts units as root",
    ),
    ("/run/snapd.socket", "snapd installs and runs programs"),
    (
        "/tmp/tmux-1000/default",
        "a terminal's server types into the user's shells",
    ),
    (
        "/run/user/1000/emacs/server",
        "an editor runs whatever it is sent as the user",
    ),
    (
        "/nix/var/nix/daemon-socket/socket",
        "a build daemon runs what it is asked to build",
    ),
    (
        "@/containerd-shim/s",
        "a container engine runs anything as root",
    ),
    ("/tmp/ssh-1/agent.1", "a key agent logs in as the user"),
    (
        "/run/user/1000/gnupg/S.gpg-agent",
        "a key agent signs and decrypts as the user",
    ),
    (
        "@/tmp/.X11-unix/X0",
        "a display sees and types what the user types",
    ),
];

/// Warns once for each allow rule that opens the way to one, and once of the default.
pub(super) fn check(
    document: &Document,
    profile: &CompiledProfile,
    rules: &[Rule],
    diagnostics: &mut Diagnostics,
) {
    let mut told = vec![false; rules.len()];
    let mut by_default = Vec::new();
    for (address, what) in DEPUTIES {
        let object = Object::new(address.as_bytes());
        let outcome = ask(profile, Subject::Unix, verb::bit(verb::ONLY), &object).outcome;
        if outcome.rank() != Verdict::Allow as u32 {
            continue;
        }
        let index = outcome.rule();
        if index == Outcome::DEFAULT_RULE {
            by_default.push((address, what));
            continue;
        }
        let Some(rule) = rules.get(index as usize) else {
            continue;
        };
        if std::mem::replace(&mut told[index as usize], true) {
            continue;
        }
        let pattern = rule
            .patterns
            .iter()
            .find(|pattern| pattern.subject == Subject::Unix);
        diagnostics.push(Diagnostic::at(
            &rule.source,
            pattern.map_or_else(|| rule.span.clone(), |pattern| pattern.span.clone()),
            Severity::Warning,
            "confused-deputy",
            format!(
                "rule \"{}\" allows unix:{address}: {what}, and nothing of that is judged as the agent's",
                rule.id
            ),
            Some("leave it out, unless the agent may do all of that".to_owned()),
        ));
    }
    let Some(((address, what), others)) = by_default.split_first() else {
        return;
    };
    let others = match others.len() {
        0 => String::new(),
        others => format!(" (and {others} more of the kind)"),
    };
    let (_, span) = &document.defaults.verdicts[Subject::Unix as usize][usize::from(verb::ONLY)];
    diagnostics.push(Diagnostic::at(
        &document.source,
        span.clone(),
        Severity::Warning,
        "confused-deputy",
        format!(
            "the default allows unix:{address}{others}: {what}, and nothing of that is judged as the agent's"
        ),
        Some("include = [\"baseline\"], which denies them, or write connect = \"deny\"".to_owned()),
    ));
}
