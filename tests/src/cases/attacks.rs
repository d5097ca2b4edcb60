//! The attacks of `tests/attacks`: each is tried by agents, who must be refused and must be able to do what lies beside
//! it, and by somebody who is nobody's agent, for whom it must work, so that what is refused is the attack.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bench::{Bench, Cgroup, ORDINARY_USER, run},
    log::Wanted,
    scene::Case,
    threats::{self, Attack, Event, Threat, User, Way},
};

/// Where they are in a guest.
pub const GUEST_FOLDER: &str = "/usr/lib/agentguard-tests/attacks";
/// Where they are where this was built.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/attacks");

pub fn cases() -> Vec<Case> {
    let here = Path::new(GUEST_FOLDER);
    let folder = if here.exists() {
        here
    } else {
        Path::new(FOLDER)
    };
    match threats::read_folder(folder) {
        Ok(threats) => threats.iter().filter_map(of_threat).collect(),
        Err(error) => vec![Case::with(
            "attack::files",
            &error.to_string(),
            |_, error| bail!("{error}"),
        )],
    }
}

fn of_threat(threat: &Threat) -> Option<Case> {
    let attack = threat.attack.as_ref()?;
    let name = format!("attack::{}", threat.id);
    Some(
        Case::with(&name, &threat.id, play)
            .policy(&attack.rules)
            .prepare(prepare)
            .limit(120),
    )
}

/// The case's folder is named after it.
fn prepare(dir: &Path) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let id = name.strip_prefix("attack-").context("no attack")?;
    let mut command = Command::new("python3");
    Player::start(&mut command, &id.to_uppercase(), "prepare", dir)?.end()
}

fn play(bench: &mut Bench, id: &str) -> Result<()> {
    let threat = threats::read_folder(Path::new(GUEST_FOLDER))?
        .into_iter()
        .find(|threat| threat.id == id)
        .context("no such threat")?;
    let attack = threat.attack.context("no attack")?;
    let dir = bench.dir.clone();
    let beside = attack
        .beside
        .then(|| {
            let mut player = Player::start(&mut Command::new("python3"), id, "beside", &dir)?;
            player.expect("ready")?;
            anyhow::Ok(player)
        })
        .transpose()?;
    for user in &attack.users {
        by_an_agent(bench, id, &attack, *user).with_context(|| format!("as {user:?}"))?;
    }
    if attack.not_outside.is_none() {
        let mut player = Player::start(&mut Command::new("python3"), id, "attack", &dir)?;
        player
            .until("attack done")
            .and_then(|()| player.end())
            .context("as nobody's agent, for whom it must work")?;
    }
    drop(beside);
    Ok(())
}

/// The twin goes through, the attack doesn't, and the log says why.
fn by_an_agent(bench: &mut Bench, id: &str, attack: &Attack, user: User) -> Result<()> {
    let (dir, name) = (bench.dir.clone(), bench.name());
    bench.log.skip()?;
    if attack.way == Way::Run {
        let mut run = Command::new("agentguard");
        run.args(["run", "--profile", &bench.profile, "--name", &name]);
        if user == User::Agent {
            run.args(["--user", "1000"]);
        }
        run.args(["--", "python3"]);
        let mut player = Player::start(&mut run, id, "twin,attack", &dir)?;
        player.expect("twin done")?;
        player.until("attack refused")?;
        player.end()?;
    } else {
        let cgroup = bench.cgroup()?;
        let mut python = Command::new("python3");
        if user == User::Agent {
            python.uid(ORDINARY_USER).gid(ORDINARY_USER);
        }
        let mut player = Player::start(&mut python, id, "attack,twin", &dir)?;
        player.expect("ready")?;
        if attack.way == Way::Moved {
            cgroup.tag(&bench.profile, &name)?;
            cgroup.add(player.child.id())?;
        } else {
            cgroup.add(player.child.id())?;
        }
        if attack.way == Way::TagRefuses {
            return tag_refuses(&cgroup, &bench.profile, &name);
        }
        if attack.way == Way::Tagged {
            cgroup.tag(&bench.profile, &name)?;
        }
        player.go_on()?;
        player.expect("attack refused")?;
        player.expect("twin done")?;
        player.end()?;
    }
    for event in &attack.event {
        bench.log.wait(&wanted(event, &dir).agent(&name))?;
    }
    Ok(())
}

/// The cgroup can't be tagged, and nothing of it is an agent's.
fn tag_refuses(cgroup: &Cgroup, profile: &str, name: &str) -> Result<()> {
    let path = cgroup.path.display().to_string();
    let output = run("agentguard", &["tag", &path, profile, "--name", name])?;
    ensure!(!output.status.success(), "the cgroup was tagged");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("has open"), "tag said: {said}");
    Ok(())
}

fn wanted(event: &Event, dir: &Path) -> Wanted {
    let mut wanted = Wanted::action(&event.action).with("/verdict", event.verdict.as_str());
    if let Some(rule) = &event.rule {
        wanted = wanted.with("/rule", rule.as_str());
    }
    if let Some(reason) = &event.reason {
        wanted = wanted.with("/reason", reason.as_str());
    }
    if let Some(path) = &event.path {
        wanted = wanted.path(path.replace("{dir}", &dir.display().to_string()));
    }
    wanted
}

/// A process that plays steps of an attack.
struct Player {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What it said on standard error, for messages.
    said: std::path::PathBuf,
}

impl Player {
    /// `command` ends where Python's arguments begin.
    fn start(command: &mut Command, id: &str, steps: &str, dir: &Path) -> Result<Self> {
        let said = Path::new("/run").join(format!("attack-{id}-{steps}-{}", std::process::id()));
        let mut child = command
            .arg("-B")
            .arg(Path::new(GUEST_FOLDER).join("play.py"))
            .args([id, steps])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&said)?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            stdin: stdin.context("no standard input")?,
            stdout: BufReader::new(stdout.context("no standard output")?),
            said,
        })
    }

    /// It says this next.
    fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(
            line.trim_end() == wanted,
            "must say {wanted:?}, but said {:?}\n{}",
            line.trim_end(),
            fs::read_to_string(&self.said).unwrap_or_default()
        );
        Ok(())
    }

    /// It says this next, but for that it is ready.
    fn until(&mut self, wanted: &str) -> Result<()> {
        if self.stdout.fill_buf()?.starts_with(b"ready") {
            self.expect("ready")?;
            self.go_on()?;
        }
        self.expect(wanted)
    }

    /// Has it go on.
    fn go_on(&mut self) -> Result<()> {
        Ok(self.stdin.write_all(b"\n")?)
    }

    /// It ends well, and said nothing more.
    fn end(mut self) -> Result<()> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "ended with {status}\n{rest}{}",
            fs::read_to_string(&self.said).unwrap_or_default()
        );
        Ok(())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.said);
    }
}
