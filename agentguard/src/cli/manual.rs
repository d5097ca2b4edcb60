//! `agentguard completions` and `agentguard man`: generated from the command tree itself, so that a
//! package needs nothing but the binary to make them.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, bold, italic, roman},
};

use super::{Cli, run};
use crate::exit::Code;

/// Section of the manual: commands of the administrator.
const SECTION: &str = "8";

/// Files that a user of AgentGuard meets, for the manual page.
const FILES: [(&str, &str); 8] = [
    (
        "/etc/agentguard/policies/",
        "the profiles, one TOML file each",
    ),
    (
        "/etc/agentguard/policies/local.d/",
        "what was allowed for good when somebody was asked, a file for each profile that it is added to",
    ),
    (crate::config::PATH, "the daemon's configuration"),
    (
        "/var/log/agentguard/events.jsonl",
        "the event log, one JSON object per line; events-N.jsonl beside it are its closed files, from line N on",
    ),
    (crate::api::SOCKET, "the daemon's socket: HTTP/1.1 and JSON"),
    (
        "/run/agentguard/agent.sock",
        "the socket on which the daemon tells agents about themselves",
    ),
    (
        "/sys/fs/bpf/agentguard/",
        "the pinned programs, links and maps; they enforce also while no daemon runs",
    ),
    (
        "/sys/fs/cgroup/",
        "the cgroup v2 hierarchy, whose tagged cgroups are the agents",
    ),
];

/// Keys of the configuration about actions that wait and about the log, which are told nowhere else.
const KEYS: [(&str, &str); 7] = [
    (
        "approvals.notify = [\"/path/of/program\", \"argument\"]",
        "a program that is run as root for each action that waits, and reads the request as JSON from its \
         standard input. With answer_within its exit status is the answer: 0 is a yes, once; 1 is a no; another \
         is none",
    ),
    (
        "approvals.webhook = \"unix:/path/of/socket\"",
        "where each request is sent as JSON in an HTTP POST; http://HOST:PORT/PATH is possible as well. With \
         answer_within the body that comes back over a Unix socket is the answer, such as \
         {\"approve\": true, \"scope\": {\"for\": 600}, \"reason\": \"\"}; over http:// nothing is, because anybody on \
         the way could give it. https isn't spoken: have a program send it",
    ),
    (
        "approvals.answer_within = \"30s\"",
        "lets those two answer, in this time. Without it they are only told: a program that rings a bell and \
         succeeds has approved nothing",
    ),
    (
        "log.rotate_mib = 128",
        "the size at which a file of the log is closed, and the next one begun",
    ),
    (
        "log.rotate_after = \"24h\"",
        "the age of its first event at which it is, whatever its size",
    ),
    (
        "log.keep = 30",
        "closed files of the log that are kept. The oldest beyond them are removed, and the log says so in a \
         log.removed. Without it all are kept",
    ),
    (
        "log.heads_every = \"1m\"",
        "how often the journal is told the number and hash of the log's latest line, by which `agentguard log verify` \
         finds that lines are missing at the end",
    ),
];

/// Arguments of `agentguard completions`.
#[derive(Clone, Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of `agentguard man`.
#[derive(Clone, Debug, clap::Args)]
pub struct ManArgs {
    /// Directory to write one page per sub-command to; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints the completions for a shell.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<Code> {
    // Into memory first: clap_complete panics when its output can't be written.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "agentguard", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Code::Success)
}

/// Prints the main page, or writes every page to a directory.
pub fn man(args: &ManArgs) -> anyhow::Result<Code> {
    match &args.dir {
        None => write_main(&mut io::stdout().lock())?,
        Some(dir) => write_all(dir)?,
    }
    Ok(Code::Success)
}

fn write_all(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    for sub in command.get_subcommands() {
        write_below(sub, dir)?;
    }
    let path = dir.join(format!("agentguard.{SECTION}"));
    let mut page = Vec::new();
    write_main(&mut page)?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes the page of a sub-command and those of its own sub-commands.
fn write_below(command: &clap::Command, dir: &Path) -> anyhow::Result<()> {
    if command.is_hide_set() {
        return Ok(());
    }
    for sub in command.get_subcommands() {
        write_below(sub, dir)?;
    }
    Man::new(command.clone())
        .section(SECTION)
        .manual("AgentGuard")
        .source(concat!("agentguard ", env!("CARGO_PKG_VERSION")))
        .generate_to(dir)
        .with_context(|| {
            format!(
                "cannot write the page of `{}` to {}",
                command.get_name(),
                dir.display()
            )
        })?;
    Ok(())
}

/// Writes the main page: clap's sections, exit codes, files and examples.
fn write_main(out: &mut dyn Write) -> io::Result<()> {
    let command = Cli::command().disable_help_subcommand(true);
    let man = Man::new(command).section(SECTION).manual("AgentGuard");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_subcommands_section(out)?;
    man.render_options_section(out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([
        bold("agentguard run"),
        roman(" ends with the status of its command, or as it was killed by a signal. Otherwise:"),
    ]);
    let codes = Code::ALL.iter().map(|(code, text)| (*code as u8, *text));
    for (code, text) in codes.chain(run::STATUSES) {
        roff.control("TP", []);
        roff.text([bold(code.to_string())]);
        roff.text([roman(text)]);
    }
    roff.control("SH", ["FILES"]);
    for (path, text) in FILES {
        roff.control("TP", []);
        roff.text([italic(path)]);
        roff.text([roman(text)]);
    }
    roff.control("SH", ["CONFIGURATION"]);
    for (key, text) in KEYS {
        roff.control("TP", []);
        roff.text([bold(key)]);
        roff.text([roman(text)]);
    }
    roff.control("SH", ["EXAMPLES"]);
    for (text, line) in EXAMPLES {
        roff.control("PP", []);
        roff.text([roman(text)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.text([bold(line)]);
        roff.control("RE", []);
    }
    roff.to_writer(out)?;
    man.render_version_section(out)
}

const EXAMPLES: [(&str, &str); 5] = [
    (
        "Run a coding agent under the profile coding, as the user who calls sudo:",
        "sudo agentguard run --profile coding --name alice -- my-agent --resume",
    ),
    (
        "Watch what is denied to it:",
        "agentguard tail -f --agent alice --verdict deny",
    ),
    (
        "Hold everything in a service to a profile:",
        "agentguard tag system.slice/my-agent.service readonly",
    ),
    (
        "Be asked on this terminal about what waits:",
        "agentguard watch",
    ),
    ("Ask whether this machine can enforce:", "agentguard doctor"),
];

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn the_page_documents_every_exit_code() {
        let mut page = Vec::new();
        write_main(&mut page).expect("a vector takes everything");
        let page = String::from_utf8(page).expect("a page is UTF-8");
        for (code, _) in Code::ALL {
            assert!(
                page.contains(&format!("\\fB{}\\fR", code as u8)),
                "{code:?} is missing"
            );
        }
        for (status, _) in run::STATUSES {
            assert!(page.contains(&format!("\\fB{status}\\fR")));
        }
    }

    #[test]
    fn the_keys_on_the_page_are_ones_that_there_are() {
        for (key, _) in KEYS {
            let parsed = toml::from_str::<crate::config::Config>(key);
            assert!(parsed.is_ok(), "{key}: {parsed:?}");
        }
    }

    #[test]
    fn there_is_a_page_for_every_sub_command() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write_all(dir.path()).expect("the pages can be written");
        for sub in Cli::command().get_subcommands() {
            let page = dir.path().join(format!("agentguard-{}.8", sub.get_name()));
            assert_eq!(page.exists(), !sub.is_hide_set(), "{}", page.display());
        }
        assert!(dir.path().join("agentguard.8").exists());
    }

    #[test]
    fn every_shell_has_completions_that_know_the_options() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "agentguard", &mut script);
            let script = String::from_utf8(script).expect("a script is UTF-8");
            assert!(script.contains("profile"), "{shell}");
        }
    }
}
