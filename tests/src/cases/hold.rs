//! Actions that are held until somebody answers: what the kernel does by itself. The case is the one that answers.

use std::{
    ffi::CString,
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
};

use agentguard_common::approval::{Grant, cause, grant};
use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::Bench,
    daemon::signal,
    desk::{Desk, Waiting, boot_ns, wait_for_stop},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Outcome, Remote,
        calls::{
            at, call, connect, exec, internet, listen, mkdir, on_path, on_paths, open, send_to,
            socket, socket_for, unix, unlink,
        },
    },
    scene::Case,
};

pub(super) const POLICY: &str = r#"
[approvals]
max_pending = 3
[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "deny"
[[ask]]
id = "files"
file = "{dir}/ask/**"
[[ask]]
id = "hasty"
file = "{dir}/hasty"
timeout = "1s"
[[ask]]
id = "program"
exec = "{dir}/program"
[[ask]]
id = "stream"
connect = "127.0.0.1:7301"
[[ask]]
id = "datagram"
connect = "127.0.0.1:7302"
[[deny]]
id = "never"
file = "{dir}/ask/never"
"#;

pub(super) const ARGUMENTS: &str = r#"
[[ask]]
id = "push"
exec = "{dir}/program"
args = ["push", "**"]
"#;

const SWAPPED: &str = r#"
[[ask]]
id = "push"
exec = "{dir}/touch"
args = ["{dir}/bad"]
"#;

const SYSTEM: &str = r#"
[system]
user_namespaces = "ask"
keyrings = "ask"
devices = "ask"
"#;

const SOCKETS: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "allow"
listen = "ask"
[[ask]]
id = "abstract"
connect = "unix:@hold-asks"
"#;

const CODE: &str = r#"
[[ask]]
id = "code"
exec = "{dir}/ask/key"
"#;

const SCRIPT: &str = r#"
[[ask]]
id = "script"
exec = "{dir}/ask/**"
"#;

pub(super) fn files(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("ask"))?;
    for name in ["ask/key", "ask/other", "ask/never", "hasty", "open"] {
        fs::write(dir.join(name), "key\n")?;
    }
    let program = dir.join("program");
    fs::write(&program, "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("hold::open", opened),
        case("hold::only_what_was_asked", only_what_was_asked),
        case("hold::connect", connected),
        case("hold::send", sent),
        case("hold::program", started),
        case("hold::program_that_changes", changed_program),
        case("hold::tree", tree),
        case("hold::made_in_the_same_call", made),
        case("hold::nobody_answers", too_late),
        case("hold::many", many),
        case("hold::no_room", no_room),
        case("hold::killed", killed),
        case("hold::for_a_while", for_a_while),
        Case::new("hold::arguments", arguments)
            .policy(ARGUMENTS)
            .prepare(files),
        Case::new("hold::swapped_arguments", swapped)
            .policy(SWAPPED)
            .prepare(files),
        Case::new("hold::system", system)
            .policy(SYSTEM)
            .prepare(files),
        Case::new("hold::sockets", sockets).policy(SOCKETS),
        case("hold::code", code).policy(CODE),
        case("hold::thread", thread),
        case("hold::script_and_interpreter", script).policy(SCRIPT),
    ]
}

pub(super) fn key(bench: &Bench) -> Act {
    open(bench.path("ask/key"), libc::O_RDONLY)
}

pub(super) fn refused(remote: &mut Remote) -> Result<()> {
    let outcome = remote.hear()?;
    ensure!(outcome == Outcome::Failed(libc::EPERM), "{outcome:?}");
    Ok(())
}

pub(super) fn done(remote: &mut Remote) -> Result<i64> {
    match remote.hear()? {
        Outcome::Done(result) => Ok(result),
        outcome => anyhow::bail!("{outcome:?}"),
    }
}

/// Does it, and is held.
pub(super) fn held(desk: &mut Desk, remote: &mut Remote, act: &Act) -> Result<Waiting> {
    remote.tell(act)?;
    desk.following()
}

/// Held and approved; held again, and refused.
fn both(desk: &mut Desk, remote: &mut Remote, act: &Act) -> Result<i64> {
    let no = held(desk, remote, act)?;
    desk.refuse(no, cause::PERSON)?;
    refused(remote)?;
    let yes = held(desk, remote, act)?;
    ensure!(yes.0 == no.0, "another key: {yes:?} after {no:?}");
    desk.grant(yes)?;
    let result = done(remote)?;
    ensure!(desk.at(&yes.0)?.is_none(), "the answer is still there");
    Ok(result)
}

fn opened(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let waiting = held(&mut desk, &mut agent, &key(bench))?;
    ensure!(waiting.0.pid == agent.pid(), "{waiting:?}");
    ensure!(waiting.1.leader == waiting.1.id(), "{waiting:?}");
    // Whoever continues it changes nothing.
    for _ in 0..3 {
        signal(agent.pid(), libc::SIGCONT)?;
        wait_for_stop(agent.pid())?;
    }
    let still = desk.at(&waiting.0)?;
    ensure!(still == Some(waiting.1), "{still:?} was {waiting:?}");
    desk.grant(waiting)?;
    done(&mut agent)?;
    // Once.
    let again = held(&mut desk, &mut agent, &key(bench))?;
    desk.refuse(again, cause::PERSON)?;
    refused(&mut agent)?;
    for flags in [
        libc::O_WRONLY | libc::O_TRUNC,
        libc::O_RDWR | libc::O_APPEND,
    ] {
        both(&mut desk, &mut agent, &open(bench.path("ask/key"), flags))?;
    }
    bench.allowed(&mut agent, &open(bench.path("open"), libc::O_RDWR))?;
    Ok(())
}

fn only_what_was_asked(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    // A deny rule beats an ask, and nobody is asked.
    let outcome = agent.act(&open(bench.path("ask/never"), libc::O_RDONLY))?;
    ensure!(outcome == Outcome::Failed(libc::EPERM), "{outcome:?}");
    // An answer for one file is none for another, for writing, or for what is there after it was replaced.
    let first = held(&mut desk, &mut agent, &key(bench))?;
    fs::remove_file(bench.path("ask/key"))?;
    fs::write(bench.path("ask/key"), "another\n")?;
    desk.grant(first)?;
    let second = desk.following()?;
    ensure!(second.0.object != first.0.object, "{second:?}");
    desk.refuse(second, cause::PERSON)?;
    refused(&mut agent)?;
    // What was granted and not used is still there, and only for the same process.
    let left = desk.at(&first.0)?;
    ensure!(left.is_some(), "the answer for the first file is gone");
    let mut other = bench.agent()?;
    let third = held(&mut desk, &mut other, &key(bench))?;
    ensure!(third.0.agent != first.0.agent, "{third:?}");
    desk.refuse(third, cause::PERSON)?;
    refused(&mut other)
}

fn connected(bench: &mut Bench) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:7301")?;
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let to = at("127.0.0.1:7301");
    let act = Act::Sequence(vec![
        socket_for(to, libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(to)),
    ]);
    both(&mut desk, &mut agent, &act)?;
    let (_, peer) = listener.accept()?;
    ensure!(peer.ip().is_loopback(), "{peer}");
    Ok(())
}

fn sent(bench: &mut Bench) -> Result<()> {
    let receiver = std::net::UdpSocket::bind("127.0.0.1:7302")?;
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let to = at("127.0.0.1:7302");
    let act = Act::Sequence(vec![
        socket_for(to, libc::SOCK_DGRAM),
        send_to(Arg::Step(0), internet(to), 0),
    ]);
    both(&mut desk, &mut agent, &act)?;
    let mut bytes = [0; 64];
    ensure!(receiver.recv(&mut bytes)? > 0, "nothing came");
    Ok(())
}

fn started(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    for birth in [Birth::Fork, Birth::Vfork, Birth::Spawn] {
        let act = exec(birth, bench.path("program"), &[]);
        let waiting = held(&mut desk, &mut agent, &act)?;
        desk.grant(waiting)?;
        ensure!(done(&mut agent)? == 0, "{birth:?}");
        let waiting = held(&mut desk, &mut agent, &act)?;
        desk.refuse(waiting, cause::PERSON)?;
        refused(&mut agent)?;
    }
    Ok(())
}

/// What was approved is bound to what is in it.
fn changed_program(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let act = exec(Birth::Fork, bench.path("program"), &[]);
    let waiting = held(&mut desk, &mut agent, &act)?;
    fs::write(bench.path("program"), "#!/bin/sh\nexit 3\n")?;
    desk.grant(waiting)?;
    let second = desk.following()?;
    ensure!(second.0.object != waiting.0.object, "{second:?}");
    ensure!(second.0.pid == waiting.0.pid, "{second:?}");
    desk.refuse(second, cause::PERSON)?;
    refused(&mut agent)
}

/// Everything that changes the tree is asked before it is done.
fn tree(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let dir = bench.dir.clone();
    let path = |name: &str| dir.join(format!("ask/{name}"));
    both(&mut desk, &mut agent, &mkdir(path("folder")))?;
    both(
        &mut desk,
        &mut agent,
        &on_path(libc::SYS_chmod, path("other"), [0o640]),
    )?;
    both(
        &mut desk,
        &mut agent,
        &on_path(libc::SYS_truncate, path("other"), [2]),
    )?;
    both(
        &mut desk,
        &mut agent,
        &on_paths(libc::SYS_rename, path("other"), bench.path("moved")),
    )?;
    ensure!(bench.path("moved").exists() && !path("other").exists());
    both(
        &mut desk,
        &mut agent,
        &on_paths(libc::SYS_link, bench.path("moved"), path("linked")),
    )?;
    both(&mut desk, &mut agent, &unlink(path("linked")))?;
    ensure!(!path("linked").exists());
    let waiting = held(
        &mut desk,
        &mut agent,
        &on_paths(libc::SYS_rename, path("key"), bench.path("one")),
    )?;
    desk.grant(waiting)?;
    done(&mut agent)?;
    let shown = Wanted::action("file.rename")
        .with("/object/path", path("key").display().to_string())
        .with("/object/to", bench.path("one").display().to_string());
    bench.log.wait(&shown)?;
    // An approved rename is none to somewhere else.
    fs::write(path("key"), "key\n")?;
    let first = held(
        &mut desk,
        &mut agent,
        &on_paths(libc::SYS_rename, path("key"), bench.path("two")),
    )?;
    desk.refuse(first, cause::PERSON)?;
    refused(&mut agent)?;
    let second = held(
        &mut desk,
        &mut agent,
        &on_paths(libc::SYS_rename, path("key"), bench.path("three")),
    )?;
    ensure!(first.0.object != second.0.object, "{second:?}");
    desk.refuse(second, cause::PERSON)?;
    refused(&mut agent)
}

/// A file that is refused isn't made, and one that is approved is opened as well.
fn made(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    for (name, flags) in [("ask/new", 0), ("ask/exclusive", libc::O_EXCL)] {
        let path = bench.path(name);
        let act = open(&path, libc::O_WRONLY | libc::O_CREAT | flags);
        let waiting = held(&mut desk, &mut agent, &act)?;
        ensure!(!path.exists(), "{name} is there before it was approved");
        desk.refuse(waiting, cause::PERSON)?;
        refused(&mut agent)?;
        ensure!(!path.exists(), "{name} is there though it was refused");
        let waiting = held(&mut desk, &mut agent, &act)?;
        desk.grant(waiting)?;
        done(&mut agent)?;
        ensure!(path.exists(), "{name} isn't there though it was approved");
        // Opening it once more is another thing.
        let waiting = held(&mut desk, &mut agent, &open(&path, libc::O_WRONLY))?;
        desk.refuse(waiting, cause::PERSON)?;
        refused(&mut agent)?;
    }
    Ok(())
}

/// The rule's own time, after which it is a no.
fn too_late(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let waiting = held(
        &mut desk,
        &mut agent,
        &open(bench.path("hasty"), libc::O_RDONLY),
    )?;
    let time_ns = waiting.1.deadline_boot_ns - waiting.1.asked_boot_ns;
    ensure!(time_ns == 1_000_000_000, "{time_ns}");
    while boot_ns() <= waiting.1.deadline_boot_ns {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    signal(agent.pid(), libc::SIGCONT)?;
    refused(&mut agent)?;
    ensure!(desk.at(&waiting.0)?.is_none(), "it still waits");
    let other = held(&mut desk, &mut agent, &key(bench))?;
    let time_ns = other.1.deadline_boot_ns - other.1.asked_boot_ns;
    ensure!(time_ns == 60_000_000_000, "{time_ns}");
    desk.refuse(other, cause::PERSON)?;
    refused(&mut agent)
}

/// So many questions of one agent, and who asks the same shares one.
fn many(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let path = bench.path("ask");
    let (mut agent, cgroup) = bench.tagged_after(&[])?;
    let mut others = Vec::new();
    let mut asked = Vec::new();
    for name in ["one", "two", "three", "one", "two"] {
        let mut other = Remote::outside()?;
        cgroup.add(other.pid())?;
        other.tell(&mkdir(path.join(name)))?;
        asked.push(desk.following()?);
        others.push(other);
    }
    let leaders: Vec<u64> = asked.iter().map(|(_, request)| request.leader).collect();
    let ids: Vec<u64> = asked.iter().map(|(_, request)| request.id()).collect();
    ensure!(leaders[..3] == ids[..3], "{leaders:?} {ids:?}");
    ensure!(leaders[3..] == ids[..2], "{leaders:?} {ids:?}");
    // One more is refused without a question.
    let outcome = agent.act(&mkdir(path.join("four")))?;
    ensure!(outcome == Outcome::Failed(libc::EPERM), "{outcome:?}");
    for (waiting, other) in asked.iter().zip(&mut others) {
        desk.refuse(*waiting, cause::PERSON)?;
        refused(other)?;
    }
    let waiting = held(&mut desk, &mut agent, &mkdir(path.join("four")))?;
    desk.grant(waiting)?;
    done(&mut agent).map(drop)
}

/// Where the kernel can't note that something waits, it is refused; and asked about again when it can.
fn no_room(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let filled = desk.fill()?;
    let refused_at_once = bench.fails(&mut agent, &key(bench), libc::EPERM);
    for key in &filled {
        desk.clear(key)?;
    }
    refused_at_once?;
    let full = Wanted::deny("file.open", "files").with("/reason", "no-room");
    bench.log.wait(&full.path(bench.path("ask/key")))?;
    let waiting = held(&mut desk, &mut agent, &key(bench))?;
    desk.grant(waiting)?;
    done(&mut agent).map(drop)
}

/// Who is held can still be killed.
fn killed(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let waiting = held(&mut desk, &mut agent, &key(bench))?;
    signal(agent.pid(), libc::SIGKILL)?;
    let status = agent.wait()?;
    ensure!(!status.success(), "{status}");
    ensure!(waiting.1.id() > 0);
    Ok(())
}

/// Grants and refusals for longer, of an object and of a rule.
fn for_a_while(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let first = held(&mut desk, &mut agent, &key(bench))?;
    desk.refuse(first, cause::PERSON)?;
    refused(&mut agent)?;
    let long = Grant {
        until_boot_ns: u64::MAX,
        id: first.1.id(),
        cause: cause::PERSON,
        padding: [0; 7],
    };
    // The same action is refused without a question.
    desk.give(first.0.grant(grant::REFUSAL), long)?;
    for _ in 0..2 {
        let outcome = agent.act(&key(bench))?;
        ensure!(outcome == Outcome::Failed(libc::EPERM), "{outcome:?}");
    }
    desk.take_back(first.0.grant(grant::REFUSAL))?;
    desk.give(first.0.grant(grant::OBJECT), long)?;
    for _ in 0..2 {
        bench.allowed(&mut agent, &key(bench))?;
    }
    let other = open(bench.path("ask/other"), libc::O_RDONLY);
    let second = held(&mut desk, &mut agent, &other)?;
    desk.refuse(second, cause::PERSON)?;
    refused(&mut agent)?;
    desk.take_back(first.0.grant(grant::OBJECT))?;
    // Over.
    desk.give(
        first.0.grant(grant::OBJECT),
        Grant {
            until_boot_ns: boot_ns() - 1,
            ..long
        },
    )?;
    let third = held(&mut desk, &mut agent, &key(bench))?;
    desk.refuse(third, cause::PERSON)?;
    refused(&mut agent)?;
    let rule = agentguard_common::approval::GrantKey {
        object: [0; 2],
        install: third.1.install,
        rule: agentguard_common::Outcome(third.1.outcome).rule(),
        kind: grant::RULE,
        action: 0,
        verbs: 0,
        ..third.0.grant(grant::RULE)
    };
    desk.give(rule, long)?;
    for act in [
        key(bench),
        other,
        open(bench.path("ask/other"), libc::O_RDWR),
    ] {
        bench.allowed(&mut agent, &act)?;
    }
    // Another rule's.
    let hasty = open(bench.path("hasty"), libc::O_RDONLY);
    let fourth = held(&mut desk, &mut agent, &hasty)?;
    desk.refuse(fourth, cause::PERSON)?;
    refused(&mut agent)?;
    desk.take_back(rule)
}

/// What was approved is the program with exactly these arguments.
fn arguments(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let run = |arguments: &[&str]| exec(Birth::Fork, bench.path("program"), arguments);
    bench.allowed(&mut agent, &run(&["pull"]))?;
    let first = held(&mut desk, &mut agent, &run(&["push", "origin"]))?;
    desk.refuse(first, cause::PERSON)?;
    refused(&mut agent)?;
    let second = held(&mut desk, &mut agent, &run(&["push", "origin"]))?;
    ensure!(second.0.object == first.0.object, "{second:?}");
    desk.grant(second)?;
    ensure!(done(&mut agent)? == 0);
    let third = held(&mut desk, &mut agent, &run(&["push", "elsewhere"]))?;
    ensure!(third.0.object != first.0.object, "{third:?}");
    desk.refuse(third, cause::PERSON)?;
    refused(&mut agent)?;
    let pid = call(libc::SYS_getpid, []);
    bench.allowed(&mut agent, &pid).map(drop)
}

/// A thread that changes an argument between what is looked at, approved, and what the program gets: nothing runs with
/// what nobody approved.
fn swapped(bench: &mut Bench) -> Result<()> {
    fs::copy("/bin/busybox", bench.path("touch"))?;
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let text = |name| bench.path(name).display().to_string().into_bytes();
    let act = Act::SwappingExec {
        program: text("touch"),
        argument: text("cad"),
        other: text("bad"),
        times: 100,
    };
    agent.tell(&act)?;
    let mut refusals = 0;
    while !agent.has_answered()? {
        for waiting in desk.waiting()? {
            refusals += u32::from(desk.refuse(waiting, cause::PERSON).is_ok());
        }
    }
    let ran = done(&mut agent)?;
    ensure!(
        ran > 0 && bench.path("cad").exists(),
        "the permitted twin never ran"
    );
    ensure!(refusals > 0, "nobody was asked");
    ensure!(!bench.path("bad").exists(), "what was refused ran");
    Ok(())
}

/// Operations of `[system]`.
fn system(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    // A device that nobody drives: who gets as far as that is told so.
    let node = CString::new(bench.path("device").as_os_str().as_bytes())?;
    // SAFETY: a string that outlives the call.
    let made = unsafe { libc::mknod(node.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(60, 1)) };
    ensure!(made == 0, "{}", std::io::Error::last_os_error());
    let device = open(bench.path("device"), libc::O_RDONLY);
    let waiting = held(&mut desk, &mut agent, &device)?;
    desk.refuse(waiting, cause::PERSON)?;
    refused(&mut agent)?;
    let waiting = held(&mut desk, &mut agent, &device)?;
    desk.grant(waiting)?;
    let outcome = agent.hear()?;
    ensure!(outcome == Outcome::Failed(libc::ENXIO), "{outcome:?}");
    // One call would ask for keys several times.
    let keyctl = call(libc::SYS_keyctl, [0.into(), Arg::Int(-3), 1.into()]);
    let outcome = agent.act(&keyctl)?;
    ensure!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    bench.log.wait(
        &Wanted::action("system.keyrings")
            .with("/verdict", "deny")
            .with("/reason", "cant-be-held"),
    )?;
    let unshare = call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into()]);
    both(&mut desk, &mut agent, &unshare).map(drop)
}

/// Sockets that listen, and Unix sockets.
fn sockets(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let to = at("127.0.0.1:7303");
    let act = Act::Sequence(vec![
        socket_for(to, libc::SOCK_STREAM),
        listen(Arg::Step(0)),
    ]);
    both(&mut desk, &mut agent, &act)?;
    let server = UnixListener::bind_addr(&SocketAddr::from_abstract_name("hold-asks")?)?;
    let act = Act::Sequence(vec![
        socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        connect(Arg::Step(0), unix("@hold-asks")),
    ]);
    both(&mut desk, &mut agent, &act)?;
    server.accept()?;
    Ok(())
}

/// Mapping a file as code.
fn code(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let map = Act::Sequence(vec![
        open(bench.path("ask/key"), libc::O_RDONLY),
        call(
            libc::SYS_mmap,
            [
                0.into(),
                4096.into(),
                (libc::PROT_READ | libc::PROT_EXEC).into(),
                libc::MAP_PRIVATE.into(),
                Arg::Step(0),
                0.into(),
            ],
        ),
    ]);
    both(&mut desk, &mut agent, &map)?;
    Ok(())
}

/// From a thread: the whole process waits.
fn thread(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let act = Act::Thread(Box::new(key(bench)));
    let waiting = held(&mut desk, &mut agent, &act)?;
    ensure!(waiting.0.pid == agent.pid(), "{waiting:?}");
    ensure!(waiting.1.tid != agent.pid(), "{waiting:?}");
    desk.grant(waiting)?;
    done(&mut agent)?;
    let waiting = held(&mut desk, &mut agent, &act)?;
    desk.refuse(waiting, cause::PERSON)?;
    refused(&mut agent)
}

/// Two files of one start that are both asked about: two answers, and no more.
fn script(bench: &mut Bench) -> Result<()> {
    let interpreter = bench.path("ask/true");
    fs::copy("/bin/true", &interpreter)?;
    let script = bench.path("ask/script");
    fs::write(&script, format!("#!{}\n", interpreter.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let act = exec(Birth::Fork, &script, &[]);
    let first = held(&mut desk, &mut agent, &act)?;
    desk.grant(first)?;
    let second = desk.following()?;
    ensure!(second.0.object != first.0.object, "{second:?}");
    // Somebody else has it go on: what was answered is not used up by that.
    for _ in 0..3 {
        signal(second.0.pid, libc::SIGCONT)?;
        wait_for_stop(second.0.pid)?;
    }
    let left = desk.at(&first.0)?.context("the first answer is gone")?;
    ensure!(left.id() == first.1.id(), "{left:?}");
    desk.grant(second)?;
    ensure!(done(&mut agent)? == 0);
    ensure!(
        desk.at(&first.0)?.is_none() && desk.at(&second.0)?.is_none(),
        "answers are left"
    );
    // Used once.
    let third = held(&mut desk, &mut agent, &act)?;
    desk.refuse(third, cause::PERSON)?;
    refused(&mut agent)
}
