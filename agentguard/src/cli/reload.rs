//! `agentguard reload`: has the daemon load the policies anew, and shows what is wrong with them.

use std::io::Write as _;

use anyhow::Context as _;

use super::{print_details, print_json, style};
use crate::{
    api::client::{self, Client},
    config::Config,
    exit::Code,
    render::{safe, safe_escaped},
};

/// Arguments of `agentguard reload`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReloadArgs {
    /// Print the policy in force, or the refusal, as JSON
    #[arg(long)]
    pub json: bool,
}

/// What did not happen; the daemon's answer says why, and what is in force.
const REFUSED: &str = "not reloaded";
/// The same, where the daemon said that the policy is what is wrong.
const KEPT: &str = "not reloaded, so the policy in force stays in force";

/// Reloads. A refused policy is told on standard error, with its diagnostics.
pub fn run(args: &ReloadArgs, config: &Config) -> anyhow::Result<Code> {
    let mut client = Client::connect(&config.socket).context(REFUSED)?;
    let policy = match client.reload() {
        Ok(policy) => policy,
        Err(client::Error::Refused(refusal)) if refusal.diagnostics.is_some() && !args.json => {
            print_details(&refusal)?;
            return Err(client::Error::Refused(refusal)).context(KEPT);
        }
        Err(client::Error::Refused(refusal)) if args.json => {
            print_json(&refusal)?;
            return Ok(client::Error::Refused(refusal).code());
        }
        Err(error) => {
            return Err(error).context(REFUSED);
        }
    };
    let mut out = anstream::stdout().lock();
    if args.json {
        print_json(&policy)?;
        return Ok(Code::Success);
    }
    let names: Vec<String> = policy
        .profiles
        .iter()
        .map(|profile| safe(&profile.name).to_string())
        .collect();
    writeln!(
        out,
        "policy {} is in force: {} profiles ({})",
        policy.install,
        names.len(),
        names.join(", ")
    )?;
    let warn = style::WARN;
    for warning in &policy.warnings {
        writeln!(out, "{warn}warning:{warn:#} {}", safe_escaped(warning))?;
    }
    Ok(Code::Success)
}
