//! `cargo xtask bench`: what actions cost on each kernel, in guest instructions. `tests/src/measure.rs` measures.

use std::{collections::BTreeMap, fs, io, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::{
    build,
    guest::{self, Copy, Kernel, Options},
    paths, process,
};

/// What measures, and where it is in a guest.
const PROGRAM: &str = "agentguard-guest";
const GUEST: &str = "/usr/local/bin/agentguard-guest";
/// Where the figures go, below the root.
const FIGURES: &str = "target/bench.json";
/// Longest that one kernel takes.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Measures on every kernel, prints a table and writes the figures.
///
/// # Errors
/// When something can't be built or measured, or the figures not be written.
pub fn run() -> Result<()> {
    let binary = build::build_quietly()?;
    let program = build_program()?;
    let mut all = BTreeMap::new();
    for kernel in Kernel::ALL {
        eprintln!("bench: Linux {kernel}");
        let figures = measure(kernel, binary.clone(), program.clone())
            .with_context(|| format!("cannot measure on Linux {kernel}"))?;
        all.insert(kernel.to_string(), figures);
    }
    println!("{}", table(&all));
    let path = paths::root().join(FIGURES);
    fs::write(&path, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("bench: the figures are in {FIGURES}");
    Ok(())
}

fn build_program() -> Result<PathBuf> {
    let mut cargo = process::command("cargo");
    cargo.current_dir(paths::root()).args([
        "build",
        "--release",
        "--package=agentguard-tests",
        "--bin",
        PROGRAM,
    ]);
    process::run_quietly(&mut cargo).with_context(|| format!("cannot build {PROGRAM}"))?;
    Ok(paths::root().join("target/release").join(PROGRAM))
}

fn measure(kernel: Kernel, binary: PathBuf, program: PathBuf) -> Result<Vec<Value>> {
    let options = Options {
        binary: Some(binary),
        copies: vec![Copy {
            host: program,
            guest: GUEST.into(),
        }],
        cpus: 1,
        count_instructions: true,
        timeout: TIMEOUT,
        ..Options::new(kernel, [GUEST, "measure"])
    };
    let mut lines = Vec::new();
    let outcome = guest::run(&options, &mut lines, &mut io::stderr())?;
    ensure!(
        outcome.success(),
        "measuring ended with exit status {}",
        outcome.status
    );
    String::from_utf8(lines)?
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no figure: {line}")))
        .collect()
}

/// A row for each figure, in the order in which they were measured, and a column for each kernel.
fn table(all: &BTreeMap<String, Vec<Value>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let kernels: Vec<String> = Kernel::ALL.iter().map(ToString::to_string).collect();
    let heads = ["guest instructions", "for"].into_iter().map(str::to_owned);
    table.set_header(heads.chain(kernels.iter().cloned()));
    let first = all.get(&kernels[0]).into_iter().flatten();
    for (row, figure) in first.enumerate() {
        let text = |field: &str| figure[field].as_str().unwrap_or_default().to_owned();
        let cells = kernels.iter().map(|kernel| {
            let figure = all.get(kernel).and_then(|figures| figures.get(row));
            figure.map(shown).unwrap_or_default()
        });
        table.add_row([text("what"), text("under")].into_iter().chain(cells));
    }
    for column in 2..2 + kernels.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn shown(figure: &Value) -> String {
    let median = &figure["median"];
    match (&figure["p90"], &figure["p99"]) {
        (Value::Number(p90), Value::Number(p99)) => format!("{median} / {p90} / {p99}"),
        _ => median.to_string(),
    }
}
