//! Whether an agent's actions wait while policies are loaded anew. On one processor they take longer then, because others
//! run as well; so what counts is what they cost the agent itself, and how often it slept.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use super::{
    FOLDER, Figure, POLICIES, UDP,
    operations::{datagrams, usage, used},
    print,
};
use crate::{bench::run_well, daemon::wait_until, remote::PROGRAM};

/// Rounds at least: as many as there are about while a policy is loaded.
const ROUNDS: usize = 40_000;
/// Rounds before, which don't count.
const WARM: usize = 100;

/// There as long as the agent shall go on.
fn going() -> String {
    format!("{FOLDER}/new/going")
}

/// An agent under a large profile acts on its own, and then while that profile is loaded with a rule more.
pub fn waits(profile: &str) -> Result<()> {
    for reloads in [false, true] {
        let when = if reloads {
            "during a reload"
        } else {
            "without a reload"
        };
        let mut agent = Command::new("agentguard")
            .args([
                "run",
                "--profile",
                profile,
                "--name",
                &when.replace(' ', "-"),
                "--",
            ])
            .args([PROGRAM, "waits", &format!("10000 rules, {when}")])
            .stdin(Stdio::null())
            .spawn()?;
        wait_until("the agent acts", || Ok(Path::new(&going()).exists()))?;
        if reloads {
            let path = Path::new(POLICIES).join(format!("{profile}.toml"));
            let text = fs::read_to_string(&path)?;
            fs::write(path, text + "\n[[deny]]\nfile = \"/srv/more/**\"\n")?;
            run_well("agentguard", &["reload"])?;
        }
        fs::remove_file(going())?;
        ensure!(agent.wait()?.success(), "the agent failed");
    }
    Ok(())
}

/// Acts in rounds and prints what each action cost, and how often this process slept.
///
/// # Errors
/// When something can't be done.
pub fn acts(under: &str) -> Result<()> {
    let (opened, new) = (
        format!("{FOLDER}/hit/one/two/five"),
        format!("{FOLDER}/new/new"),
    );
    let (socket, to) = datagrams(UDP)?;
    let open = || {
        File::open(&opened)?;
        anyhow::Ok(())
    };
    let create = || {
        File::create_new(&new)?;
        anyhow::Ok(fs::remove_file(&new)?)
    };
    let connect = || anyhow::Ok(socket.connect(to)?);
    let acts: [(&str, &dyn Fn() -> Result<()>); 4] = [
        ("each reading of the agent's clock", &|| Ok(())),
        ("each open and close, by a rule", &open),
        ("each create and unlink", &create),
        ("each UDP connect, by address", &connect),
    ];
    let mut costs = [const { Vec::new() }; 4];
    let mut slept = 0;
    for round in 0.. {
        if round == WARM {
            File::create_new(going())?;
            slept = sleeps();
            costs.iter_mut().for_each(Vec::clear);
        }
        if round >= WARM + ROUNDS && !Path::new(&going()).exists() {
            break;
        }
        for ((_, act), costs) in acts.iter().zip(&mut costs) {
            let begin = used();
            act()?;
            costs.push(used() - begin);
        }
    }
    let slept = sleeps() - slept;
    for ((what, _), costs) in acts.iter().zip(costs) {
        print(&Figure {
            max: costs.iter().copied().max(),
            ..Figure::of_many(what, under, costs)
        })?;
    }
    print(&Figure {
        unit: Some("times".to_owned()),
        ..Figure::of_one("the agent slept", under, slept)
    })
}

/// How often this process has given the processor up to wait for something.
fn sleeps() -> u64 {
    usage(libc::RUSAGE_SELF).ru_nvcsw as u64
}
