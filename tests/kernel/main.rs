//! `cargo test -p agentguard-tests --test kernel [-- FILTER]`: plays every case on every kernel of the matrix
//! in guests, one test per kernel and case (`6.12::file::symlink`). Cases are not here, only who plays
//! which of them where.
//!
//! All cases that can share a guest do, so a filter saves the time of the cases that it leaves out and no
//! boot. Guests run beside the tests, which wait for what is reported from there.

mod board;
mod guests;

use std::{cmp::Reverse, env, process::ExitCode, sync::Arc};

use agentguard_tests::{cases, scene::Case, threats};
use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Trial};
use xtask::{build, guest::Kernel, setup};

use self::{
    board::Board,
    guests::{Boot, Group},
};

/// Names the `agentguard` to play against; without it a release build is made. A debug build takes a
/// fraction of the time to make.
const BINARY: &str = "AGENTGUARD_TEST_BINARY";

/// Names one threat of `tests/attacks`, whose cases alone are played; empty for all threats' cases.
const THREAT: &str = "AGENTGUARD_TEST_THREAT";

/// Set, has every case played on every kernel, as those of [`THREAT`] are.
const EVERYWHERE: &str = "AGENTGUARD_TEST_EVERYWHERE";

/// Subjects that are otherwise played on [`ONE`] alone: other projects' tests and whole programs, which take minutes, and
/// what is the daemon's business, in which kernels hardly have a part.
const ON_ONE: [&str; 12] = [
    "others::",
    "work::",
    "api::",
    "bad_input::",
    "commands::",
    "event::numbers_have_no_gaps",
    "life::",
    "limits::thousands_of_cgroups",
    "load::event_flood",
    "reload::",
    "service::",
    "tail::",
];
/// Which one: that of Debian's stable release, which `others::` has its tests from.
const ONE: &str = "6.12";

/// How many of the slowest cases are told in the end.
const SLOWEST: usize = 20;

/// Cases that can't pass yet, each with its reason.
const PENDING: &str = include_str!("../pending.txt");

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let cases = match chosen() {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let everywhere = env::var_os(EVERYWHERE).is_some() || env::var_os(THREAT).is_some();
    let all: Vec<(Kernel, &Case)> = Kernel::ALL
        .into_iter()
        .flat_map(|kernel| cases.iter().map(move |case| (kernel, case)))
        .filter(|(kernel, case)| {
            !ON_ONE.iter().any(|subject| case.name.starts_with(subject))
                || kernel.to_string() == ONE
                || everywhere
        })
        .collect();
    let board = Arc::new(Board::default());
    let trials: Vec<Trial> = all
        .iter()
        .map(|(kernel, case)| trial(&board, *kernel, case))
        .collect();
    // Each waits for its report, so that results are printed as they come, whatever their order.
    arguments.test_threads = Some(trials.len().max(1));
    if !arguments.list {
        let wanted = all.into_iter().filter(|(kernel, case)| {
            let name = name(*kernel, case);
            is_wanted(&arguments, &name) && (arguments.include_ignored || !is_pending(&name))
        });
        if let Err(error) = start(&board, wanted) {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        eprint!("The slowest:\n{}", board.slowest(SLOWEST));
    }
    conclusion.exit_code()
}

/// Every case, or those of the threats that were asked for.
fn chosen() -> Result<Vec<Case>> {
    let all = cases::all();
    let Ok(wanted) = env::var(THREAT) else {
        return Ok(all);
    };
    let threats = threats::read_all(xtask::paths::root())?;
    let names: Vec<String> = threats
        .into_iter()
        .filter(|threat| wanted.is_empty() || threat.id.eq_ignore_ascii_case(&wanted))
        .flat_map(|threat| threat.all_cases())
        .collect();
    ensure!(
        !names.is_empty(),
        "no threat with tests is called {wanted:?}; docs/threats.md lists them"
    );
    Ok(all
        .into_iter()
        .filter(|case| names.contains(&case.name))
        .collect())
}

fn name(kernel: Kernel, case: &Case) -> String {
    format!("{kernel}::{}", case.name)
}

fn trial(board: &Arc<Board>, kernel: Kernel, case: &Case) -> Trial {
    let board = Arc::clone(board);
    let name = name(kernel, case);
    let pending = is_pending(&name);
    Trial::test(name.clone(), move || Ok(board.wait(&name)?)).with_ignored_flag(pending)
}

/// Whether a line of the list stands for this case.
fn is_pending(name: &str) -> bool {
    let Some((kernel, case)) = name.split_once("::") else {
        return false;
    };
    PENDING
        .lines()
        .filter_map(|line| line.split_once("::").filter(|_| !line.starts_with('#')))
        .any(|(of, what)| {
            (of == "*" || of == kernel)
                && (case == what || (what.ends_with("::") && case.starts_with(what)))
        })
}

/// As libtest-mimic has it.
fn is_wanted(arguments: &Arguments, name: &str) -> bool {
    let fits = |filter: &String| {
        if arguments.exact {
            name == filter
        } else {
            name.contains(filter.as_str())
        }
    };
    !arguments.ignored && arguments.filter.iter().all(fits) && !arguments.skip.iter().any(fits)
}

/// Builds what the guests need and starts them beside this thread.
fn start<'a>(board: &Arc<Board>, wanted: impl Iterator<Item = (Kernel, &'a Case)>) -> Result<()> {
    let mut groups: Vec<Group> = Vec::new();
    for (kernel, case) in wanted {
        let boot = Boot::of(case);
        match groups
            .iter_mut()
            .find(|group| group.kernel == kernel && group.boot == boot)
        {
            Some(group) => group.cases.push(case.clone()),
            None => groups.push(Group {
                kernel,
                boot,
                cases: vec![case.clone()],
            }),
        }
    }
    // The longest first, so that no guest is alone in the end: those on a whole system, then those with many cases.
    groups.sort_by_key(|group| Reverse((group.boot.root, group.cases.len())));
    if groups.is_empty() {
        return Ok(());
    }
    setup::ensure()?;
    let binary = match env::var_os(BINARY) {
        Some(binary) => binary.into(),
        None => build::build_quietly()?,
    };
    guests::start(board, groups, binary);
    Ok(())
}
