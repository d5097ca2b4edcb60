//! `cargo xtask`: the command line of everything a developer of AgentGuard does. Each command begins with
//! the setup, so that one command on a fresh machine is enough.

use std::{env, ffi::OsString, io, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use xtask::{
    bench, build, checks, demo,
    guest::{self, Copy, Kernel, Options, Root},
    setup,
};

/// What a runner that wraps a command exits with when the failure is its own, as env and docker do.
const RUNNER_FAILED: u8 = 125;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Subtask,
}

#[derive(Subcommand)]
enum Subtask {
    /// Install what building and testing need; silent when all of it is there
    Setup,
    /// Build target/release/agentguard, with the kernel programs inside
    Build {
        /// Build target/debug/agentguard instead
        #[arg(long)]
        debug: bool,
    },
    /// Run a command in a virtual machine that has AgentGuard in it, daemon not started
    ///
    /// Standard output and error of the command are relayed as they are, and its exit status is this
    /// command's: 128 + n when signal n ended it, 125 when the runner itself failed.
    Vm(Box<Vm>),
    /// Show an agent at work and at its limits, its output beside the event log
    Demo {
        /// Kernel of the virtual machine
        #[arg(long, value_enum, default_value = "6.12")]
        kernel: Kernel,
        /// Use this machine, which must be able to enforce, instead of a virtual one
        #[arg(long, conflicts_with = "kernel")]
        host: bool,
    },
    /// Try the known ways out of enforcement, or one of them, on every kernel
    Attack {
        /// A threat of docs/threats.md, such as M11
        name: Option<String>,
    },
    /// Count what actions cost, in guest instructions, on every kernel
    ///
    /// Prints tables, and writes the figures to docs/performance.json.
    Bench {
        /// Count a few of them, and fail when one has grown by more than 3 % since
        #[arg(long)]
        check: bool,
    },
    /// Run every check and test, userspace and real kernels
    #[command(alias = "ci")]
    Test,
}

#[derive(Args)]
struct Vm {
    /// The kernel to boot
    #[arg(long, value_enum)]
    kernel: Kernel,
    /// What the kernel runs on
    #[arg(long, value_enum, default_value_t)]
    root: Root,
    /// Bring along a file or directory; may be given more than once
    #[arg(long = "copy", value_name = "HOST:GUEST")]
    copies: Vec<Copy>,
    /// Give up after this many seconds
    #[arg(long, value_name = "S", default_value_t = 300)]
    timeout: u64,
    /// More words for the kernel's command line; the last one of a kind counts, as in `lsm=landlock`
    #[arg(long, value_name = "KERNEL ARGS", allow_hyphen_values = true)]
    append: Option<String>,
    /// Memory of the guest
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u32,
    /// Processors of the guest
    #[arg(long, value_name = "N", default_value_t = 2)]
    smp: u32,
    /// Let the guest's clock count instructions, 1 ns each, on one processor
    #[arg(long)]
    icount: bool,
    /// Write what the kernel and init say to this file
    #[arg(long, value_name = "FILE")]
    console_log: Option<PathBuf>,
    /// Say on standard error how long the boot and the whole run took
    #[arg(long)]
    times: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Neither help nor a mistake can be printed when this fails, so there is nobody to tell.
            let _ = error.print();
            let of_runner = env::args_os().nth(1).is_some_and(|name| name == "vm");
            return match error.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if of_runner => ExitCode::from(RUNNER_FAILED),
                code => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            };
        }
    };
    let result = match &cli.command {
        Subtask::Setup => setup::ensure(),
        Subtask::Build { debug } => setup::ensure().and_then(|()| build::build(*debug).map(drop)),
        Subtask::Demo { kernel, host } => setup::ensure().and_then(|()| demo::run(*kernel, *host)),
        Subtask::Attack { name } => {
            setup::ensure().and_then(|()| checks::attack(name.as_deref().unwrap_or_default()))
        }
        Subtask::Bench { check: true } => setup::ensure().and_then(|()| bench::check()),
        Subtask::Bench { check: false } => setup::ensure().and_then(|()| bench::run()),
        Subtask::Test => setup::ensure().and_then(|()| checks::run()),
        Subtask::Vm(vm) => return vm.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Vm {
    fn run(&self) -> ExitCode {
        match self.outcome() {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(RUNNER_FAILED)
            }
        }
    }

    fn outcome(&self) -> Result<u8> {
        setup::ensure()?;
        let binary = build::build_quietly()?;
        let options = Options {
            root: self.root,
            binary: Some(binary),
            copies: self.copies.clone(),
            append: self.append.clone(),
            timeout: Duration::from_secs(self.timeout),
            memory_mib: self.memory,
            cpus: self.smp,
            count_instructions: self.icount,
            console_log: self.console_log.clone(),
            ..Options::new(self.kernel, &self.command)
        };
        let outcome = guest::run(&options, &mut io::stdout(), &mut io::stderr())?;
        if self.times {
            eprintln!(
                "vm: {} booted in {:.2} s, off after {:.2} s",
                outcome.release,
                outcome.boot.as_secs_f32(),
                outcome.total.as_secs_f32()
            );
        }
        Ok(outcome.status)
    }
}
