//! The attacks of `tests/attacks`: each is tried by agents, who must be refused and must be able to do what lies beside
//! it, and by somebody who is nobody's agent, for whom it must work, so that what is refused is the attack.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
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

/// What Python has compiled of its library: the guests' packages don't bring it, and it takes a second each time.
const COMPILED: &str = "/run/attacks-compiled";
/// What plays, below the folder.
const PLAY: &str = "play.py";
/// Where it serves.
const SERVER: &str = "/run/attacks.socket";

pub fn cases() -> Vec<Case> {
    let folder = super::data(GUEST_FOLDER, FOLDER);
    match threats::read_folder(folder) {
        Ok(threats) => threats.iter().filter_map(of_threat).collect(),
        Err(error) => vec![Case::with(
            "attack::files",
            &error.to_string(),
            |_, error| bail!("{error}"),
        )],
    }
}

/// That of one threat, in a guest.
pub fn of(id: &str) -> Option<Case> {
    of_threat(&threats::read(&Path::new(GUEST_FOLDER).join(id)).ok()?)
}

fn of_threat(threat: &Threat) -> Option<Case> {
    let attack = threat.attack.as_ref()?;
    let name = format!("attack::{}", threat.id);
    Some(
        Case::with(&name, &threat.id, play)
            .policy(&attack.rules)
            .prepare(prepare)
            .limit(300),
    )
}

/// The case's folder is named after it.
fn prepare(dir: &Path) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let id = name.strip_prefix("attack-").context("no attack")?;
    let mut player = Player::outside(&id.to_uppercase(), "prepare", dir)?;
    if player.output.fill_buf()?.starts_with(b"prepare") {
        player.expect("prepare done")?;
    }
    player.end()
}

fn play(bench: &mut Bench, id: &str) -> Result<()> {
    let threat = threats::read(&Path::new(GUEST_FOLDER).join(id))?;
    let attack = threat.attack.context("no attack")?;
    let dir = bench.dir.clone();
    let beside = attack
        .beside
        .then(|| {
            let mut player = Player::outside(id, "beside", &dir)?;
            player.expect("ready")?;
            anyhow::Ok(player)
        })
        .transpose()?;
    for user in &attack.users {
        by_an_agent(bench, id, &attack, *user).with_context(|| format!("as {user:?}"))?;
    }
    if attack.not_outside.is_none() {
        let mut player = Player::outside(id, "attack", &dir)?;
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
            cgroup.add(player.pid())?;
        } else {
            cgroup.add(player.pid())?;
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
    let of_user = |event: &&Event| event.user.is_none_or(|only| only == user);
    for event in attack.event.iter().filter(of_user) {
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
    process: Process,
    input: Box<dyn Write>,
    output: BufReader<Box<dyn Read>>,
    /// What it said on standard error, for messages.
    said: PathBuf,
}

enum Process {
    Own(Child),
    /// One of the server's, which leads a group.
    Forked(i32),
}

impl Player {
    /// `command` ends where Python's arguments begin.
    fn start(command: &mut Command, id: &str, steps: &str, dir: &Path) -> Result<Self> {
        let said = said(id, steps);
        let mut child = python(command)
            // What is written for later is nothing that agents should do.
            .arg("-B")
            .arg(Path::new(GUEST_FOLDER).join(PLAY))
            .args([id, steps])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&said)?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            process: Process::Own(child),
            input: Box::new(stdin.context("no standard input")?),
            output: BufReader::new(Box::new(stdout.context("no standard output")?)),
            said,
        })
    }

    /// One that is root and nobody's agent, by the server.
    fn outside(id: &str, steps: &str, dir: &Path) -> Result<Self> {
        let said = said(id, steps);
        let mut connection = served()?;
        let (dir, errors) = (dir.display(), said.display());
        connection.write_all(format!("{id} {steps} {dir} {errors}\n").as_bytes())?;
        let mut player = Self {
            process: Process::Forked(0),
            input: Box::new(connection.try_clone()?),
            output: BufReader::new(Box::new(connection)),
            said,
        };
        let line = player.line()?;
        let pid = line.strip_prefix("pid ").context("not a number")?;
        player.process = Process::Forked(pid.parse()?);
        Ok(player)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn pid(&self) -> u32 {
        match &self.process {
            Process::Own(child) => child.id(),
            Process::Forked(pid) => *pid as u32,
        }
    }

    /// It says this next.
    fn expect(&mut self, wanted: &str) -> Result<()> {
        let line = self.line()?;
        ensure!(
            line == wanted,
            "must say {wanted:?}, but said {line:?}\n{}",
            fs::read_to_string(&self.said).unwrap_or_default()
        );
        Ok(())
    }

    /// It says this next, but for that it is ready.
    fn until(&mut self, wanted: &str) -> Result<()> {
        if self.output.fill_buf()?.starts_with(b"ready") {
            self.expect("ready")?;
            self.go_on()?;
        }
        self.expect(wanted)
    }

    /// Has it go on.
    fn go_on(&mut self) -> Result<()> {
        Ok(self.input.write_all(b"\n")?)
    }

    /// It ends well, and said nothing more.
    fn end(mut self) -> Result<()> {
        self.expect("end")?;
        if let Process::Own(child) = &mut self.process {
            let status = child.wait()?;
            ensure!(status.success(), "ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        match &mut self.process {
            Process::Own(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Forked(0) => {}
            // SAFETY: no memory is involved.
            Process::Forked(pid) => unsafe {
                libc::kill(-*pid, libc::SIGKILL);
            },
        }
        let _ = fs::remove_file(&self.said);
    }
}

/// Where a player says what went wrong.
fn said(id: &str, steps: &str) -> PathBuf {
    Path::new("/run").join(format!("attack-{id}-{steps}-{}", std::process::id()))
}

/// What all of Python is started with.
fn python(command: &mut Command) -> &mut Command {
    // Nothing of what the machine adds to Python's library is needed.
    command.env("PYTHONPYCACHEPREFIX", COMPILED).arg("-S")
}

/// A connection to the server, which is started when there is none.
fn served() -> Result<UnixStream> {
    if let Ok(connection) = UnixStream::connect(SERVER) {
        return Ok(connection);
    }
    let mut command = Command::new("python3");
    let mut server = python(&mut command)
        .arg(Path::new(GUEST_FOLDER).join(PLAY))
        .args(["serve", SERVER])
        // Not of the case that needs it first.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the server of attacks")?;
    let mut said = String::new();
    let output = server.stdout.take().context("no standard output")?;
    BufReader::new(output).read_line(&mut said)?;
    ensure!(said == "ready\n", "the server of attacks said {said:?}");
    Ok(UnixStream::connect(SERVER)?)
}
