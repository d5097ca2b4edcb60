//! Loading policies anew: all or nothing, at once, and never with a moment in which neither holds.

use std::{
    fs,
    net::UdpSocket,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bench::{self, Bench},
    daemon::{self, Daemon, Started},
    log::Wanted,
    remote::{
        Act, Arg, Birth, Outcome, Remote,
        calls::{at, bind, close, exec, internet, open, receive, socket_for},
    },
    said::Said,
    scene::{Case, Scene},
};

/// The rules that every policy of these cases has.
const SECRET: &str = r#"
[default]
file = "allow"
exec = "allow"

[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

/// One more.
const MORE: &str = r#"
[[deny]]
id = "more"
file = "{dir}/open/**"
"#;

/// The folder whose policies the daemon loads; a link, so that all of it can be exchanged at once.
const POLICIES: &str = "policies";

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "key\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let own = |name, play| {
        Case::new(name, play)
            .prepare(files)
            .scene(Scene::OwnDaemon)
            .limit(180)
    };
    vec![
        own("reload::is_effective_at_once", at_once),
        own("reload::of_a_bad_policy_changes_nothing", bad),
        own("reload::keeps_a_removed_profile_in_use", removed),
        own("reload::has_no_moment_without_a_policy", no_gap),
        own("reload::of_one_bad_policy_takes_no_other", all_or_nothing),
        own("reload::reaches_servers_of_datagrams", datagrams),
    ]
}

/// Writes the profile `name`, made of `parts`.
fn write(bench: &Bench, name: &str, parts: &[&str]) -> Result<PathBuf> {
    let folder = bench.path(POLICIES);
    fs::create_dir_all(&folder)?;
    let rules = parts.concat();
    let rules = rules.replace("{dir}", &bench.dir.display().to_string());
    let path = folder.join(format!("{name}.toml"));
    fs::write(&path, format!("version = 1\nname = \"{name}\"\n{rules}"))?;
    Ok(path)
}

/// A daemon that loads the policies of the case alone.
fn start(bench: &Bench) -> Result<Daemon> {
    let policies = bench.path(POLICIES);
    match Daemon::try_start(&[Path::new("--policies"), &policies])? {
        Started::Ready(daemon) => Ok(daemon),
        Started::Refused(status, said) => bail!("the daemon ended ({status}):\n{said}"),
    }
}

fn key(bench: &Bench, folder: &str) -> Act {
    open(bench.path(folder).join("key"), libc::O_RDONLY)
}

fn denial(bench: &Bench, folder: &str, rule: &str) -> Wanted {
    Wanted::deny("file.open", rule).path(bench.path(folder).join("key"))
}

fn at_once(bench: &mut Bench) -> Result<()> {
    let profile = bench.profile.clone();
    write(bench, &profile, &[SECRET])?;
    let daemon = start(bench)?;
    let mut agent = bench.agent()?;
    bench.denied(
        &mut agent,
        &key(bench, "secret"),
        denial(bench, "secret", "secret"),
    )?;
    bench.allowed(&mut agent, &key(bench, "open"))?;

    write(bench, &profile, &[SECRET, MORE])?;
    bench.log.skip()?;
    Said::by(&["reload"])?.ends(0)?.prints(&[&profile])?;
    bench.fails(&mut agent, &key(bench, "open"), libc::EPERM)?;
    let loaded = bench.log.wait(&Wanted::action("policy.loaded"))?;
    let install = loaded["object"]["install"].as_u64();
    bench.log.wait(&denial(bench, "open", "more"))?;
    let mut second = bench.agent()?;
    bench.denied(
        &mut second,
        &key(bench, "open"),
        denial(bench, "open", "more"),
    )?;

    // By signal, as `systemctl reload` does it, and back.
    write(bench, &profile, &[SECRET])?;
    bench.log.skip()?;
    daemon::signal(daemon.pid(), libc::SIGHUP)?;
    let loaded = bench.log.wait(&Wanted::action("policy.loaded"))?;
    ensure!(
        loaded["object"]["install"].as_u64() > install,
        "{loaded} after {install:?}"
    );
    bench.allowed(&mut agent, &key(bench, "open"))?;
    bench.denied(
        &mut agent,
        &key(bench, "secret"),
        denial(bench, "secret", "secret"),
    )?;
    Ok(())
}

fn bad(bench: &mut Bench) -> Result<()> {
    let profile = bench.profile.clone();
    let path = write(bench, &profile, &[SECRET])?;
    let _daemon = start(bench)?;
    let mut agent = bench.agent()?;
    let good = fs::read_to_string(&path)?;
    let line = good.lines().count() + 2;
    let in_force = bench::status()?["policy"]["install"].clone();

    fs::write(&path, format!("{good}[[deny]]\nfil = \"/x\"\n"))?;
    bench.log.skip()?;
    let place = format!("{}:{line}:1", path.display());
    Said::by(&["reload"])?
        .ends(15)?
        .complains(&[&place, "fil", "stays in force"])?;
    let event = bench.log.wait(&Wanted::action("policy.refused"))?;
    let diagnostics = event["object"]["diagnostics"].as_str().unwrap_or_default();
    ensure!(diagnostics.contains(&place), "the event: {event}");
    let refusal = Said::by(&["reload", "--json"])?.ends(15)?.json()?;
    ensure!(refusal["code"] == "policy-refused", "{refusal}");
    ensure!(
        refusal["diagnostics"]
            .as_str()
            .is_some_and(|text| text.contains(&place)),
        "{refusal}"
    );
    bench.denied(
        &mut agent,
        &key(bench, "secret"),
        denial(bench, "secret", "secret"),
    )?;
    bench.allowed(&mut agent, &key(bench, "open"))?;
    let status = bench::status()?;
    ensure!(
        status["enforcing"] == true
            && status["policy"]["install"] == in_force
            && status["policy"]["refused"].is_object(),
        "{status}"
    );
    Said::by(&["status"])?.ends(0)?.prints(&["warning"])?;

    fs::write(&path, good)?;
    Said::by(&["reload"])?.ends(0)?;
    let status = bench::status()?;
    ensure!(status["policy"]["refused"].is_null(), "{status}");
    Ok(())
}

/// One bad file among several: the good ones don't change either.
fn all_or_nothing(bench: &mut Bench) -> Result<()> {
    let (profile, second) = (bench.profile.clone(), bench.second_profile());
    write(bench, &profile, &[SECRET])?;
    let other = write(bench, &second, &[SECRET])?;
    let _daemon = start(bench)?;
    let mut agent = bench.agent()?;
    write(bench, &profile, &[SECRET, MORE])?;
    fs::write(&other, "version = 1\n[default\n")?;
    let place = format!("{}:2:", other.display());
    Said::by(&["reload"])?.ends(15)?.complains(&[&place])?;
    bench.allowed(&mut agent, &key(bench, "open"))?;
    fs::remove_file(&other)?;
    Said::by(&["reload"])?.ends(0)?;
    bench.denied(
        &mut agent,
        &key(bench, "open"),
        denial(bench, "open", "more"),
    )?;
    Ok(())
}

fn removed(bench: &mut Bench) -> Result<()> {
    let (profile, second) = (bench.profile.clone(), bench.second_profile());
    let path = write(bench, &profile, &[SECRET])?;
    write(bench, &second, &[SECRET])?;
    let daemon = start(bench)?;
    let mut agent = bench.agent()?;
    fs::remove_file(path)?;
    Said::by(&["reload"])?
        .ends(0)?
        .prints(&["warning", &profile])?;
    let wanted = denial(bench, "secret", "secret").with("/profile", profile.clone());
    bench.denied(&mut agent, &key(bench, "secret"), wanted.clone())?;
    bench.allowed(&mut agent, &key(bench, "open"))?;
    // Nor does it end with the daemon that knew it.
    daemon.kill()?;
    let _daemon = start(bench)?;
    bench.denied(&mut agent, &key(bench, "secret"), wanted)?;

    let name = agent.agent.clone().unwrap_or_default();
    bench.log.skip()?;
    agent.end()?;
    bench
        .log
        .wait(&Wanted::action("agent.ended").agent(&name))?;
    Said::by(&["reload"])?.ends(0)?;
    Said::by(&["run", "--profile", &profile, "--", "/bin/true"])?
        .ends(125)?
        .complains(&[&second])?;
    Ok(())
}

/// A server that the new policy doesn't allow hears nobody any more, though it was bound under the one before.
fn datagrams(bench: &mut Bench) -> Result<()> {
    const SERVER: &str = "\n[[allow]]\nid = \"server\"\nlisten = \"udp://192.0.2.1:9200\"\n";
    let profile = bench.profile.clone();
    let (server, stranger) = (at("192.0.2.1:9200"), at("198.51.100.1:5353"));
    write(bench, &profile, &[SECRET, SERVER])?;
    let _daemon = start(bench)?;
    let mut agent = bench.agent()?;
    let fd = bench.allowed(&mut agent, &socket_for(server, libc::SOCK_DGRAM))?;
    bench.allowed(&mut agent, &bind(fd, internet(server)))?;
    let outside = UdpSocket::bind(stranger)?;
    outside.set_nonblocking(true)?;
    for heard in [true, false, true] {
        let rules: &[&str] = if heard { &[SECRET, SERVER] } else { &[SECRET] };
        write(bench, &profile, rules)?;
        Said::by(&["reload"])?.ends(0)?;
        bench.log.skip()?;
        outside.send_to(b"ping", server)?;
        if heard {
            ensure!(bench.allowed(&mut agent, &receive(fd))? == 4);
            continue;
        }
        let wanted = Wanted::deny("net.accept", &format!("{profile}/default"));
        bench
            .log
            .wait(&bench::of(&agent, wanted.address("udp", stranger)))?;
        bench.fails(&mut agent, &receive(fd), libc::EAGAIN)?;
    }
    Ok(())
}

/// While policies are exchanged as fast as they can be, what both forbid is never allowed, what both
/// allow is never denied, and who is no agent never notices.
fn no_gap(bench: &mut Bench) -> Result<()> {
    let profile = bench.profile.clone();
    for (folder, parts) in [("one", &[SECRET][..]), ("two", &[SECRET, MORE])] {
        write(bench, &profile, parts)?;
        fs::rename(bench.path(POLICIES), bench.path(folder))?;
    }
    let (link, next) = (bench.path(POLICIES), bench.path("next"));
    symlink("one", &link)?;
    let _daemon = start(bench)?;
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    let reloads = thread::spawn(move || -> Result<()> {
        for target in ["two", "one"].iter().cycle().take(20) {
            symlink(target, &next)?;
            fs::rename(&next, &link)?;
            Said::by(&["reload"])?.ends(0)?;
        }
        Ok(())
    });
    let times = |act| Act::Repeat {
        times: 50,
        act: Box::new(act),
    };
    let denied = times(Act::Denied(Box::new(key(bench, "secret"))));
    let opened = |path: PathBuf| {
        times(Act::Sequence(vec![
            open(path, libc::O_RDWR),
            close(Arg::Step(0)),
        ]))
    };
    let twin = bench.path("twin");
    fs::write(&twin, "")?;
    let mut rounds = 0;
    while !reloads.is_finished() {
        for act in [&denied, &opened(twin.clone())] {
            let outcome = agent.act(act)?;
            ensure!(
                matches!(outcome, Outcome::Done(_)),
                "in round {rounds} of the agent: {}: {act:?}",
                bench::shown(outcome)
            );
        }
        let secret = bench.path("secret/key");
        for act in [opened(secret), exec(Birth::Fork, "/bin/true", &[])] {
            let outcome = outside.act(&act)?;
            ensure!(
                outcome == Outcome::Done(0),
                "in round {rounds} of who is no agent: {}: {act:?}",
                bench::shown(outcome)
            );
        }
        rounds += 1;
    }
    match reloads.join() {
        Ok(result) => result.context("a reload")?,
        Err(_) => bail!("the thread that reloads failed"),
    }
    ensure!(rounds > 0, "nothing was tried while policies were loaded");
    Ok(())
}
