//! `agentguard agents`: the agents that the daemon knows, one line each.

use std::io::{self, Write};

use anyhow::Context as _;
use comfy_table::Table;

use super::{print_json, style};
use crate::{
    api::{
        client::Client,
        types::{Agent, AgentState},
    },
    config::Config,
    exit::Code,
    render::safe,
};

/// Arguments of `agentguard agents`.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentsArgs {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Lists the agents.
pub fn run(args: &AgentsArgs, config: &Config) -> anyhow::Result<Code> {
    let agents = Client::connect(&config.socket)
        .and_then(|mut client| client.agents())
        .context("cannot list the agents")?;
    let mut out = anstream::stdout().lock();
    if args.json {
        print_json(&agents)?;
    } else if agents.is_empty() {
        writeln!(out, "no agents")?;
    } else {
        write_agents(&mut out, &agents)?;
    }
    Ok(Code::Success)
}

/// Writes a table of agents.
pub fn write_agents(out: &mut impl Write, agents: &[Agent]) -> io::Result<()> {
    let mut table = style::table(&["AGENT", "PROFILE", "STATE", "SINCE", "CGROUP"]);
    for agent in agents {
        add(&mut table, agent);
    }
    style::write_table(out, &table)
}

fn add(table: &mut Table, agent: &Agent) {
    let state = match agent.state {
        AgentState::Active => "active",
        AgentState::Outlived => "outlived",
        AgentState::Released => "released",
    };
    let cgroup = if agent.cgroup.as_os_str().is_empty() {
        "(gone)".to_owned()
    } else {
        safe(&agent.cgroup.to_string_lossy()).to_string()
    };
    table.add_row([
        safe(&agent.name).to_string(),
        safe(&agent.profile).to_string(),
        state.to_owned(),
        style::local_time(&agent.since),
        cgroup,
    ]);
}
