//! `agentguard log`: whether the log is as it was written.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context as _;
use blake3::Hash;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{NotRoot, print_json, style};
use crate::{
    api::client::Client,
    config::Config,
    exit::Code,
    render::safe_escaped,
    sink::{
        journal,
        log::{FILE, Head},
        verify::{Error, Known, Verified, verify},
    },
};

/// Arguments of `agentguard log`.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum LogCommand {
    /// Check that no line of the log was altered, removed, added or moved
    ///
    /// Each line holds the hash of the one before it, over all files. What this can't show by itself, a
    /// log whose end is missing or that was written anew, shows in the lines that others know: the daemon,
    /// if it runs; the journal, which is told the latest line every minute; and --head. Exit status: 0
    /// when the log is as it was written, 1 when it is not; the first line that shows it is named.
    Verify(VerifyArgs),
}

#[derive(Clone, Debug, Args)]
struct VerifyArgs {
    /// Folder of the log [default: the configuration's, or /var/log/agentguard]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,

    /// A line that is known from elsewhere, by its number and hash; can be given again
    #[arg(long = "head", value_name = "SEQ:HASH")]
    heads: Vec<Given>,

    /// Ask the journal only for what it was told since then, as `journalctl --since` takes it
    #[arg(long, value_name = "TIME", conflicts_with = "no_journal")]
    since: Option<String>,

    /// Don't ask the journal
    #[arg(long)]
    no_journal: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// A head as it is given on the command line.
#[derive(Clone, Copy, Debug)]
struct Given(Head);

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let head = text.split_once(':').and_then(|(seq, hash)| {
            Some(Head {
                seq: seq.parse().ok().filter(|seq| *seq > 0)?,
                hash: Hash::from_hex(hash).ok()?,
            })
        });
        head.map(Self)
            .ok_or_else(|| "not a line's number, a colon and 64 hexadecimal digits".to_owned())
    }
}

/// Carries out a sub-command.
pub fn run(args: &LogArgs, config: &Config) -> anyhow::Result<Code> {
    let LogCommand::Verify(args) = &args.command;
    let directory = match &args.directory {
        Some(directory) => std::path::absolute(directory)
            .with_context(|| format!("cannot find {}", directory.display()))?,
        None => config.log.dir.clone(),
    };
    let known = known(args, &directory.join(FILE), config);
    match verify(&directory, &known) {
        Ok(verified) if args.json => {
            print_json(&json!({ "verified": true, "log": verified }))?;
            Ok(Code::Success)
        }
        Ok(verified) => {
            show(&verified)?;
            Ok(Code::Success)
        }
        Err(Error::Tampered(found)) if args.json => {
            print_json(&json!({
                "verified": false,
                "file": found.file,
                "line": found.line,
                "problem": found.what.to_string(),
            }))?;
            Ok(Code::Failure)
        }
        Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(NotRoot("read all files of the log").into())
        }
        Err(error) => Err(error).context("the log is not verified"),
    }
}

/// What others know of the log at `path`.
fn known(args: &VerifyArgs, path: &Path, config: &Config) -> Vec<Known> {
    let mut known: Vec<Known> = args
        .heads
        .iter()
        .map(|given| Known {
            head: given.0,
            by: "--head".to_owned(),
        })
        .collect();
    let status = Client::connect(&config.socket).and_then(|mut client| client.status());
    if let Ok(status) = status
        && status.log.path == path
        && status.log.backlog == 0
        && let Some(hash) = &status.log.hash
        && let Ok(hash) = Hash::from_hex(hash)
    {
        let seq = status.log.seq;
        known.push(Known {
            head: Head { seq, hash },
            by: "the daemon".to_owned(),
        });
    }
    if !args.no_journal {
        match journal::told(path, args.since.as_deref()) {
            Ok(told) => known.extend(told),
            Err(error) => {
                let warn = style::WARN;
                let error = error.to_string();
                anstream::eprintln!(
                    "{warn}agentguard:{warn:#} the journal can't be asked: {}",
                    safe_escaped(&error)
                );
            }
        }
    }
    known
}

fn show(verified: &Verified) -> anyhow::Result<()> {
    let (good, warn) = (style::GOOD, style::WARN);
    let mut out = anstream::stdout().lock();
    let Verified {
        files,
        lines,
        first_seq,
        last_seq,
        hash,
        compared,
        ..
    } = verified;
    if *lines == 0 {
        writeln!(out, "{good}verified{good:#}  no line is written yet")?;
    } else {
        writeln!(
            out,
            "{good}verified{good:#}  {} in {}, from {first_seq} to {last_seq}",
            counted(*lines, "line"),
            counted(*files as u64, "file")
        )?;
        writeln!(out, "head      {last_seq}:{hash}")?;
    }
    if *first_seq > 1 {
        writeln!(
            out,
            "removed   the lines before {first_seq}, by the daemon, as it was configured"
        )?;
    }
    match verified.compared_to {
        Some(last) => writeln!(
            out,
            "compared  with {} that others know, up to {last}",
            counted(*compared as u64, "line")
        )?,
        None => writeln!(
            out,
            "{warn}compared  with nothing: if lines are missing at the end, or all was written anew, it doesn't \
             show{warn:#}"
        )?,
    }
    if verified.unfinished_bytes > 0 {
        writeln!(
            out,
            "{warn}unfinished{warn:#}  {} bytes at the end are no line (yet)",
            verified.unfinished_bytes
        )?;
    }
    Ok(())
}

fn counted(count: u64, of: &str) -> String {
    let more = if count == 1 { "" } else { "s" };
    format!("{count} {of}{more}")
}
