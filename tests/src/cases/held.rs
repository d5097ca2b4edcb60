//! What processes have open when their cgroup is tagged: what the profile denies has the tag refused, by name, and
//! leaves everything as it was.

use std::{
    fs,
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{Bench, Cgroup},
    daemon::{Daemon, wait_until},
    log::Wanted,
    remote::{
        Act, Remote,
        calls::{
            at, bind, call, close, connect, internet, listen, open, read, socket, unix, write,
        },
    },
    said::Said,
    scene::{Case, Scene},
    silent::Silent,
};

const POLICY: &str = r#"
[[deny]]
id = "secrets"
file = "{dir}/secrets/**"

[[allow]]
id = "server"
connect = "tcp://192.0.2.1:9301"

[[deny]]
id = "deputy"
connect = "unix:{dir}/deputy"
"#;

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("held::files", held_files),
        case("held::mappings", mappings),
        case("held::cgroup_files", cgroup_files),
        case("held::sockets", sockets),
        case("held::kinds_of_sockets", kinds),
        case("held::devices_and_the_kernels_files", devices),
        case("held::of_a_thread_with_its_own", apart),
        case("held::in_a_threaded_cgroup", threaded),
        case("held::told_in_audit_mode", audit)
            .second("mode = \"audit\"\n[[deny]]\nid = \"secrets\"\nfile = \"{dir}/secrets/**\"\n"),
        case("held::left_to_them", left),
        case("held::nothing_stands_still_afterwards", thawed),
        case("held::on_a_file_system_that_is_silent", on_silent),
        case("held::nothing_stands_still_after_a_kill", killed).scene(Scene::OwnDaemon),
    ]
}

fn files(dir: &Path) -> Result<()> {
    for file in ["secrets/key", "open/file"] {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(path, "content\n")?;
    }
    Ok(())
}

/// A process that is nobody's agent, alone in a cgroup.
fn alone(bench: &mut Bench) -> Result<(Remote, Cgroup)> {
    let remote = Remote::outside()?;
    let cgroup = bench.cgroup()?;
    cgroup.add(remote.pid())?;
    Ok((remote, cgroup))
}

/// The tag is refused as long as `act` has left something open, whose number it is done with, and says these.
fn refused(
    bench: &mut Bench,
    remote: &mut Remote,
    cgroup: &Cgroup,
    act: &Act,
    said: &[&str],
) -> Result<()> {
    let held = bench.allowed(remote, act)?;
    let path = cgroup.path.display().to_string();
    let pid = format!("process {} (", remote.pid());
    let said: Vec<&str> = ["has open", &pid]
        .into_iter()
        .chain(said.iter().copied())
        .collect();
    Said::by(&["tag", &path, &bench.profile])?
        .ends(1)?
        .complains(&said)
        .with_context(|| format!("{act:?}"))?;
    // It is nobody's agent still, and moves.
    bench
        .allowed(
            remote,
            &open(bench.path("secrets/key"), libc::O_RDONLY | libc::O_CLOEXEC),
        )
        .and_then(|fd| bench.allowed(remote, &close(fd)))?;
    bench.allowed(remote, &close(held))?;
    Ok(())
}

/// It can be tagged now, and is held to the profile.
fn tagged(bench: &mut Bench, remote: &mut Remote, cgroup: &Cgroup) -> Result<()> {
    bench.tag(cgroup, remote)?;
    let key = open(bench.path("secrets/key"), libc::O_RDONLY);
    bench.denied(remote, &key, Wanted::deny("file.open", "secrets"))?;
    Ok(())
}

fn held_files(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    let key = bench.path("secrets/key");
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
        let said = ["rule \"secrets\" denies it", "secrets/key"];
        refused(bench, &mut remote, &cgroup, &open(&key, flags), &said)?;
    }
    // A name that leads to it, and one that is gone.
    let link = bench.path("open/link");
    std::os::unix::fs::symlink(&key, &link)?;
    refused(
        bench,
        &mut remote,
        &cgroup,
        &open(&link, libc::O_RDONLY),
        &["\"secrets\""],
    )?;
    let gone = bench.path("secrets/gone");
    fs::write(&gone, "content\n")?;
    let act = Act::Sequence(vec![
        crate::remote::calls::unlink(&gone),
        open(&key, libc::O_RDONLY),
    ]);
    refused(bench, &mut remote, &cgroup, &act, &["\"secrets\""])?;
    // What gives no access, and what the profile lets it have anyway.
    bench.allowed(&mut remote, &open(&key, libc::O_PATH))?;
    let file = bench.allowed(&mut remote, &open(bench.path("open/file"), libc::O_RDWR))?;
    tagged(bench, &mut remote, &cgroup)?;
    bench.allowed(&mut remote, &write(file, "more"))?;
    Ok(())
}

/// A shared mapping whose descriptor is closed.
fn mappings(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    let map = |file: i64, flags: i32, rights: i32| {
        let arguments = [
            0.into(),
            4096.into(),
            rights.into(),
            flags.into(),
            file.into(),
            0.into(),
        ];
        call(libc::SYS_mmap, arguments)
    };
    let key = bench.allowed(&mut remote, &open(bench.path("secrets/key"), libc::O_RDWR))?;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // Beside one that is the process's own copy.
    bench.allowed(&mut remote, &map(key, libc::MAP_PRIVATE, rights))?;
    let place = bench.allowed(&mut remote, &map(key, libc::MAP_SHARED, rights))?;
    bench.allowed(&mut remote, &close(key))?;
    let path = cgroup.path.display().to_string();
    Said::by(&["tag", &path, &bench.profile])?
        .ends(1)?
        .complains(&["a mapping", "rule \"secrets\" denies it"])?;
    let unmap = call(libc::SYS_munmap, [place.into(), 4096.into()]);
    bench.allowed(&mut remote, &unmap)?;
    // Memory that is shared with nobody's file.
    let anonymous = map(-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS, rights);
    bench.allowed(&mut remote, &anonymous)?;
    tagged(bench, &mut remote, &cgroup)
}

/// With one of these a process could leave, or have others stand still.
fn cgroup_files(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    for file in ["cgroup.procs", "cgroup.freeze"] {
        let act = open(cgroup.path.join(file), libc::O_WRONLY);
        refused(bench, &mut remote, &cgroup, &act, &["[system] cgroups"])?;
    }
    bench.allowed(
        &mut remote,
        &open(cgroup.path.join("cgroup.procs"), libc::O_RDONLY),
    )?;
    tagged(bench, &mut remote, &cgroup)
}

fn sockets(bench: &mut Bench) -> Result<()> {
    let (allowed, denied) = (at("192.0.2.1:9301"), at("192.0.2.1:9302"));
    let _servers = [TcpListener::bind(allowed)?, TcpListener::bind(denied)?];
    let deputy = bench.path("deputy");
    let _deputy = UnixListener::bind(&deputy)?;
    let (mut remote, cgroup) = alone(bench)?;
    let connected = |family: i32, address: Vec<u8>| {
        Act::Sequence(vec![
            socket(family, libc::SOCK_STREAM, 0),
            connect(crate::remote::Arg::Step(0), address),
        ])
    };
    // The sequence is done with what connect returned; the socket has the lowest number that was free.
    let free = bench.allowed(&mut remote, &open("/dev/null", libc::O_RDONLY))?;
    bench.allowed(&mut remote, &close(free))?;
    let path = cgroup.path.display().to_string();
    for (act, said) in [
        (connected(libc::AF_INET, internet(denied)), "192.0.2.1:9302"),
        (connected(libc::AF_UNIX, unix(&deputy)), "\"deputy\""),
        (
            Act::Sequence(vec![
                socket(libc::AF_INET, libc::SOCK_STREAM, 0),
                bind(crate::remote::Arg::Step(0), internet(at("192.0.2.1:9303"))),
                listen(crate::remote::Arg::Step(0)),
            ]),
            "192.0.2.1:9303",
        ),
    ] {
        bench.allowed(&mut remote, &act)?;
        Said::by(&["tag", &path, &bench.profile])?
            .ends(1)?
            .complains(&["has open", said])
            .with_context(|| format!("{act:?}"))?;
        bench.allowed(&mut remote, &close(free))?;
    }
    // One that isn't connected is judged when it is, and a pair belongs to nobody else.
    bench.allowed(&mut remote, &socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
    let pair = Act::SocketPair {
        kind: libc::SOCK_STREAM,
    };
    bench.allowed(&mut remote, &pair)?;
    bench.allowed(&mut remote, &connected(libc::AF_INET, internet(allowed)))?;
    tagged(bench, &mut remote, &cgroup)
}

/// Kinds that no rule lets an agent make.
fn kinds(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    for (family, kind, protocol, said) in [
        (
            libc::AF_INET,
            libc::SOCK_RAW,
            libc::IPPROTO_UDP,
            "raw_sockets",
        ),
        (libc::AF_PACKET, libc::SOCK_RAW, 0, "packet_sockets"),
        (
            libc::AF_NETLINK,
            libc::SOCK_RAW,
            libc::NETLINK_KOBJECT_UEVENT,
            "other_sockets",
        ),
        (
            libc::AF_INET,
            libc::SOCK_DGRAM,
            libc::IPPROTO_ICMP,
            "other_sockets",
        ),
    ] {
        let act = socket(family, kind, protocol);
        refused(bench, &mut remote, &cgroup, &act, &[said])?;
    }
    bench.allowed(
        &mut remote,
        &socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
    )?;
    tagged(bench, &mut remote, &cgroup)
}

fn devices(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    for (path, flags, said) in [
        ("/dev/kmsg", libc::O_RDONLY, "[system] devices"),
        (
            "/proc/sys/kernel/core_pattern",
            libc::O_WRONLY,
            "[system] kernel_files",
        ),
    ] {
        refused(bench, &mut remote, &cgroup, &open(path, flags), &[said])?;
    }
    let perf = {
        // The clock of a processor (include/uapi/linux/perf_event.h): type 1, size 112, config 0. KERNEL: one
        // of a process has the scheduler's code patched, which a processor that is emulated may run into.
        let mut attribute = vec![0; 112];
        attribute[..8].copy_from_slice(&[1, 0, 0, 0, 112, 0, 0, 0]);
        let attribute = crate::remote::Arg::Bytes(attribute);
        let arguments = [attribute, (-1).into(), 0.into(), (-1).into(), 0.into()];
        call(libc::SYS_perf_event_open, arguments)
    };
    refused(bench, &mut remote, &cgroup, &perf, &["[system] perf"])?;
    for path in ["/dev/null", "/dev/zero", "/dev/urandom"] {
        bench.allowed(&mut remote, &open(path, libc::O_RDWR))?;
    }
    bench.allowed(&mut remote, &open("/proc/self/status", libc::O_RDONLY))?;
    tagged(bench, &mut remote, &cgroup)
}

/// The process itself doesn't have it: one of its threads does.
const APART: &str = r#"
import ctypes, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
there, end = threading.Event(), threading.Event()
def hold():
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    os.open(sys.argv[1], os.O_RDONLY)
    there.set()
    end.wait()
threading.Thread(target=hold, daemon=True).start()
there.wait()
print("ready", flush=True)
sys.stdin.readline()
"#;

fn apart(bench: &mut Bench) -> Result<()> {
    let mut python = Command::new("python3")
        .args(["-c", APART])
        .arg(bench.path("secrets/key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = python.stdout.take().context("no standard output")?;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
    let result = (|| {
        ensure!(line == "ready\n", "{line:?}");
        let cgroup = bench.cgroup()?;
        cgroup.add(python.id())?;
        let path = cgroup.path.display().to_string();
        Said::by(&["tag", &path, &bench.profile])?
            .ends(1)?
            .complains(&["rule \"secrets\" denies it"])?;
        python.kill()?;
        python.wait()?;
        Ok(())
    })();
    let _ = python.kill();
    result
}

/// It lists threads alone.
fn threaded(bench: &mut Bench) -> Result<()> {
    let (mut remote, above) = alone(bench)?;
    let cgroup = Cgroup {
        path: above.path.join("threaded"),
    };
    fs::create_dir(&cgroup.path)?;
    fs::write(cgroup.path.join("cgroup.type"), "threaded")?;
    let thread = remote.pid().to_string();
    fs::write(cgroup.path.join("cgroup.threads"), thread)?;
    let act = open(bench.path("secrets/key"), libc::O_RDONLY);
    refused(bench, &mut remote, &cgroup, &act, &["\"secrets\""])?;
    tagged(bench, &mut remote, &cgroup)
}

/// What only audit mode would deny is no reason to refuse.
fn audit(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    let key = bench.path("secrets/key");
    let fd = bench.allowed(&mut remote, &open(&key, libc::O_RDONLY))?;
    let (path, profile) = (cgroup.path.display().to_string(), bench.second_profile());
    Said::by(&["tag", &path, &profile, "--name", "held-in-audit"])?
        .ends(0)?
        .complains(&["secrets/key"])?;
    bench.allowed(&mut remote, &read(fd))?;
    Ok(())
}

/// Who says so leaves them what they have, and the log tells what that is.
fn left(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    let key = bench.allowed(
        &mut remote,
        &open(bench.path("secrets/key"), libc::O_RDONLY),
    )?;
    let (path, name) = (cgroup.path.display().to_string(), bench.name());
    bench.log.skip()?;
    let tag = [
        "tag",
        &path,
        &bench.profile,
        "--name",
        &name,
        "--allow-open",
    ];
    Said::by(&tag)?.ends(0)?.complains(&["secrets/key"])?;
    let started = bench
        .log
        .wait(&Wanted::action("agent.started").agent(&name))?;
    let held = started.to_string();
    ensure!(held.contains("secrets/key"), "{held}");
    remote.agent = Some(name);
    bench.allowed(&mut remote, &read(key))?;
    let again = open(bench.path("secrets/key"), libc::O_RDONLY);
    bench.denied(&mut remote, &again, Wanted::deny("file.open", "secrets"))?;
    Ok(())
}

/// Neither after a tag nor after one that was refused; and what somebody else stopped stays so.
fn thawed(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    let state = || fs::read_to_string(cgroup.path.join("cgroup.freeze"));
    let act = open(bench.path("secrets/key"), libc::O_RDONLY);
    refused(bench, &mut remote, &cgroup, &act, &[])?;
    ensure!(state()? == "0\n");
    fs::write(cgroup.path.join("cgroup.freeze"), "1")?;
    bench.tag(&cgroup, &mut remote)?;
    ensure!(state()? == "1\n");
    fs::write(cgroup.path.join("cgroup.freeze"), "0")?;
    bench.denied(&mut remote, &act, Wanted::deny("file.open", "secrets"))?;
    Ok(())
}

/// Something open of which nobody can say what it is.
fn of_silent(bench: &Bench) -> Result<(Silent, Act)> {
    let path = bench.path("silent");
    fs::create_dir_all(&path)?;
    let silent = Silent::mount(&path)?;
    Ok((silent, open(&path, libc::O_RDONLY | libc::O_DIRECTORY)))
}

/// A server that doesn't answer holds nobody up for long.
fn on_silent(bench: &mut Bench) -> Result<()> {
    let (mut remote, cgroup) = alone(bench)?;
    let (_silent, act) = of_silent(bench)?;
    refused(bench, &mut remote, &cgroup, &act, &["doesn't answer"])?;
    tagged(bench, &mut remote, &cgroup)
}

/// The next daemon has them move again which a killed one left standing still.
fn killed(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    let (mut remote, cgroup) = alone(bench)?;
    let (_silent, act) = of_silent(bench)?;
    bench.allowed(&mut remote, &act)?;
    let mut tag = std::process::Command::new("agentguard")
        .arg("tag")
        .arg(&cgroup.path)
        .arg(&bench.profile)
        .spawn()?;
    let frozen = || {
        let events = fs::read_to_string(cgroup.path.join("cgroup.events"))?;
        Ok(events.contains("frozen 1"))
    };
    wait_until("its processes must stand still", frozen)?;
    daemon.kill()?;
    ensure!(!tag.wait()?.success(), "it was tagged");
    ensure!(frozen()?, "nobody had them move");
    let daemon = Daemon::start()?;
    wait_until("its processes must move again", || Ok(!frozen()?))?;
    ensure!(!Path::new("/run/agentguard/frozen").exists());
    let key = open(bench.path("secrets/key"), libc::O_RDONLY);
    bench.allowed(&mut remote, &key)?;
    daemon.stop()
}
