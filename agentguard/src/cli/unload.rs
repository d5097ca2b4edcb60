//! `agentguard unload`: takes every pin away, and with the pins all enforcement. Only root may, only
//! while no daemon runs, and with agents active only when it is forced.

use std::io::Write as _;

use anyhow::{Context as _, bail};

use super::{NotRoot, style};
use crate::{
    api::client::{self, Client},
    config::Config,
    exit::Code,
    loader::{self, Pins},
    render::safe_escaped,
    tables::Tables,
};

/// Arguments of `agentguard unload`.
#[derive(Clone, Debug, clap::Args)]
pub struct UnloadArgs {
    /// Also while agents are active, or when it can't be told whether they are
    #[arg(long)]
    pub force: bool,
}

/// A daemon would put everything back, or go on without knowing that nothing is enforced.
#[derive(Debug, thiserror::Error)]
#[error("a daemon runs; `systemctl stop agentguard.service` first")]
pub struct DaemonRuns;

/// Removes every pin.
pub fn run(args: &UnloadArgs, config: &Config) -> anyhow::Result<Code> {
    if !rustix::process::geteuid().is_root() {
        return Err(NotRoot("end enforcement").into());
    }
    match Client::connect(&config.socket) {
        Err(client::Error::Unreachable { .. }) => {}
        Err(error) => return Err(error).context("cannot tell whether a daemon runs"),
        Ok(_) => return Err(DaemonRuns.into()),
    }
    let pins = Pins::new(&config.pins);
    let mut out = anstream::stdout().lock();
    if pins.is_empty()? && pins.links()?.is_empty() {
        writeln!(out, "nothing is loaded")?;
        return Ok(Code::Success);
    }
    // FAIL-CLOSED: maps that can't be read may have active agents.
    match Tables::open(&pins).map(|tables| tables.active_agents()) {
        Ok(0) => {}
        Ok(count) if args.force => note(&format!("{count} agents are held to nothing from now on")),
        Ok(count) => return Err(loader::Error::AgentsActive { count }.into()),
        Err(error) if args.force => {
            note(&format!("cannot tell whether agents are active: {error}"))
        }
        Err(error) => bail!(
            "cannot tell whether agents are active: {error}; stop every agent, then use --force"
        ),
    }
    pins.remove_all()?;
    writeln!(
        out,
        "everything is taken out of the kernel; nothing is enforced any more"
    )?;
    Ok(Code::Success)
}

fn note(text: &str) {
    let warn = style::WARN;
    anstream::eprintln!("{warn}agentguard:{warn:#} {}", safe_escaped(text));
}
