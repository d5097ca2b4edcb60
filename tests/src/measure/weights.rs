//! What AgentGuard weighs: the daemon, the maps, a policy while it is compiled, and the programs.

use std::fs;

use anyhow::{Context as _, Result};
use aya::programs::ProgramInfo;

use super::{Figure, Under, measure};
use crate::{
    bench::{POLICIES, status},
    cases::budget::PROGRAMS,
};

/// Everything that is weighed, with the daemon's process id.
pub fn all(daemon: u32) -> Result<()> {
    let status = status()?;
    let maps = status["maps"].as_array().into_iter().flatten();
    let bytes: u64 = maps.filter_map(|map| map["memory_bytes"].as_u64()).sum();
    let text = fs::read_to_string(format!("/proc/{daemon}/status"))?;
    let resident = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .context("no VmRSS")?;
    let under = "10,000 rules and five other profiles";
    tell("memory of the maps", under, "KiB", bytes / 1024)?;
    tell(
        "memory of the daemon",
        under,
        "KiB",
        resident.trim().parse()?,
    )?;
    let policy = format!("{POLICIES}/measured-10000.toml");
    let check = ["memory", "agentguard", "policy", "check", &policy];
    let peak = measure(Under::Nobody, &check)?;
    tell("memory of compiling", "10,000 rules", "KiB", peak)?;
    programs()
}

/// What the kernel made of the programs; `tests/budget.toml` has each of them.
fn programs() -> Result<()> {
    let mut infos = Vec::new();
    for entry in fs::read_dir(PROGRAMS).context("the pinned programs")? {
        let entry = entry?;
        let info = ProgramInfo::from_pin(entry.path())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let verified = info.verified_instruction_count();
        let verified = verified.context("the kernel doesn't say what it verified")?;
        infos.push((verified, name, info));
    }
    let (most, largest, _) = infos
        .iter()
        .max_by_key(|(verified, ..)| *verified)
        .context("no programs")?;
    let sum = |of: fn(&ProgramInfo) -> u32| -> u64 {
        infos.iter().map(|(_, _, info)| u64::from(of(info))).sum()
    };
    let count = format!("{} programs", infos.len());
    let translated = sum(|info| info.size_translated().unwrap_or(0)) / 1024;
    let jitted = sum(ProgramInfo::size_jitted) / 1024;
    let verified = sum(|info| info.verified_instruction_count().unwrap_or(0));
    tell(
        "size of the programs, translated",
        &count,
        "KiB",
        translated,
    )?;
    tell(
        "size of the programs, as machine code",
        &count,
        "KiB",
        jitted,
    )?;
    let what = "looked at by the verifier";
    tell(what, &count, "instructions", verified)?;
    let most_of_one = format!("{largest}, the most of one");
    tell(what, &most_of_one, "instructions", (*most).into())
}

fn tell(what: &str, under: &str, unit: &str, value: u64) -> Result<()> {
    super::print(&Figure {
        unit: Some(unit.to_owned()),
        ..Figure::of_one(what, under, value)
    })
}
