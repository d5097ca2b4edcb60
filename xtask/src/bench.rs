//! `cargo xtask bench`: what actions cost on each kernel, in guest instructions. `tests/src/measure.rs` measures.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::{
    build,
    guest::{self, Copy, Kernel, Options, Root},
    paths, process,
};

/// What measures, and where it is in a guest.
const PROGRAM: &str = "agentguard-guest";
const GUEST: &str = "/usr/local/bin/agentguard-guest";
/// The figures in the tree, below the root.
const FIGURES: &str = "docs/performance.json";
/// Longest that one boot takes.
const TIMEOUT: Duration = Duration::from_secs(1500);
/// As where the kernel facts were measured, and AppArmor beside the others.
const KERNEL_LINE: &str = "mitigations=off lsm=landlock,lockdown,yama,apparmor,bpf";
/// What all others are compared with.
const NOTHING: &str = "nothing loaded";
/// How much more an action may cost than the figures in the tree say: this part.
const GROWTH: f64 = 0.03;

/// One figure, as the guest prints it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Figure {
    what: String,
    under: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    median: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p90: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<u64>,
}

/// The figures of every kernel, by its name.
type Figures = BTreeMap<String, Vec<Figure>>;

/// Measures everything on every kernel, prints a table for each and writes the figures.
///
/// # Errors
/// When something can't be built or measured, or the figures not be written.
pub fn run() -> Result<()> {
    let mut all = everywhere(&["measure"], Root::Initramfs)?;
    for (kernel, programs) in everywhere(&["measure", "programs"], Root::Systemd)? {
        all.entry(kernel).or_default().extend(programs);
    }
    for (kernel, figures) in &all {
        println!("\n### Linux {kernel}\n");
        print(figures);
    }
    let path = paths::root().join(FIGURES);
    fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("bench: the figures are in {FIGURES}");
    Ok(())
}

/// Measures a few operations on every kernel, and compares them with the figures in the tree.
///
/// # Errors
/// When something can't be built or measured, or costs more than it did.
pub fn check() -> Result<()> {
    let path = paths::root().join(FIGURES);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let known: Figures = serde_json::from_str(&text)
        .with_context(|| format!("{} holds no figures", path.display()))?;
    let now = everywhere(&["measure", "few"], Root::Initramfs)?;
    let mut grown = Vec::new();
    let mut compared = 0;
    for (kernel, figures) in &now {
        let known = known.get(kernel).map(Vec::as_slice).unwrap_or_default();
        for figure in figures {
            let cost = |figures: &[Figure], under: &str| {
                let mut figures = figures.iter();
                let found = figures.find(|one| one.what == figure.what && one.under == under);
                found.map(|one| one.median as f64)
            };
            // What the kernel itself costs is not what is compared.
            let (Some(before), Some(nothing_before), Some(nothing)) = (
                cost(known, &figure.under),
                cost(known, NOTHING),
                cost(figures, NOTHING),
            ) else {
                continue;
            };
            compared += 1;
            let cost = figure.median as f64 - nothing + nothing_before;
            if cost > before * (1.0 + GROWTH) {
                grown.push(format!(
                    "{kernel}: {}, {}: {cost} instructions, where {before} are in the tree",
                    figure.what, figure.under
                ));
            }
        }
    }
    ensure!(
        compared > 0,
        "{FIGURES} has none of the figures that are compared"
    );
    if grown.is_empty() {
        eprintln!("bench: {compared} figures, none of which has grown by more than 3 %");
        return Ok(());
    }
    bail!(
        "what costs more than it did:\n{}\n(`cargo xtask bench` measures everything and writes {FIGURES})",
        grown.join("\n")
    )
}

/// Runs the program that measures in a guest of each kernel, all at once.
fn everywhere(arguments: &[&str], root: Root) -> Result<Figures> {
    let binary = build::build_quietly()?;
    let program = build_program()?;
    thread::scope(|scope| {
        let guests: Vec<_> = Kernel::ALL
            .into_iter()
            .map(|kernel| {
                eprintln!("bench: Linux {kernel}: {}", arguments.join(" "));
                let (binary, program) = (&binary, &program);
                let measured = move || {
                    measure(kernel, root, binary, program, arguments)
                        .with_context(|| format!("cannot measure on Linux {kernel}"))
                };
                (kernel, scope.spawn(measured))
            })
            .collect();
        let mut all = Figures::new();
        for (kernel, guest) in guests {
            let figures = guest
                .join()
                .map_err(|_| anyhow!("measuring on Linux {kernel} panicked"))??;
            all.insert(kernel.to_string(), figures);
        }
        Ok(all)
    })
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

fn measure(
    kernel: Kernel,
    root: Root,
    binary: &Path,
    program: &Path,
    arguments: &[&str],
) -> Result<Vec<Figure>> {
    let options = Options {
        root,
        binary: Some(binary.to_owned()),
        copies: vec![Copy {
            host: program.to_owned(),
            guest: GUEST.into(),
        }],
        append: Some(KERNEL_LINE.to_owned()),
        cpus: 1,
        memory_mib: 2048,
        count_instructions: true,
        timeout: TIMEOUT,
        ..Options::new(kernel, [&[GUEST], arguments].concat())
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

/// A table of what was measured under more than one thing, and one of the rest.
fn print(figures: &[Figure]) {
    let mut unders: Vec<&str> = Vec::new();
    let mut whats: Vec<&str> = Vec::new();
    for figure in figures {
        for (list, name) in [(&mut unders, &figure.under), (&mut whats, &figure.what)] {
            if !list.contains(&name.as_str()) {
                list.push(name);
            }
        }
    }
    let compared: BTreeSet<&str> = figures
        .iter()
        .filter(|figure| figure.under == NOTHING)
        .map(|figure| figure.what.as_str())
        .collect();
    let find = |what: &str, under: &str| {
        let mut figures = figures.iter();
        figures.find(|figure| figure.what == what && figure.under == under)
    };
    let is_compared = |under: &&str| compared.iter().any(|what| find(what, under).is_some());
    let unders: Vec<&str> = unders.into_iter().filter(is_compared).collect();
    let mut table = new_table([&["guest instructions"], unders.as_slice()].concat());
    for what in whats.iter().filter(|what| compared.contains(*what)) {
        let cells = unders
            .iter()
            .map(|under| find(what, under).map(shown).unwrap_or_default());
        table.add_row([(*what).to_owned()].into_iter().chain(cells));
    }
    println!("{table}\n");
    let mut table = new_table(vec!["what", "under", "median (90 %, 99 %)"]);
    for figure in figures
        .iter()
        .filter(|one| !compared.contains(one.what.as_str()))
    {
        table.add_row([figure.what.clone(), figure.under.clone(), shown(figure)]);
    }
    println!("{table}");
}

fn new_table(heads: Vec<&str>) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_header(&heads);
    for column in 1..heads.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn shown(figure: &Figure) -> String {
    let median = match &figure.unit {
        Some(unit) => format!("{} {unit}", figure.median),
        None => figure.median.to_string(),
    };
    let shown = match (figure.p90, figure.p99) {
        (Some(p90), Some(p99)) => format!("{median} ({p90}, {p99})"),
        _ => median,
    };
    match figure.max {
        Some(max) => format!("{shown}, at most {max}"),
        None => shown,
    }
}
