//! What runs inside a guest: plays cases, each in a process of its own, and is every process that they need.

use std::{env, ffi::OsString, process::ExitCode};

use agentguard_tests::{measure, remote, runner};
use anyhow::{Result, bail};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let what = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    match run(&what, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &OsString, arguments: &[OsString]) -> Result<()> {
    let texts: Vec<&str> = arguments.iter().filter_map(|one| one.to_str()).collect();
    match (what.to_str(), arguments) {
        (Some("play"), names) => runner::play_all(names),
        (Some("case"), [name]) => runner::play_one(name),
        (Some("remote"), []) => remote::serve(),
        (Some("measure"), []) => measure::everything(measure::Wanted::All),
        (Some("measure"), [which]) if which == "few" => measure::everything(measure::Wanted::Few),
        (Some("measure"), [which]) if which == "programs" => {
            measure::everything(measure::Wanted::Programs)
        }
        (Some("operation"), [_, ..]) => measure::run(&texts),
        (Some("landlocked"), [_, _, ..]) => measure::landlocked(texts[0].parse()?, &texts[1..]),
        (Some("moments"), [_, _]) => measure::moments(texts[0], texts[1].parse()?),
        (Some("supervised"), [_, _]) => measure::supervised(texts[0], texts[1].parse()?),
        (Some("waits"), [_]) => measure::acts(texts[0]),
        _ => bail!(
            "agentguard-guest play CASE... | case CASE | remote | measure [few|programs] | operation WHAT... | landlocked RULES COMMAND... | moments FILE COUNT | supervised FILE COUNT | waits UNDER"
        ),
    }
}
