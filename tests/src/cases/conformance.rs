//! The questions of `tests/cases/*.toml` with real files, programs and sockets: what the simulator answers
//! is what the kernel does. One case per file, one agent for all its questions.

use std::{
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::{SocketAddr as UnixAddress, UnixListener},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bench::{Bench, shown},
    case::{self, Access, CaseFile, Op, Replay, Setup, Verdict},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Outcome, Program, Remote,
        calls::{
            bind, connect, exec, forked, internet, listen, on_path, open, set_option, socket,
            socket_for, unix, unlink,
        },
    },
    scene::Case,
};

/// Where the files are in a guest.
pub const GUEST_FOLDER: &str = "/usr/lib/agentguard-tests/cases";
/// Where they are where this was built.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");

pub fn cases() -> Vec<Case> {
    let folder = super::data(GUEST_FOLDER, FOLDER);
    match CaseFile::read_all(folder) {
        Ok(files) => files.iter().map(of_file).collect(),
        Err(error) => vec![Case::with(
            "conformance::files",
            &error.to_string(),
            |_, error| bail!("{error}"),
        )],
    }
}

/// What is asked is refused after a moment, as soon as it is asked again.
const NOBODY_ANSWERS: &str = "\n[approvals]\ntimeout = \"20ms\"\ncooldown = \"0s\"\n";

fn of_file(file: &CaseFile) -> Case {
    // The case gives its profile a version and a name of its own.
    let policy = file.profile.replace("version = 1\n", "") + NOBODY_ANSWERS;
    Case::with(&format!("conformance::{}", file.name), &file.name, play)
        .policy(&policy)
        .limit(300)
}

fn play(bench: &mut Bench, name: &str) -> Result<()> {
    let file = CaseFile::read(&Path::new(GUEST_FOLDER).join(format!("{name}.toml")))?;
    let mut agent = bench.agent()?;
    let mut wrong = Vec::new();
    let questions = file
        .case
        .iter()
        .filter(|case| case.replay != Replay::Simulator);
    let mut count = 0;
    for case in questions {
        count += 1;
        if let Err(error) = ask(bench, &mut agent, case) {
            wrong.push(format!("{}: {error:#}", case.name));
        }
    }
    ensure!(count > 0, "no questions");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Asks one question, with what it needs around it.
fn ask(bench: &mut Bench, agent: &mut Remote, case: &case::Case) -> Result<()> {
    let mut stage = Stage::default();
    for setup in &case.setup {
        stage
            .set(setup)
            .with_context(|| format!("cannot set up {setup:?}"))?;
    }
    let mut act = act(bench, agent, case)?;
    if case.expect == Verdict::Kill {
        act = forked(act);
    }
    let is_linked = |setup: &Setup| matches!(setup, Setup::HardLink { .. });
    if case.setup.iter().any(is_linked) {
        // What a rule names literally is new, and the daemon hears of it a moment later.
        wait_for(agent, &act, case.expect)?;
    }
    bench.log.skip()?;
    let outcome = agent.act(&act)?;
    ensure!(
        is_expected(case.expect, outcome),
        "must be {}, but {}",
        case.expect.name(),
        shown(outcome)
    );
    // What fails before the hook leaves no trace.
    let is_silent = case.expect == Verdict::Allow
        && matches!(case.op, Op::Open | Op::Exec)
        && !matches!(outcome, Outcome::Done(_));
    if is_silent {
        return Ok(());
    }
    bench.log.wait(&wanted(bench, agent, case))?;
    Ok(())
}

fn is_expected(verdict: Verdict, outcome: Outcome) -> bool {
    match verdict {
        Verdict::Allow => !matches!(outcome, Outcome::Failed(libc::EPERM) | Outcome::Killed(_)),
        Verdict::Ask | Verdict::Deny => outcome == Outcome::Failed(libc::EPERM),
        Verdict::Kill => outcome == Outcome::Killed(libc::SIGKILL),
    }
}

fn wait_for(agent: &mut Remote, act: &Act, verdict: Verdict) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_expected(verdict, agent.act(act)?) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn wanted(bench: &Bench, agent: &Remote, case: &case::Case) -> Wanted {
    let mut wanted = Wanted::default().agent(agent.agent.as_deref().unwrap_or_default());
    wanted = match case.expect {
        Verdict::Allow => wanted.with("/verdict", "allow"),
        Verdict::Deny => wanted.with("/verdict", "deny"),
        Verdict::Ask => wanted.with("/verdict", "deny").with("/reason", "timed-out"),
        Verdict::Kill => wanted.with("/verdict", "kill"),
    };
    let is_script = |setup: &Setup| matches!(setup, Setup::Script { .. });
    match &case.path {
        Some(path) if !case.setup.iter().any(is_script) => wanted = wanted.path(path),
        _ => {}
    }
    match case.rule.as_deref() {
        // The pseudo-paths are denied without a rule.
        Some("default") if is_nameless(case) => wanted,
        Some("default") => wanted.with("/rule", format!("{}/default", bench.profile)),
        Some(rule) => wanted.with("/rule", rule),
        None => wanted,
    }
}

fn is_nameless(case: &case::Case) -> bool {
    matches!(case.path.as_deref(), Some("memfd:" | "deleted:"))
}

fn act(bench: &Bench, agent: &mut Remote, case: &case::Case) -> Result<Act> {
    let path = case.via.as_ref().or(case.path.as_ref());
    let address = case.address.as_deref().unwrap_or_default();
    match (case.op, path) {
        (Op::Open, Some(path)) => Ok(opening(path, &case.access)),
        (Op::Exec, Some(_)) if is_nameless(case) => nameless(bench, agent, case),
        (Op::Exec, Some(path)) if case.args.is_empty() => Ok(exec(Birth::Fork, path, &["true"])),
        (Op::Exec, Some(path)) => {
            let arguments: Vec<&str> = case.args.iter().map(String::as_str).collect();
            Ok(exec(Birth::Fork, path, &arguments))
        }
        (Op::Connect, _) => connecting(address),
        (Op::Listen, _) => listening(address),
        _ => bail!("a question without an object"),
    }
}

fn opening(path: &str, access: &[Access]) -> Act {
    let has = |wanted| access.contains(&wanted);
    if has(Access::Delete) {
        return unlink(path);
    }
    if has(Access::Metadata) {
        return on_path(libc::SYS_chmod, path, [0o600]);
    }
    let mode = match (has(Access::Read), has(Access::Write)) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        _ => libc::O_RDONLY,
    };
    let create = if has(Access::Create) {
        libc::O_CREAT
    } else {
        0
    };
    open(path, mode | create)
}

/// A program in a memfd, or in a file that is deleted.
fn nameless(bench: &Bench, agent: &mut Remote, case: &case::Case) -> Result<Act> {
    let program = "/bin/busybox";
    let fd = if case.path.as_deref() == Some("deleted:") {
        let copy = bench.path("deleted");
        fs::copy(program, &copy)?;
        let fd = bench.allowed(agent, &open(&copy, libc::O_RDONLY))?;
        fs::remove_file(&copy)?;
        fd
    } else {
        super::exec::memfd_of(bench, agent, Path::new(program))?
    };
    Ok(Act::Exec {
        birth: Birth::Fork,
        program: Program::Descriptor(fd as i32),
        arguments: vec![b"true".to_vec()],
    })
}

/// Scheme and rest of an address.
fn parts(address: &str) -> (&str, &str) {
    match address.split_once("://") {
        Some(parts) => parts,
        None => match address.strip_prefix("unix:") {
            Some(name) => ("unix", name),
            None => ("tcp", address),
        },
    }
}

fn internet_parts(address: &str) -> Result<(i32, SocketAddr)> {
    let (scheme, rest) = parts(address);
    let kind = match scheme {
        "tcp" => libc::SOCK_STREAM,
        "udp" => libc::SOCK_DGRAM,
        _ => bail!("no way to talk {scheme}"),
    };
    Ok((kind, rest.parse().context("no address")?))
}

fn connecting(address: &str) -> Result<Act> {
    if let ("unix", name) = parts(address) {
        return Ok(Act::Sequence(vec![
            socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
            connect(Arg::Step(0), unix(name)),
        ]));
    }
    let (kind, address) = internet_parts(address)?;
    Ok(Act::Sequence(vec![
        socket_for(address, kind | libc::SOCK_NONBLOCK),
        connect(Arg::Step(0), internet(address)),
    ]))
}

fn listening(address: &str) -> Result<Act> {
    let (kind, address) = internet_parts(address)?;
    let reuse = set_option(
        Arg::Step(0),
        libc::SOL_SOCKET,
        libc::SO_REUSEADDR,
        &1_i32.to_ne_bytes(),
    );
    let mut acts = vec![
        socket_for(address, kind),
        reuse,
        bind(Arg::Step(0), internet(address)),
    ];
    if kind == libc::SOCK_STREAM {
        acts.push(listen(Arg::Step(0)));
    }
    acts.push(crate::remote::calls::close(Arg::Step(0)));
    Ok(Act::Sequence(acts))
}

/// What a question needs, for as long as it is asked.
#[derive(Default)]
struct Stage {
    paths: Vec<PathBuf>,
    listeners: Vec<Listener>,
}

/// Something that listens. Only held.
#[expect(dead_code, reason = "what counts is that it is there")]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Unix(UnixListener),
}

impl Stage {
    fn set(&mut self, setup: &Setup) -> Result<()> {
        let path = match setup {
            Setup::File { file: path }
            | Setup::Folder { folder: path }
            | Setup::Link { link: path, .. }
            | Setup::HardLink {
                hard_link: path, ..
            }
            | Setup::Program { program: path }
            | Setup::Script { script: path, .. } => path,
            Setup::Listener { listener } => return self.listen(listener),
        };
        make_parent(path)?;
        match setup {
            Setup::Folder { .. } => fs::create_dir_all(path)?,
            Setup::File { .. } => fs::write(path, "content\n")?,
            Setup::Link { to, .. } => symlink(to, path)?,
            Setup::HardLink { to, .. } => fs::hard_link(to, path)?,
            Setup::Program { .. } => {
                fs::copy("/bin/busybox", path)?;
            }
            Setup::Script { interpreter, .. } => {
                fs::write(path, format!("#!{} true\n", interpreter.display()))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
            }
            Setup::Listener { .. } => {}
        }
        self.paths.push(path.clone());
        Ok(())
    }

    fn listen(&mut self, address: &str) -> Result<()> {
        let listener = match parts(address) {
            ("unix", name) => match name.strip_prefix('@') {
                Some(name) => {
                    let address = UnixAddress::from_abstract_name(name)?;
                    Listener::Unix(UnixListener::bind_addr(&address)?)
                }
                None => {
                    make_parent(Path::new(name))?;
                    self.paths.push(name.into());
                    Listener::Unix(UnixListener::bind(name)?)
                }
            },
            _ => match internet_parts(address)? {
                (libc::SOCK_STREAM, address) => Listener::Tcp(TcpListener::bind(address)?),
                (_, address) => Listener::Udp(UdpSocket::bind(address)?),
            },
        };
        self.listeners.push(listener);
        Ok(())
    }
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => Ok(fs::create_dir_all(parent)?),
        None => Ok(()),
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for path in self.paths.iter().rev() {
            // A question may have removed it; a folder may hold another's.
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
}
