//! The `agentguard` binary: everything is in the library, so that tests can reach it.

use std::path::Path;

use agentguard::{api, daemon, exit::Code};
use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Run the daemon
    Daemon(daemon::Arguments),
    #[command(hide = true)]
    Canary(daemon::canary::Arguments),
}

fn main() -> Code {
    match Command::parse() {
        Command::Daemon(arguments) => daemon::main(&arguments, Path::new(api::SOCKET)),
        Command::Canary(arguments) => daemon::canary::helper(&arguments),
    }
}
