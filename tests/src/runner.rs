//! Plays cases one after the other in a guest and says how each went. Each is played by a process of its own,
//! so that one that hangs or falls takes no other with it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench::{self, Bench},
    cases,
    daemon::{self, Daemon},
    scene::{Case, Report, Scene},
};

/// Plays the cases with these names, each line of standard output the [`Report`] of one.
///
/// # Errors
/// When the cases can't be prepared.
pub fn play_all(names: &[OsString]) -> Result<()> {
    let all = cases::all();
    let cases: Vec<&Case> = all
        .iter()
        .filter(|case| names.iter().any(|name| *name == *case.name))
        .collect();
    let (shared, own): (Vec<&Case>, Vec<&Case>) = cases
        .into_iter()
        .partition(|case| case.scene == Scene::Shared);
    if !shared.is_empty() {
        let mut prepared = Vec::new();
        for case in shared {
            let begun = Instant::now();
            match prepare(case) {
                Ok(()) => prepared.push(case),
                Err(error) => tell(case, begun, Err(error))?,
            }
        }
        let shared = prepared;
        play_shared(&shared)?;
        for case in &shared {
            clear(case)?;
        }
    }
    for case in own {
        // Each starts daemons, which have to compile no profile but its own and those that are shipped.
        prepare(case)?;
        let begun = Instant::now();
        tell(case, begun, play_apart(case))?;
        clear(case)?;
    }
    Ok(())
}

/// Makes the folder, the files and the profiles of a case.
fn prepare(case: &Case) -> Result<()> {
    make(case).with_context(|| format!("cannot prepare {}", case.name))
}

fn make(case: &Case) -> Result<()> {
    let dir = bench::folder(case);
    fs::create_dir_all(&dir)?;
    // Everybody's: an agent that is root has no capability for folders of others.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
    case.make_files(&dir)?;
    for (name, text) in case.profiles(&dir) {
        fs::write(profile(&name), text)?;
    }
    Ok(())
}

/// Takes a case's profiles away.
fn clear(case: &Case) -> Result<()> {
    for (name, _) in case.profiles(&bench::folder(case)) {
        match fs::remove_file(profile(&name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.with_context(|| format!("cannot clear {}", case.name))?,
        }
    }
    Ok(())
}

/// The file of a profile.
fn profile(name: &str) -> PathBuf {
    Path::new(bench::POLICIES).join(format!("{name}.toml"))
}

fn play_shared(cases: &[&Case]) -> Result<()> {
    let mut daemon = match Daemon::start() {
        Ok(daemon) => daemon,
        Err(error) => {
            for case in cases {
                let result = Err(anyhow::anyhow!("{error:#}"));
                tell(case, Instant::now(), result)?;
            }
            return Ok(());
        }
    };
    for case in cases {
        let begun = Instant::now();
        let mut result = play_apart(case);
        if let Some(status) = daemon.ended()? {
            let said = fs::read_to_string(daemon::OUTPUT)?;
            let end = &said[said.len().saturating_sub(2000)..];
            let first = result.err().map(|error| format!("{error:#}\n"));
            let first = first.unwrap_or_default();
            result = Err(anyhow::anyhow!(
                "{first}the daemon ended ({status}):\n{end}"
            ));
            daemon = Daemon::start()?;
        }
        tell(case, begun, result)?;
    }
    daemon.stop()
}

/// Has a process of its own play the case.
fn play_apart(case: &Case) -> Result<()> {
    let mut said = tempfile()?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("case")
        .arg(&case.name)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .process_group(0)
        .spawn()
        .context("cannot start the case")?;
    let deadline = Instant::now() + case.limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let stuck = match status {
        Some(_) => String::new(),
        None => what_hangs(),
    };
    // What it left running belongs to it.
    // SAFETY: no memory is involved.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    let status = match status {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => {
            child.wait()?;
            format!("not done after {} s\n{stuck}", case.limit.as_secs())
        }
    };
    let mut text = String::new();
    said.rewind()?;
    said.read_to_string(&mut text)?;
    bail!("{}\n({status})", text.trim_end())
}

/// What all processes that may have to do with a case are in the middle of.
fn what_hangs() -> String {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut text = String::new();
    for process in processes {
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let pid = process.file_name().to_string_lossy().parse();
        if let (true, Ok(pid)) = (command.contains("agentguard"), pid) {
            text += &format!("{}\n{}", command.replace('\0', " "), daemon::doing(pid));
        }
    }
    text
}

/// A file without a name.
fn tempfile() -> Result<File> {
    let path = format!("/run/test-case-{}", std::process::id());
    let file = File::options()
        .create_new(true)
        .read(true)
        .append(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn tell(case: &Case, begun: Instant, result: Result<()>) -> Result<()> {
    let report = Report {
        name: case.name.clone(),
        ok: result.is_ok(),
        message: result
            .err()
            .map_or(String::new(), |error| format!("{error:#}")),
        millis: begun.elapsed().as_millis() as u64,
    };
    let mut line = serde_json::to_vec(&report)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}

/// Plays one case in this process.
///
/// # Errors
/// What is not as it must be.
pub fn play_one(name: &OsString) -> Result<()> {
    let case = name
        .to_str()
        .and_then(cases::find)
        .with_context(|| format!("there is no case {}", name.display()))?;
    case.play(&mut Bench::new(&case)?)
}
