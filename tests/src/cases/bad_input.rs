//! What a host, a disk or a policy can have wrong: each is told clearly, with its own exit status, and
//! nothing that was enforced is enforced less.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    bench::{self, Bench},
    daemon::{Daemon, Started, wait_until},
    log::{Log, Wanted},
    remote::{Act, calls::open},
    said::Said,
    scene::{Case, Root, Scene},
};

const POLICY: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open", "disk"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "key\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let own = |name, play| {
        Case::new(name, play)
            .policy(POLICY)
            .prepare(files)
            .scene(Scene::OwnDaemon)
            .limit(300)
    };
    let landlock = Scene::OwnBoot {
        append: "lsm=landlock",
        root: Root::Memory,
    };
    vec![
        own("bad_input::log_that_cannot_be_written", read_only_log),
        own("bad_input::full_disk", full_disk),
        own("bad_input::torn_log", torn_log),
        own("bad_input::no_cgroup2", no_cgroup2),
        own("bad_input::no_bpf_file_system", no_bpffs),
        own("bad_input::no_btf", no_btf),
        own("bad_input::configuration", configuration),
        own("bad_input::first_policies", first_policies),
        own("bad_input::policies", policies),
        own("bad_input::canary_that_cannot_be_run", no_canary),
        Case::new("bad_input::no_bpf_lsm", no_bpf_lsm)
            .scene(landlock)
            .limit(300),
        Case::new("bad_input::no_bpf_lsm_but_a_list_that_lies", lying_list)
            .scene(landlock)
            .limit(300),
    ]
}

/// The daemon refuses to start, with this status, having said these things.
fn refuses(command: &mut Command, code: i32, parts: &[&str]) -> Result<()> {
    match Daemon::try_start_command(command)? {
        Started::Ready(_) => bail!("the daemon must refuse to start, but is ready"),
        Started::Refused(status, said) => {
            ensure!(
                status.code() == Some(code),
                "must end with {code}: {status}:\n{said}"
            );
            for part in parts {
                ensure!(said.contains(part), "must say {part:?}: {said}");
            }
            Ok(())
        }
    }
}

fn daemon(arguments: &[&str]) -> Command {
    let mut command = Command::new("agentguard");
    command.arg("daemon").args(arguments);
    command
}

/// A daemon in a mount namespace of its own, in which `script` was run before.
fn daemon_after(script: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{script} && exec agentguard daemon");
    command.args(["-m", "sh", "-e", "-c", &script]);
    command
}

/// Runs a script of the shell that must succeed.
fn shell(script: &str) -> Result<()> {
    Said::by_shell(script)?.ends(0).map(drop)
}

fn read_only_log(bench: &mut Bench) -> Result<()> {
    let disk = bench.path("disk").display().to_string();
    shell(&format!("mount -t tmpfs -o ro none {disk}"))?;
    let result = (|| {
        refuses(&mut daemon(&["--log-dir", &disk]), 13, &[&disk, "log.dir"])?;
        let below = format!("{disk}/below/it");
        refuses(&mut daemon(&["--log-dir", &below]), 13, &[&disk])?;
        let file = bench.path("open/key").display().to_string();
        refuses(&mut daemon(&["--log-dir", &file]), 13, &[&file])
    })();
    shell(&format!("umount {disk}"))?;
    result
}

fn full_disk(bench: &mut Bench) -> Result<()> {
    // The kernel's counters too: what an earlier case lost would be told again by a daemon that begins anew.
    bench.unloaded()?;
    let disk = bench.path("disk");
    let shown = disk.display().to_string();
    shell(&format!("mount -t tmpfs -o size=16m none {shown}"))?;
    let result = on_full_disk(bench, &disk);
    shell(&format!("umount -l {shown}"))?;
    result
}

fn on_full_disk(bench: &mut Bench, disk: &Path) -> Result<()> {
    // More than the ring holds.
    const DENIALS: u32 = 6000;
    let configuration = bench.path("open/agentguard.toml");
    let text = format!("[log]\ndir = {:?}\n", disk.display().to_string());
    fs::write(&configuration, text)?;
    let arguments = [Path::new("--config"), &configuration];
    let daemon = Daemon::start_with(&arguments)?;
    let mut log = Log::from_start(&disk.join("events.jsonl"));
    let mut agent = bench.agent()?;
    let name = agent.agent.clone().context("the agent has no name")?;
    log.wait(&Wanted::action("agent.started").agent(&name))?;

    // A file that leaves no room.
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler)?;
    while file.write_all(&[b'x'; 1024]).is_ok() {}
    let key = bench.path("secret/key");
    let flood = Act::Repeat {
        times: DENIALS,
        act: Box::new(Act::Denied(Box::new(open(&key, libc::O_RDONLY)))),
    };
    bench.allowed(&mut agent, &flood)?;
    bench.allowed(&mut agent, &open(bench.path("open/key"), libc::O_RDONLY))?;
    wait_until("the daemon notices that the disk is full", || {
        let status = bench::status()?;
        Ok(status["log"]["writing"] == false && status["counters"]["lost_kernel"][0].is_object())
    })?;
    let status = bench::status()?;
    ensure!(
        status["enforcing"] == true && status["log"]["error"].is_string(),
        "{status}"
    );
    Said::by(&["status"])?
        .ends(0)?
        .prints(&["can't be written", "what to do"])?;

    // Killed in the meantime, it leaves them where they are.
    daemon.kill()?;
    // Nor does a full disk keep one from starting.
    match Daemon::try_start(&arguments)? {
        Started::Ready(daemon) => daemon.kill()?,
        Started::Refused(status, said) => bail!("on a full disk: {status}:\n{said}"),
    }
    drop(file);
    fs::remove_file(&filler)?;
    let _daemon = Daemon::start_with(&arguments)?;
    // What it tells as lost and what it wrote is everything.
    log.wait(&Wanted::action("lost").with("/object/stage", "kernel"))?;
    let key_after = bench.path("secret/after");
    fs::write(&key_after, "")?;
    bench.fails(&mut agent, &open(&key_after, libc::O_RDONLY), libc::EPERM)?;
    log.wait(&Wanted::deny("file.open", "secret").path(&key_after))?;
    let status = bench::status()?;
    ensure!(status["log"]["writing"] == true, "{status}");
    let events = log.events()?;
    let denial = Wanted::deny("file.open", "secret").agent(&name).path(&key);
    let written = events.iter().filter(|event| denial.fits(event)).count() as u64;
    let told: u64 = events
        .iter()
        .filter(|event| event["action"] == "lost")
        .flat_map(|event| event["object"]["counts"].as_array().cloned())
        .flatten()
        .filter(|count| count["verdict"] == "deny" && count["hook"] == "file_open")
        .filter_map(|count| count["count"].as_u64())
        .sum();
    // The canary of the daemon that started on the full disk found no room either.
    let denials = u64::from(DENIALS) + 1;
    ensure!(
        written + told == denials && told > 0,
        "{written} denials were written and {told} told as lost, of {denials}"
    );
    let numbers: Vec<Option<u64>> = events.iter().map(|event| event["seq"].as_u64()).collect();
    let whole: Vec<Option<u64>> = (1..=numbers.len() as u64).map(Some).collect();
    ensure!(numbers == whole, "the numbers have holes: {numbers:?}");
    Ok(())
}

/// What a power failure leaves: half a line.
fn torn_log(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    Daemon::start()?.stop()?;
    let path = Path::new(crate::log::PATH);
    let whole = fs::read_to_string(path)?;
    let last = whole.lines().last().context("an empty log")?;
    let last: Value = serde_json::from_str(last)?;
    fs::OpenOptions::new()
        .append(true)
        .open(path)?
        .write_all(b"{\"v\":1,\"seq\":99999,\"ti")?;
    let _daemon = Daemon::start()?;
    let mut log = Log::from_start(path);
    let gap = log.wait(&Wanted::action("daemon.gap"))?;
    ensure!(
        gap["object"]["cut_bytes"] == 22 && gap["object"]["after_seq"] == last["seq"],
        "{gap} after {last}"
    );
    ensure!(
        gap["seq"].as_u64() == last["seq"].as_u64().map(|seq| seq + 1),
        "{gap} after {last}"
    );
    bench.log.events()?;
    Ok(())
}

fn no_cgroup2(_: &mut Bench) -> Result<()> {
    refuses(
        &mut daemon_after("umount /sys/fs/cgroup"),
        6,
        &["/sys/fs/cgroup", "cgroup2"],
    )
}

fn no_btf(_: &mut Bench) -> Result<()> {
    refuses(
        &mut daemon_after("mount -t tmpfs none /sys/kernel/btf"),
        5,
        &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"],
    )
}

fn no_bpffs(bench: &mut Bench) -> Result<()> {
    // One that isn't mounted is mounted.
    let daemon = match Daemon::try_start_command(&mut daemon_after("umount /sys/fs/bpf"))? {
        Started::Ready(daemon) => daemon,
        Started::Refused(status, said) => bail!("the daemon ended ({status}):\n{said}"),
    };
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", daemon.pid()))?;
    ensure!(mounts.contains(" /sys/fs/bpf bpf "), "{mounts}");
    let mut agent = bench.agent()?;
    let key = bench.path("secret/key");
    let wanted = Wanted::deny("file.open", "secret").path(&key);
    bench.denied(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
    agent.end()?;
    daemon.stop()
}

fn configuration(bench: &mut Bench) -> Result<()> {
    let path = bench.path("open/agentguard.toml");
    let shown = path.display().to_string();
    for (text, part) in [
        ("policy = \"/x\"\n", "policy"),
        ("policies = 7\n", "policies"),
        ("policies = \"relative\"\n", "relative"),
        ("[log]\nbacklog = 0\n", "backlog"),
        ("[slices]\n\"a.slice\" = \"coding\"\n", "a.slice"),
        ("[[[\n", "agentguard.toml"),
    ] {
        fs::write(&path, text)?;
        refuses(&mut daemon(&["--config", &shown]), 14, &[&shown, part])?;
    }
    fs::write(&path, b"policies = \"/\xff\"\n")?;
    refuses(&mut daemon(&["--config", &shown]), 14, &[&shown])?;
    refuses(
        &mut daemon(&["--config", "/no/such.toml"]),
        14,
        &["/no/such.toml"],
    )
}

/// Bad policy files: their bytes, and what is said of them.
fn bad_policies() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let rule = |key: &str, value: &str| {
        format!("version = 1\n[[deny]]\nid = \"x\"\n{key} = \"{value}\"\n").into_bytes()
    };
    let long = format!("/{}", "a".repeat(64 * 1024));
    vec![
        ("long", rule("file", &long), vec![":4:", "65537 bytes"]),
        (
            "self",
            b"version = 1\ninclude = [\"self\"]\n".to_vec(),
            vec![":2:12:", "includes itself"],
        ),
        (
            "absent",
            b"version = 1\ninclude = [\"nowhere\"]\n".to_vec(),
            vec![":2:12:", "nowhere"],
        ),
        ("key", rule("fil", "/x"), vec![":4:1:", "fil"]),
        (
            "pattern",
            rule("file", "not/absolute"),
            vec![":4:", "not/absolute"],
        ),
        (
            "address",
            rule("connect", "tcp://nowhere:99999"),
            vec![":4:", "99999"],
        ),
        (
            "bytes",
            b"version = 1\n# caf\xe9\n".to_vec(),
            vec![":2:6", "UTF-8"],
        ),
        ("toml", b"version = 1\n[[deny\n".to_vec(), vec![":2:"]),
        ("version", b"version = 99\n".to_vec(), vec!["99"]),
        ("empty", Vec::new(), vec!["version"]),
    ]
}

/// A folder with one policy in it.
fn folder(bench: &Bench, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let folder = bench.path("open").join(format!("policies-{name}"));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("{name}.toml")), bytes)?;
    Ok(folder)
}

/// Every bad policy is refused by `policy check` and by the daemon, and so is what isn't there.
fn policies(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let folder_in_force = folder(bench, "good", b"version = 1\n")?;
    let shown = folder_in_force.display().to_string();
    let _daemon = Daemon::start_with(&["--policies", &shown])?;
    for (name, bytes, parts) in bad_policies() {
        let path = folder_in_force.join(format!("{name}.toml"));
        fs::write(&path, bytes)?;
        let shown = path.display().to_string();
        let said = Said::by(&["policy", "check", &shown])?.ends(1)?;
        for part in [shown.as_str()].iter().chain(&parts) {
            ensure!(
                said.out.contains(part) || said.err.contains(part),
                "must say {part:?}: {}",
                said.all()
            );
        }
        Said::by(&["reload"])?
            .ends(15)?
            .complains(&[&shown, "stays in force"])?
            .complains(&parts)?;
        fs::remove_file(path)?;
        Said::by(&["reload"])?.ends(0)?;
    }
    Ok(())
}

/// Nothing is in force yet that could stay: the daemon doesn't start.
fn first_policies(bench: &mut Bench) -> Result<()> {
    bench.unloaded()?;
    let folder = folder(bench, "key", b"version = 1\n[[deny]]\nfil = \"/x\"\n")?;
    let shown = folder.display().to_string();
    let place = format!("{shown}/key.toml:3:1");
    refuses(&mut daemon(&["--policies", &shown]), 15, &[&place, "fil"])?;
    refuses(
        &mut daemon(&["--policies", "/no/such/folder"]),
        15,
        &["/no/such/folder"],
    )?;
    let events = Log::from_start(Path::new(crate::log::PATH))
        .events()?
        .to_vec();
    let refused = Wanted::action("policy.refused");
    ensure!(
        events.iter().filter(|event| refused.fits(event)).count() == 2,
        "the log: {events:?}"
    );
    Ok(())
}

/// Without a canary there is no proof.
fn no_canary(bench: &mut Bench) -> Result<()> {
    // A file is where its folder must be.
    let state = bench.path("disk").display().to_string();
    let configuration = bench.path("open/agentguard.toml");
    fs::write(&configuration, format!("state = \"{state}/state\"\n"))?;
    let shown = configuration.display().to_string();
    fs::write(format!("{state}/agentguard-canary"), "in the way")?;
    let result = refuses(&mut daemon(&["--config", &shown]), 11, &["canary"]);
    fs::remove_file(format!("{state}/agentguard-canary"))?;
    result
}

fn no_bpf_lsm(_: &mut Bench) -> Result<()> {
    let list = fs::read_to_string("/sys/kernel/security/lsm")?;
    ensure!(
        !list.split(',').any(|lsm| lsm.trim() == "bpf"),
        "this guest has it: {list}"
    );
    refuses(
        &mut daemon(&[]),
        4,
        &["/sys/kernel/security/lsm", "lsm=", "bpf"],
    )?;
    ensure!(!Path::new("/run/agentguard/agentguard.sock").exists());
    Said::by(&["doctor"])?.ends(1)?.prints(&[
        "missing  bpf in the list of LSMs",
        "lsm=",
        "can't enforce",
    ])?;
    let report = Said::by(&["doctor", "--json"])?.ends(1)?.json()?;
    ensure!(report["enforcement"] == "impossible", "{report}");
    let missing: Vec<&Value> = report["requirements"]
        .as_array()
        .context("no list")?
        .iter()
        .filter(|requirement| requirement["state"] == "missing")
        .map(|requirement| &requirement["name"])
        .collect();
    ensure!(
        missing == ["bpf in the list of LSMs"],
        "missing: {missing:?}"
    );
    Said::by(&["run", "--profile", "coding", "--", "true"])?.ends(125)?;
    Ok(())
}

/// The list is only what somebody says; that the programs never run is what the canary finds out.
fn lying_list(_: &mut Bench) -> Result<()> {
    let lie = "printf landlock,bpf >/run/lsm && mount --bind /run/lsm /sys/kernel/security/lsm";
    refuses(
        &mut daemon_after(lie),
        11,
        &["canary", "nothing would be enforced"],
    )?;
    ensure!(!Path::new("/run/agentguard/agentguard.sock").exists());
    Said::by(&["run", "--profile", "coding", "--", "true"])?.ends(125)?;
    let status = Said::by(&["status", "--json"])?.ends(17)?.json()?;
    ensure!(
        status["enforcing"] == false && status["kernel_enforces"] == false,
        "nothing is enforced, but it says {status}"
    );
    Ok(())
}
