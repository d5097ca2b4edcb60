//! `agentguard policy`: checks, explains and tests policy files. Needs neither root nor a daemon nor a
//! kernel that can enforce.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    exit::Code,
    policy::{
        self, Access, Ask, Capabilities, Diagnostics, Loaded, PatternError, Style, TestResult,
    },
};

/// Where the installed profiles are.
const POLICIES: &str = "/etc/agentguard/policies";

/// Arguments of `agentguard policy`.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum PolicyCommand {
    /// Find everything that is wrong with policy files
    ///
    /// Each finding names the file, the line, the column and the offending text, and says what to write
    /// instead. Profiles that a file includes are looked for beside it, and checked too. Exit status: 0
    /// when all files can be used (there may be warnings), 1 when there are errors.
    Check(CheckArgs),

    /// Say what a profile does about one action, and which rule says so
    ///
    /// The verdict comes from the function that also decides in the kernel. Paths are as the kernel
    /// resolves them: absolute, with symbolic links followed. Exit status: 0 whatever the verdict.
    Explain(ExplainArgs),

    /// Run the [[test]] tables of policy files
    ///
    /// Exit status: 0 when every test passed, 1 when one failed or a file can't be used.
    Test(TestArgs),

    /// Print the JSON Schema of policy files, for editors
    Schema,
}

#[derive(Clone, Debug, Args)]
struct CheckArgs {
    /// Policy files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Print one JSON object with all findings
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Args)]
struct ExplainArgs {
    /// Name of the profile, or a policy file
    #[arg(long, short, value_name = "PROFILE")]
    profile: PathBuf,

    /// Folder of the profiles
    #[arg(long, value_name = "DIR", default_value = POLICIES)]
    policies: PathBuf,

    /// Print the answer as a JSON object
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    question: QuestionArgs,
}

#[derive(Clone, Debug, Subcommand)]
enum QuestionArgs {
    /// Opening or changing a file or folder
    Open {
        /// Absolute path of the file
        path: OsString,

        /// What for; several are judged together, and the strictest verdict counts
        #[arg(
            long,
            short,
            value_enum,
            value_delimiter = ',',
            value_name = "ACCESS",
            default_value = "read"
        )]
        access: Vec<Access>,
    },

    /// Running a program
    Exec {
        /// Absolute path of the program, or memfd: or deleted: for one that has none
        path: OsString,

        /// Arguments that the program is run with, without its own name
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },

    /// Mapping a file as code, as the loader does with libraries
    Map {
        /// Absolute path of the file, or memfd: or deleted: for one that has none
        path: OsString,
    },

    /// Connecting to an address, or sending to it
    Connect {
        /// [tcp://|udp://|sctp://|icmp://]ADDRESS:PORT (tcp if not written), unix:/path or unix:@name
        address: String,
    },

    /// Listening on a local address
    Listen {
        /// [tcp://|udp://|sctp://]ADDRESS:PORT (tcp if not written)
        address: String,
    },
}

#[derive(Clone, Debug, Args)]
struct TestArgs {
    /// Policy files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Print one JSON object with all results
    #[arg(long)]
    json: bool,
}

/// Carries out `agentguard policy`.
pub fn run(args: &PolicyArgs) -> anyhow::Result<Code> {
    match &args.command {
        PolicyCommand::Check(args) => check(args),
        PolicyCommand::Explain(args) => explain(args),
        PolicyCommand::Test(args) => test(args),
        PolicyCommand::Schema => {
            print_json(policy::schema::schema().as_value())?;
            Ok(Code::Success)
        }
    }
}

fn check(args: &CheckArgs) -> anyhow::Result<Code> {
    let mut found = Diagnostics::default();
    let mut usable = Vec::new();
    for file in policy_files(&args.files)? {
        match policy::load_file(&file, &Capabilities::all()) {
            Ok(loaded) => {
                found.extend_new(loaded.warnings.clone());
                usable.push((file, loaded));
            }
            Err(errors) => found.extend_new(errors),
        }
    }
    let code = if found.has_errors() {
        Code::Failure
    } else {
        Code::Success
    };
    if args.json {
        print_json(&json!({
            "errors": found.errors(),
            "warnings": found.warnings(),
            "diagnostics": found.to_json(),
        }))?;
        return Ok(code);
    }
    print_diagnostics(&found)?;
    let mut out = anstream::stdout().lock();
    for (file, loaded) in usable {
        let profile = &loaded.profile;
        writeln!(
            out,
            "{}: ok: profile {}, {} rules, {} KiB of tables",
            file.display(),
            profile.name,
            profile.rules.len(),
            profile.len_bytes().div_ceil(1024)
        )?;
    }
    if !found.is_empty() {
        writeln!(
            out,
            "{} error(s), {} warning(s)",
            found.errors(),
            found.warnings()
        )?;
    }
    Ok(code)
}

fn explain(args: &ExplainArgs) -> anyhow::Result<Code> {
    let ask = match question(&args.question) {
        Ok(ask) => ask,
        Err((text, error)) => {
            let text = text.to_string_lossy();
            let shown: String = text
                .chars()
                .take(200)
                .flat_map(char::escape_debug)
                .collect();
            anstream::eprintln!("agentguard: {error}: {shown}\n  {}", error.help);
            return Ok(Code::Usage);
        }
    };
    let capabilities = Capabilities::all();
    let loaded = if is_file_name(&args.profile) {
        policy::load_file(&args.profile, &capabilities)
    } else {
        let name = args.profile.to_string_lossy();
        policy::load_profile(&args.policies, &name, &capabilities)
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            print_diagnostics(&errors)?;
            return Ok(
                if errors
                    .iter()
                    .any(|error| error.code == policy::UNKNOWN_PROFILE)
                {
                    Code::RequestRefused
                } else {
                    Code::PolicyRefused
                },
            );
        }
    };
    let answer = policy::explain(&loaded.profile, &ask);
    if args.json {
        print_json(&answer)?;
    } else {
        write!(anstream::stdout(), "{answer}")?;
    }
    Ok(Code::Success)
}

fn test(args: &TestArgs) -> anyhow::Result<Code> {
    let mut problems = Diagnostics::default();
    let mut results: Vec<TestResult> = Vec::new();
    let mut without = Vec::new();
    for file in policy_files(&args.files)? {
        match policy::load_file(&file, &Capabilities::all()) {
            Ok(loaded) => {
                if loaded.tests.is_empty() {
                    without.push(file);
                }
                results.extend(run_tests(&loaded));
            }
            Err(errors) => problems.extend_new(errors),
        }
    }
    let failed = results.iter().filter(|result| !result.passed).count();
    let code = if failed > 0 || problems.has_errors() {
        Code::Failure
    } else {
        Code::Success
    };
    if args.json {
        print_json(&json!({
            "passed": results.len() - failed,
            "failed": failed,
            "results": results,
            "without_tests": without,
            "diagnostics": problems.to_json(),
        }))?;
        return Ok(code);
    }
    print_diagnostics(&problems)?;
    let mut out = anstream::stdout().lock();
    for result in &results {
        writeln!(out, "{result}")?;
    }
    for file in without {
        writeln!(out, "{}: has no [[test]] tables", file.display())?;
    }
    writeln!(out, "{} passed, {failed} failed", results.len() - failed)?;
    Ok(code)
}

fn run_tests(loaded: &Loaded) -> impl Iterator<Item = TestResult> {
    loaded
        .tests
        .iter()
        .map(|test| policy::run_test(&loaded.profile, test))
}

/// What the command line asks. An error comes with the argument that it is about.
fn question(args: &QuestionArgs) -> Result<Ask, (&OsStr, PatternError)> {
    match args {
        QuestionArgs::Open { path, access } => policy::parse_path(path.as_bytes())
            .map(|bytes| Ask::Open {
                path: bytes,
                access: access.clone(),
            })
            .map_err(|error| (path.as_os_str(), error)),
        QuestionArgs::Exec { path, arguments } => policy::parse_program(path.as_bytes())
            .map(|path| Ask::Exec {
                path,
                args: arguments
                    .iter()
                    .map(|text| text.as_bytes().to_vec())
                    .collect(),
            })
            .map_err(|error| (path.as_os_str(), error)),
        QuestionArgs::Map { path } => policy::parse_program(path.as_bytes())
            .map(|path| Ask::Map { path })
            .map_err(|error| (path.as_os_str(), error)),
        QuestionArgs::Connect { address } => policy::parse_destination(address)
            .map(|address| Ask::Connect { address })
            .map_err(|error| (OsStr::new(address), error)),
        QuestionArgs::Listen { address } => policy::parse_listen(address)
            .map(|address| Ask::Listen { address })
            .map_err(|error| (OsStr::new(address), error)),
    }
}

/// Whether `--profile` names a file rather than a profile.
fn is_file_name(profile: &Path) -> bool {
    profile.as_os_str().as_bytes().contains(&b'/')
        || profile.extension().is_some_and(|ending| ending == "toml")
}

/// The files that the command line names, folders replaced by the policy files in them.
fn policy_files(named: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        files.extend(
            policy::list_dir(path)
                .with_context(|| format!("cannot read policy folder {}", path.display()))?,
        );
    }
    Ok(files)
}

/// Shows findings on standard error: drawn on a terminal, as lines elsewhere.
fn print_diagnostics(diagnostics: &Diagnostics) -> anyhow::Result<()> {
    let style = if io::stderr().is_terminal() {
        Style::Graphical
    } else {
        Style::Plain
    };
    write!(anstream::stderr(), "{}", diagnostics.render(style))?;
    Ok(())
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    writeln!(io::stdout(), "{json}")?;
    Ok(())
}
