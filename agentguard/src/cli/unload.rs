//! `agentguard unload`: takes every pin away, and with the pins all enforcement. Only root may, only
//! while no daemon runs, and with agents active only when it is forced.

use std::io::Write as _;

use anyhow::Context as _;

use super::NotRoot;
use crate::{
    api::client::{self, Client},
    config::Config,
    daemon,
    exit::Code,
    pins::Pins,
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
    daemon::unload(config, args.force).context("enforcement was not ended")?;
    writeln!(
        out,
        "everything is taken out of the kernel; nothing is enforced any more"
    )?;
    Ok(Code::Success)
}
