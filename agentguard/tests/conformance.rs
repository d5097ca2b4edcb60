//! Runs the conformance cases (`tests/cases/*.toml`) against the simulator, each as a test of its own.
//! The same files are replayed on real kernels by the runner in the `tests` crate.

use std::{path::Path, process::ExitCode, sync::Arc};

use agentguard::policy::{
    Access, Ask, Capabilities, CompiledProfile, explain, load_text, parse_destination,
    parse_listen, parse_path, parse_program,
};
use agentguard_tests::case::{self, Case, CaseFile, Op, Replay};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(case::FOLDER);
    let files = match CaseFile::read_all(&folder) {
        Ok(files) if !files.is_empty() => files,
        Ok(_) => return fail("there are no conformance cases"),
        Err(error) => return fail(&error.to_string()),
    };
    let mut trials = Vec::new();
    for file in files {
        let name = format!("{}.toml", file.name);
        let profile = match load_text(&name, &file.profile, &Capabilities::all()) {
            Ok(loaded) => loaded.profile,
            Err(diagnostics) => return fail(&diagnostics.to_string()),
        };
        for case in file.case {
            if case.replay == Replay::Kernel {
                continue;
            }
            let profile = profile.clone();
            trials.push(Trial::test(
                format!("{}::{}", file.name, case.name.replace(' ', "_")),
                move || run(&profile, &case),
            ));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn fail(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

fn run(profile: &Arc<CompiledProfile>, case: &Case) -> Result<(), Failed> {
    let text = case
        .path
        .as_deref()
        .or(case.address.as_deref())
        .unwrap_or_default();
    let ask = match case.op {
        Op::Open => Ask::Open {
            path: parse_path(text.as_bytes())?,
            access: case.access.iter().map(|access| same(*access)).collect(),
        },
        Op::Exec => Ask::Exec {
            path: parse_program(text.as_bytes())?,
            args: case
                .args
                .iter()
                .map(|text| text.clone().into_bytes())
                .collect(),
        },
        Op::Connect => Ask::Connect {
            address: parse_destination(text)?,
        },
        Op::Listen => Ask::Listen {
            address: parse_listen(text)?,
        },
    };
    let answer = explain(profile, &ask);
    let found = (answer.verdict.name(), answer.rule.as_str());
    let expected = (case.expect.name(), case.rule.as_deref().unwrap_or(found.1));
    if found == expected {
        Ok(())
    } else {
        Err(format!("expected {} by {}, found\n{answer}", expected.0, expected.1).into())
    }
}

/// The access that a case means.
fn same(access: case::Access) -> Access {
    match access {
        case::Access::Read => Access::Read,
        case::Access::Write => Access::Write,
        case::Access::Create => Access::Create,
        case::Access::Delete => Access::Delete,
        case::Access::Metadata => Access::Metadata,
    }
}
