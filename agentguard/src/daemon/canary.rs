//! The proof that enforcement is real: a labelled helper process tries to open a file it must be
//! refused and its twin that it must be given, and the refusal must arrive in the ring. Loaded and
//! attached programs alone prove nothing (a kernel without `bpf` in its LSM list never runs them).

use std::{
    fs,
    io::{self, BufRead as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use agentguard_common::{
    Verdict,
    counter::{self, Hook, Site},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::core::Core;
use crate::{
    agents::Under,
    causes,
    exit::Code,
    policy::{self, Capabilities, CompiledProfile, Style},
};

/// The helper's profile, which no agent can have.
const PROFILE: &str = ".canary";
/// How often it is tried.
const ATTEMPTS: u32 = 4;
/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of the hidden sub-command `canary`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The file that must be refused
    forbidden: PathBuf,
    /// Its twin that must be given
    permitted: PathBuf,
}

/// Enforcement could not be proven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot prepare the canary: {0}")]
    Prepare(String),
    #[error("cannot run the canary: {0}")]
    Run(io::Error),
    #[error("the canary did not answer within {} seconds", PATIENCE.as_secs())]
    Late,
    #[error(
        "the canary was given what it must be refused ({answer}): the kernel doesn't run the programs that are attached; nothing would be enforced"
    )]
    Given { answer: String },
    #[error(
        "the canary was refused what it must be given ({answer}): the programs refuse too much"
    )]
    Refused { answer: String },
    #[error("the canary was refused, but the denial did not arrive in the ring within {} seconds: nothing would be logged", PATIENCE.as_secs())]
    Unheard,
}

/// What the helper does: waits until it is in its cgroup, then tries both files and says how it went.
pub fn helper(arguments: &Arguments) -> Code {
    let mut line = String::new();
    // End of input means that the daemon is gone.
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => return Code::Failure,
        Ok(_) => {}
    }
    let tried = |path: &Path| match fs::File::open(path) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    };
    let permitted = tried(&arguments.permitted);
    let forbidden = tried(&arguments.forbidden);
    println!("{permitted} {forbidden}");
    Code::Success
}

/// Runs the proof. Where the kernel had no memory at hand for the helper's label it refuses everything, as it must, and has
/// asked for more by then: the proof is run again.
pub async fn prove(core: &mut Core) -> Result<(), Error> {
    let directory = core.config.state.with_file_name("agentguard-canary");
    let mut left = ATTEMPTS;
    loop {
        let before = count(core, counter::failures(Site::LabelCreate as u8))?;
        let result = run(core, &directory, left).await;
        clean_up(core, &directory);
        left -= 1;
        match result {
            Err(Error::Refused { .. })
                if left > 0
                    && count(core, counter::failures(Site::LabelCreate as u8))? > before =>
            {
                tracing::warn!("the canary got no label for want of memory; trying again");
            }
            result => return result,
        }
    }
}

async fn run(core: &mut Core, directory: &Path, attempt: u32) -> Result<(), Error> {
    let prepare = |error: &(dyn std::error::Error + 'static)| Error::Prepare(causes::text(error));
    let forbidden = directory.join("forbidden");
    let permitted = directory.join("permitted");
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.map_err(|error| prepare(&error))?,
    }
    for path in [&forbidden, &permitted] {
        fs::write(path, "").map_err(|error| prepare(&error))?;
    }
    let profile = profile(&forbidden)?;
    core.installer
        .install(
            &mut core.tables,
            &[(profile.into(), PathBuf::from("builtin"))],
            false,
            |_| true,
            |_, _| Ok(()),
        )
        .map_err(|error| prepare(&error))?;
    let slot = core
        .installer
        .profiles()
        .get(PROFILE)
        .map(|profile| profile.slot)
        .ok_or_else(|| Error::Prepare("its profile is not installed".to_owned()))?;
    let agent = core
        .agents
        .create(
            &mut core.tables,
            Under {
                name: PROFILE.to_owned(),
                slot,
            },
            Some(format!("canary-{}-{attempt}", std::process::id())),
        )
        .map_err(|error| prepare(&error))?;
    let mut records = core.shared.watch(agent.id);
    let cgroup = agent.cgroup.unwrap_or_default();
    core.agents.entered(agent.id);
    let lost_before = lost_opens(core)?;

    let mut child = Command::new("/proc/self/exe")
        .arg("canary")
        .args([&forbidden, &permitted])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::Run)?;
    let answer = timeout(PATIENCE, ask(&mut child, &cgroup))
        .await
        .map_err(|_| Error::Late)?
        .map_err(Error::Run);
    // It may have ended by itself.
    let _ = child.kill().await;
    judge(&answer?)?;

    let expected = forbidden.as_os_str().as_encoded_bytes();
    let arrives = async {
        while let Some(record) = records.recv().await {
            if record.verdict == Verdict::Deny && record.object == expected {
                return true;
            }
        }
        false
    };
    tokio::pin!(arrives);
    for _ in 0..PATIENCE.as_secs() * 10 {
        if let Ok(heard) = timeout(Duration::from_millis(100), &mut arrives).await {
            return if heard { Ok(()) } else { Err(Error::Unheard) };
        }
        if let Some(why) = why_unheard(core, lost_before)? {
            tracing::warn!(
                "the canary was refused as it must be, but its record is not to be had: {why}"
            );
            return Ok(());
        }
    }
    Err(Error::Unheard)
}

/// Denied opens that found no room in the ring.
fn lost_opens(core: &Core) -> Result<u64, Error> {
    count(
        core,
        counter::lost(Hook::FileOpen as u8, Verdict::Deny as u32),
    )
}

/// One of the kernel side's counters.
fn count(core: &Core, index: u32) -> Result<u64, Error> {
    let counters = core
        .tables
        .counters()
        .map_err(|error| Error::Prepare(causes::text(&error)))?;
    Ok(counters.get(index as usize).copied().unwrap_or(0))
}

/// Why the record may not arrive although the kernel made it or counted it. A full disk or a flood of denials
/// must not keep the daemon from starting: both are told, and neither loses anything silently.
fn why_unheard(core: &Core, lost_before: u64) -> Result<Option<String>, Error> {
    if let Some(error) = core.shared.log().error {
        return Ok(Some(format!(
            "the log can't be written ({error}), so records stay in their ring"
        )));
    }
    let lost = lost_opens(core)?;
    Ok((lost > lost_before)
        .then(|| "the ring of denials had no room for it, which the kernel counted".to_owned()))
}

/// The profile that refuses one file and gives everything else.
fn profile(forbidden: &Path) -> Result<CompiledProfile, Error> {
    let text = format!(
        "version = 1\nname = \"canary\"\n[default]\nfile = \"allow\"\nexec = \"allow\"\n[[deny]]\nid = \"canary\"\nfile = {}\n[log]\nallow = \"none\"\n",
        toml::Value::String(forbidden.display().to_string())
    );
    let loaded = policy::load_text("builtin", &text, &Capabilities::all())
        .map_err(|diagnostics| Error::Prepare(diagnostics.render(Style::Plain)))?;
    let mut profile = CompiledProfile::clone(&loaded.profile);
    profile.name = PROFILE.to_owned();
    Ok(profile)
}

/// Puts the helper into its cgroup, lets it go, and returns what it says.
async fn ask(child: &mut Child, cgroup: &Path) -> io::Result<String> {
    let gone = || io::Error::other("the helper process is gone");
    let pid = child.id().ok_or_else(gone)?;
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())?;
    let mut input = child.stdin.take().ok_or_else(gone)?;
    input.write_all(b"go\n").await?;
    let mut answer = String::new();
    let output = child.stdout.as_mut().ok_or_else(gone)?;
    output.read_to_string(&mut answer).await?;
    child.wait().await?;
    Ok(answer)
}

/// What the two numbers mean.
fn judge(answer: &str) -> Result<(), Error> {
    let answer = answer.trim().to_owned();
    let mut numbers = answer.split(' ').map(str::parse::<i32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(0)), Some(Ok(libc::EPERM))) => Ok(()),
        (Some(Ok(0)), Some(Ok(_))) => Err(Error::Given { answer }),
        (Some(Ok(_)), Some(Ok(_))) => Err(Error::Refused { answer }),
        _ => Err(Error::Run(io::Error::other(format!("it said {answer:?}")))),
    }
}

fn clean_up(core: &mut Core, directory: &Path) {
    core.reap();
    if let Err(error) = core.installer.remove(&mut core.tables, PROFILE) {
        tracing::warn!("cannot remove the canary's profile: {error}");
    }
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!("cannot remove {}: {error}", directory.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_answer_proves_anything() {
        assert!(judge("0 1\n").is_ok());
        assert!(matches!(judge("0 0"), Err(Error::Given { .. })));
        assert!(matches!(judge("0 13"), Err(Error::Given { .. })));
        assert!(matches!(judge("1 1"), Err(Error::Refused { .. })));
        assert!(matches!(judge(""), Err(Error::Run(_))));
    }

    #[test]
    fn the_profile_compiles_for_any_path() {
        let profile = profile(Path::new("/run/agentguard-canary/forbidden")).expect("compiled");
        assert_eq!(profile.name, PROFILE);
        assert!(profile.len_cells() > 0);
    }
}
