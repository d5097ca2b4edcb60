//! The command line: the tree of sub-commands, and what all of them share (the way to the daemon,
//! colours, errors and exit codes). What each sub-command does is in its own file.

pub mod agents;
pub mod approve;
pub mod doctor;
pub mod log;
pub mod manual;
pub mod pending;
pub mod policy;
pub mod reload;
pub mod request;
pub mod run;
pub mod status;
pub mod style;
pub mod tag;
pub mod tail;
pub mod unload;
pub mod watch;
pub mod why;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    api::{
        client::{self, Client},
        types::{Refusal, RefusalCode},
    },
    config::{self, Config},
    daemon,
    exit::Code,
    loader,
    render::{safe, safe_escaped, safe_json},
};

/// Holds AI agents to what they were allowed to do, in the kernel, while they run
///
/// An agent is every process in a tagged cgroup, and all its descendants. Programs in the kernel decide
/// each of its actions (opening a file, running a program, connecting to an address) before the action
/// happens, by the rules of one profile. A daemon loads the profiles and writes what was decided to a
/// log.
#[derive(Debug, Parser)]
#[command(
    name = "agentguard",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "The exit codes are listed in the manual page: `agentguard man | man -l -`."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,

    #[command(subcommand)]
    pub command: Command,
}

/// Options of every sub-command.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Socket of the daemon [default: the configuration's, or /run/agentguard/agentguard.sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "AGENTGUARD_SOCKET",
        help_heading = "Global options"
    )]
    pub socket: Option<PathBuf>,

    /// When to colour the output; NO_COLOR and CLICOLOR_FORCE are honoured by `auto`
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub color: Color,
}

/// When output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    Auto,
    /// Also into files and pipes
    Always,
    /// Never
    Never,
}

impl From<Color> for anstream::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command as an agent, held to a profile
    ///
    /// Makes a tagged cgroup, enters it, makes sure that the kernel has labelled this process, becomes
    /// the user and runs CMD in its own place: CMD's exit status and signals are passed on. CMD is never
    /// run when the label can't be verified.
    ///
    /// CMD inherits standard input, output and error and no other descriptor. It can't gain privileges
    /// through set-user-ID programs (no_new_privs), and it leaves no core dumps. The agent lasts until
    /// its last process has ended, also when that outlives CMD.
    ///
    /// Exit status: CMD's own; 125 when agentguard itself failed and CMD was never run; 126 when CMD was
    /// found but could not be run, or the profile forbids it; 127 when CMD was not found.
    #[command(override_usage = "agentguard run [OPTIONS] --profile <PROFILE> -- <CMD>...")]
    Run(run::RunArgs),

    /// Make an existing cgroup an agent's: from now on every process in it is judged
    Tag(tag::TagArgs),

    /// Release the agent of a tagged cgroup: its processes are judged no longer
    Untag(tag::UntagArgs),

    /// List the agents
    Agents(agents::AgentsArgs),

    /// Show the latest events, and with -f those that come
    ///
    /// Reads from the daemon or, when none answers, from the log file. On a terminal an event is one
    /// line of text; into a file or pipe it is one line of JSON.
    Tail(tail::TailArgs),

    /// Check that the event log is as it was written
    Log(log::LogArgs),

    /// List the actions that wait for somebody to say yes or no
    ///
    /// A rule that asks holds the action, and only it, until somebody answers or its time is over, which
    /// is a no. What an agent chose (paths, arguments, its justification) is escaped and never begins a
    /// line.
    Pending(pending::PendingArgs),

    /// Let an action go on that waits
    ///
    /// Without an option it is a yes to this action, now. Needs root or membership of the group
    /// agentguard; a process of an agent can't answer, whatever its user.
    Approve(approve::ApproveArgs),

    /// Refuse an action that waits
    Deny(approve::DenyArgs),

    /// Ask a person, on this terminal: show each action that waits, and take one key for an answer
    ///
    /// y: yes, once; n: no; f: yes, for ten minutes; a: yes, for good (the policy is changed, and the
    /// change shown); s: skip; q: quit. A key that comes within the first moment of a request is not
    /// taken for an answer to it. Use a terminal that no agent writes to.
    Watch(watch::WatchArgs),

    /// Say whether agents are held to their profiles right now, and how it goes
    ///
    /// Exit status: 0 when everything is enforced, 1 when something is not, 17 when no daemon answers
    /// (the kernel may still enforce; the output says so).
    Status(status::StatusArgs),

    /// Inside of an agent: say what it was refused lately, by which rule, and what a person could do
    ///
    /// Asks a socket that answers every process of an agent, whatever its profile, about its own agent
    /// and nothing else.
    Why(why::WhyArgs),

    /// Inside of an agent: say why an action that waits is needed, to the person who decides about it
    ///
    /// The person sees it as text that nobody has checked. It changes nothing else.
    Justify(why::JustifyArgs),

    /// Check, explain, test and describe policies; needs no daemon
    Policy(policy::PolicyArgs),

    /// Run the daemon: load the policies into the kernel, write the event log, answer the commands
    ///
    /// It says that it enforces only after a helper process was refused what its profile forbids. When it
    /// stops, however it stops, what the kernel enforces stays enforced.
    Daemon(daemon::Arguments),

    /// The daemon's proof that the kernel enforces: tries what the canary's profile forbids
    #[command(hide = true)]
    Canary(daemon::canary::Arguments),

    /// Load the policies anew
    ///
    /// All or nothing: when a policy is wrong, the diagnostics are printed and the policy in force
    /// stays in force. Exit status: 0 when the new policy is in force, 15 when it was refused.
    Reload(reload::ReloadArgs),

    /// Check whether this machine can enforce, and say what to do when it can't
    ///
    /// Needs no daemon. As an ordinary user it checks what such a user can see and says what it could
    /// not check. Exit status: 0 when enforcement is possible, 1 when it is not.
    Doctor(doctor::DoctorArgs),

    /// Take everything out of the kernel: nothing is enforced any more
    ///
    /// Stopping the daemon does not end enforcement; this does. The daemon must not run. With agents
    /// active it is refused unless forced: their processes would go on, held to nothing.
    Unload(unload::UnloadArgs),

    /// Print the completions for a shell
    Completions(manual::CompletionsArgs),

    /// Print the manual page, or write all manual pages to a directory
    Man(manual::ManArgs),
}

/// Parses the command line, carries it out and tells how that ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    anstream::ColorChoice::from(cli.global.color).write_global();
    // Only for those that ask for it: the canary is an agent that may not read it.
    let config = || configuration(&cli.global);
    let done = match &cli.command {
        Command::Run(args) => return run::run(args, &config()).into(),
        Command::Tag(args) => tag::tag(args, &config()),
        Command::Untag(args) => tag::untag(args, &config()),
        Command::Agents(args) => agents::run(args, &config()),
        Command::Tail(args) => tail::run(args, &config()),
        Command::Log(args) => log::run(args, &config()),
        Command::Pending(args) => pending::run(args, &config()),
        Command::Approve(args) => approve::approve(args, &config()),
        Command::Deny(args) => approve::deny(args, &config()),
        Command::Watch(args) => watch::run(args, &config()),
        Command::Status(args) => status::run(args, &config()),
        Command::Why(args) => why::run(args, cli.global.socket.as_deref()),
        Command::Justify(args) => why::justify(args, cli.global.socket.as_deref()),
        Command::Policy(args) => policy::run(args),
        Command::Daemon(args) => return daemon::main(args, cli.global.socket.as_deref()).into(),
        Command::Canary(args) => return daemon::canary::helper(args).into(),
        Command::Reload(args) => reload::run(args, &config()),
        Command::Doctor(args) => doctor::run(args),
        Command::Unload(args) => unload::run(args, &config()),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
    };
    match done {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => Code::Success,
        Err(error) => {
            report(&error);
            code_of(&error)
        }
    }
    .into()
}

/// The configuration as far as the command line needs it: where the daemon listens, writes and pins.
/// One that can't be read is told and passed over, so that a daemon that still runs can be asked.
fn configuration(global: &Global) -> Config {
    let mut config = Config::read(Path::new(config::PATH), false).unwrap_or_else(|error| {
        let warn = style::WARN;
        let error = error.to_string();
        anstream::eprintln!(
            "{warn}agentguard:{warn:#} {}; going on with the defaults",
            safe_escaped(&error)
        );
        Config::default()
    });
    if let Some(socket) = &global.socket {
        config.socket = socket.clone();
    }
    config
}

/// What goes wrong on the command line's own side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request needs a profile that there is not.
    #[error("{error}; installed profiles: {}", list(known))]
    UnknownProfile {
        error: client::Error,
        known: Vec<String>,
    },
}

/// An operation that is root's. The field says which.
#[derive(Debug, thiserror::Error)]
#[error("only root can {0}; try again with sudo")]
pub struct NotRoot(pub &'static str);

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = names.iter().map(|name| safe(name).to_string()).collect();
    shown.join(", ")
}

/// Adds the names of the known profiles to the refusal of an unknown one.
fn name_profiles(error: client::Error, client: &mut Client) -> anyhow::Error {
    match &error {
        client::Error::Refused(refusal) if refusal.code == RefusalCode::UnknownProfile => {
            let Ok(policy) = client.policy() else {
                return error.into();
            };
            let known = policy.profiles.into_iter().map(|profile| profile.name);
            Error::UnknownProfile {
                error,
                known: known.collect(),
            }
            .into()
        }
        _ => error.into(),
    }
}

/// Prints what a refusal says over several lines, on standard error.
fn print_details(refusal: &Refusal) -> anyhow::Result<()> {
    let mut err = anstream::stderr().lock();
    for line in refusal.diagnostics.iter().flat_map(|text| text.lines()) {
        writeln!(err, "{}", safe_escaped(line))?;
    }
    Ok(())
}

/// Prints a value as JSON over several lines.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        writeln!(out, "{}", safe_json(&json))?;
    } else {
        writeln!(out, "{json}")?;
    }
    Ok(())
}

/// Prints an error with its causes as one line on standard error. A broken standard error is no
/// reason to fail differently.
fn report(error: &anyhow::Error) {
    let bad = style::BAD;
    let shown = one_line(error);
    anstream::eprintln!("{bad}agentguard:{bad:#} {}", safe_escaped(&shown));
}

/// The error and its causes. A cause that the message above it has told already is left out.
fn one_line(error: &anyhow::Error) -> String {
    let mut shown = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !shown.contains(&cause) {
            if !shown.is_empty() {
                shown.push_str(": ");
            }
            shown.push_str(&cause);
        }
    }
    shown
}

/// The exit code of the first cause that has one.
fn code_of(error: &anyhow::Error) -> Code {
    error
        .chain()
        .find_map(code_of_cause)
        .unwrap_or(Code::Failure)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Code> {
    if let Some(error) = cause.downcast_ref::<client::Error>() {
        Some(error.code())
    } else if let Some(error) = cause.downcast_ref::<loader::Error>() {
        Some(error.code())
    } else if let Some(Error::UnknownProfile { error, .. }) = cause.downcast_ref() {
        Some(error.code())
    } else if cause.is::<NotRoot>() {
        Some(Code::NotRoot)
    } else if cause.is::<unload::DaemonRuns>() {
        Some(Code::AlreadyRunning)
    } else {
        None
    }
}

/// Whether the reader of our output has gone: no fault, and nobody to tell.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[track_caller]
    fn parse(line: &[&str]) -> Command {
        let line = std::iter::once(&"agentguard").chain(line);
        match Cli::try_parse_from(line) {
            Ok(cli) => cli.command,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_tree_is_sound_and_every_part_of_it_has_help() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let name = format!("{} {}", command.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{name}");
            }
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                check(sub);
            }
        }
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        check(&command);
    }

    #[test]
    fn what_follows_two_dashes_is_the_agents_own() {
        let Command::Run(run) = parse(&[
            "run",
            "--profile",
            "coding",
            "--user",
            "bob",
            "--",
            "cmd",
            "--user",
            "eve",
            "--",
            "-x",
        ]) else {
            panic!("not run");
        };
        assert_eq!(run.profile, "coding");
        assert_eq!(run.user.as_deref(), Some("bob"));
        assert_eq!(run.name, None);
        assert_eq!(run.command, ["cmd", "--user", "eve", "--", "-x"]);
    }

    #[test]
    fn filters_are_lists_however_they_are_written() {
        let Command::Tail(tail) = parse(&[
            "tail",
            "-fn3",
            "--verdict",
            "deny,kill",
            "--verdict=ask",
            "--agent",
            "a",
            "--agent",
            "b",
        ]) else {
            panic!("not tail");
        };
        assert!(tail.follow && !tail.json && !tail.text);
        assert_eq!(tail.lines, 3);
        assert_eq!(tail.filter.verdicts.len(), 3);
        assert_eq!(tail.filter.agents, ["a", "b"]);
        let Command::Tail(tail) = parse(&["tail"]) else {
            panic!("not tail");
        };
        assert_eq!(tail.lines, 10);
        assert!(tail.filter.is_empty());
    }

    #[test]
    fn a_cgroup_is_made_absolute() {
        let Command::Tag(tag) = parse(&["tag", "system.slice/a.service", "coding"]) else {
            panic!("not tag");
        };
        assert_eq!(
            tag.cgroup,
            Path::new("/sys/fs/cgroup/system.slice/a.service")
        );
        assert_eq!(tag.profile, "coding");
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in [
            ["agentguard", "--color", "never", "status"],
            ["agentguard", "status", "--color", "never"],
        ] {
            let cli = Cli::try_parse_from(line).expect("a command line");
            assert_eq!(cli.global.color, Color::Never);
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let gone = client::Error::Unreachable {
            socket: "/s".into(),
            source: io::Error::other("nobody there"),
        };
        let told = one_line(&anyhow::Error::from(gone).context("cannot start an agent"));
        assert!(
            told.starts_with("cannot start an agent: cannot reach"),
            "{told}"
        );
        assert_eq!(told.matches("nobody there").count(), 1, "{told}");
    }

    #[test]
    fn the_code_is_that_of_the_cause() {
        let refused = |code| {
            client::Error::Refused(Refusal {
                code,
                message: String::new(),
                diagnostics: None,
            })
        };
        let error = anyhow::Error::from(refused(RefusalCode::Forbidden)).context("cannot");
        assert_eq!(code_of(&error), Code::Forbidden);
        let unknown = Error::UnknownProfile {
            error: refused(RefusalCode::UnknownProfile),
            known: vec!["a".to_owned(), "b\u{1b}".to_owned()],
        };
        assert!(
            unknown
                .to_string()
                .ends_with("installed profiles: a, b\\u{1b}")
        );
        assert_eq!(code_of(&unknown.into()), Code::RequestRefused);
        assert_eq!(code_of(&NotRoot("x").into()), Code::NotRoot);
        assert_eq!(code_of(&anyhow::anyhow!("else")), Code::Failure);
    }
}
