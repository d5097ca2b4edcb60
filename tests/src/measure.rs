//! `cargo xtask bench`, the half of it in a guest: what actions cost under AgentGuard, in guest instructions. The guest's
//! clock counts them, one nanosecond each, on its only processor, so that differences of that clock are the figures.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    bench::{POLICIES, run_well},
    cases::approve,
    daemon::{Daemon, wait_until},
    remote::PROGRAM,
};

/// The files that are opened; rules ask about the second folder.
const FOLDER: &str = "/srv/measured";
/// Opens of one round, and rounds until two agree.
const OPENS: u32 = 2000;
const CONNECTS: u32 = 2000;
const ROUNDS: u32 = 40;
/// Two rounds agree when they differ by this part at most.
const AGREE: f64 = 0.005;
/// Held actions whose times are taken, after so many that aren't.
const HELD: usize = 200;
const WARM: usize = 10;

const PLAIN: &str = r#"version = 1
name = "measured-plain"
[log]
allow = "none"
[default]
file = "allow"
exec = "allow"
[[deny]]
id = "never"
file = "/srv/measured/never/**"
"#;

/// Where is connected to: by an address, by a name, and by a name of a profile without rules for addresses.
const CONNECTING: &str = r#"version = 1
name = "measured-connect"
[log]
allow = "none"
[default]
file = "allow"
exec = "allow"
[[allow]]
id = "address"
connect = "udp://203.0.113.81:443"
[[allow]]
id = "name"
connect = "udp://www.example.test:443"
"#;

const ASKS: &str = r#"
[[ask]]
id = "files"
file = "/srv/measured/asked/**"
[[ask]]
id = "push"
exec = "/usr/bin/git"
args = ["push", "**"]
[[ask]]
id = "servers"
connect = "tcp://192.0.2.0/24:443"
"#;

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What is done.
    pub what: String,
    /// By whom, under what.
    pub under: String,
    /// How often it was measured.
    pub count: usize,
    /// Guest instructions: the median, which is the only one where rounds are averages already; else what 90 and 99 of
    /// 100 don't exceed.
    pub median: u64,
    pub p90: Option<u64>,
    pub p99: Option<u64>,
}

/// The clock, in nanoseconds: instructions, in a guest that counts them.
fn now() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// What this process has used of the processor, in the same unit: what the kernel still does for itself after its boot is
/// not in it.
fn used() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes to what it is given.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Opens and closes a file `count` times a round, and says what each round cost per open, until two agree.
///
/// # Errors
/// When it can't be opened, or no two rounds agree.
pub fn rounds(path: &str) -> Result<()> {
    until_two_agree(OPENS, || {
        fs::File::open(path)?;
        Ok(())
    })
}

/// Does something `count` times a round, and says what each round cost, until two agree.
fn until_two_agree(count: u32, act: impl Fn() -> Result<()>) -> Result<()> {
    let mut before = 0_f64;
    for _ in 0..ROUNDS {
        let begin = used();
        for _ in 0..count {
            act()?;
        }
        let cost = (used() - begin) as f64 / f64::from(count);
        if (cost - before).abs() <= before * AGREE {
            println!("{cost:.0}");
            return Ok(());
        }
        before = cost;
    }
    bail!("of {ROUNDS} rounds no two agree within {AGREE}");
}

/// Connects a datagram socket again and again to an address, or to what a name is answered with.
///
/// # Errors
/// When it can't, or no two rounds agree.
pub fn connects(host: &str) -> Result<()> {
    let there = host
        .to_socket_addrs()?
        .next()
        .context("the name has no address")?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    until_two_agree(CONNECTS, || {
        socket.connect(there)?;
        Ok(())
    })
}

/// Opens files one after the other, and says when each began and was done.
///
/// # Errors
/// When one can't be opened.
pub fn moments(path: &str, count: usize) -> Result<()> {
    for _ in 0..count {
        let begin = now();
        drop(fs::File::open(path)?);
        println!("{begin} {}", now());
    }
    Ok(())
}

/// Measures everything, and prints a line of JSON for each figure.
///
/// # Errors
/// When something can't be measured.
pub fn everything() -> Result<()> {
    for name in ["asked/key", "free/one/two/file"] {
        let path = Path::new(FOLDER).join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(path, "key\n")?;
    }
    fs::create_dir_all(POLICIES)?;
    fs::write(Path::new(POLICIES).join("measured-plain.toml"), PLAIN)?;
    let asks = PLAIN.replace("measured-plain", "measured-asks") + ASKS;
    fs::write(Path::new(POLICIES).join("measured-asks.toml"), asks)?;

    fs::write(
        Path::new(POLICIES).join("measured-connect.toml"),
        CONNECTING,
    )?;
    let dns = resolver()?;

    opens("nothing loaded", None)?;
    connecting("nothing loaded", None)?;
    let daemon = Daemon::start()?;
    opens("no agent", None)?;
    connecting("no agent", None)?;
    opens("an agent", Some("measured-plain"))?;
    opens("an agent, with ask rules", Some("measured-asks"))?;
    connecting("an agent", Some("measured-connect"))?;
    held()?;
    daemon.stop()?;
    drop(dns);
    Ok(())
}

/// A resolver that is ended with this.
struct Resolver(Child);

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The host's resolver, which knows one name.
fn resolver() -> Result<Resolver> {
    for address in ["192.0.2.53", "203.0.113.80", "203.0.113.81"] {
        run_well(
            "ip",
            &["address", "add", &format!("{address}/32"), "dev", "lo"],
        )?;
    }
    fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n")?;
    let child = Command::new("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ])
        .args([
            "--listen-address=192.0.2.53",
            "--bind-interfaces",
            "--local=/test/",
        ])
        .arg("--host-record=www.example.test,203.0.113.80")
        .stderr(Stdio::null())
        .spawn()?;
    let resolver = Resolver(child);
    wait_until("the resolver is there", || {
        Ok(TcpStream::connect("192.0.2.53:53").is_ok())
    })?;
    Ok(resolver)
}

fn tell(figure: &Figure) -> Result<()> {
    println!("{}", serde_json::to_string(figure)?);
    Ok(())
}

fn opens(under: &str, profile: Option<&str>) -> Result<()> {
    let path = format!("{FOLDER}/free/one/two/file");
    figure(
        "open and close, allowed",
        under,
        profile,
        &["rounds", &path],
    )
}

fn connecting(under: &str, profile: Option<&str>) -> Result<()> {
    for (what, host) in [
        ("UDP connect, allowed by address", "203.0.113.81:443"),
        ("UDP connect, allowed by name", "www.example.test:443"),
    ] {
        figure(what, under, profile, &["connects", host])?;
    }
    Ok(())
}

/// What a process of this program says that something costs, as an agent or as nobody's.
fn figure(what: &str, under: &str, profile: Option<&str>, arguments: &[&str]) -> Result<()> {
    let arguments = [&[PROGRAM], arguments].concat();
    let text = match profile {
        None => run_well(PROGRAM, &arguments[1..])?,
        Some(profile) => {
            // The last one's agent may not have ended yet.
            let name = format!("{profile}-{}", now());
            let mut all = vec!["run", "--profile", profile, "--name", &name, "--"];
            all.extend(arguments);
            run_well("agentguard", &all)?
        }
    };
    tell(&Figure {
        what: what.to_owned(),
        under: under.to_owned(),
        count: OPENS as usize,
        median: text.trim().parse()?,
        p90: None,
        p99: None,
    })
}

/// Holds an agent again and again, as somebody who follows the API and says yes at once.
fn held() -> Result<()> {
    let path = format!("{FOLDER}/asked/key");
    let mut follower = UnixStream::connect(approve::SOCKET)?;
    write!(
        follower,
        "GET /v1/approvals?follow=true HTTP/1.1\r\nHost: x\r\n\r\n"
    )?;
    let mut agent = Command::new("agentguard")
        .args(["run", "--profile", "measured-asks", "--name", "held", "--"])
        .args([PROGRAM, "moments", &path, &(WARM + HELD).to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let answers = thread::spawn(move || answer(follower));
    let mut moments = Vec::new();
    for line in BufReader::new(agent.stdout.take().context("no standard output")?).lines() {
        let line = line?;
        let (begin, end) = line.split_once(' ').context("no two numbers")?;
        moments.push((begin.parse::<u64>()?, end.parse::<u64>()?));
    }
    ensure!(agent.wait()?.success(), "the agent failed");
    let answers = answers
        .join()
        .map_err(|_| anyhow::anyhow!("whoever answers panicked"))??;
    ensure!(
        answers.len() == moments.len(),
        "{} answers to {} questions",
        answers.len(),
        moments.len()
    );
    let pairs = || moments.iter().zip(&answers).skip(WARM);
    let asked = pairs().map(|((begin, _), (asked, _))| asked - begin);
    let running = pairs().map(|((_, end), (_, decided))| end - decided);
    distribution(
        "from the action to the question on the API",
        asked.collect(),
    )?;
    distribution(
        "from the answer to the process running again",
        running.collect(),
    )
}

/// Says yes to every question that comes. When each came, and when it was answered.
fn answer(follower: UnixStream) -> Result<Vec<(u64, u64)>> {
    let mut moments: Vec<(u64, u64)> = Vec::new();
    let mut last = 0;
    for line in BufReader::new(follower).lines() {
        let line = line?;
        // Heads and sizes of chunks are no objects.
        let Ok(change @ Value::Object(_)) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let asked = now();
        let id = change["id"].as_u64().context("no number")?;
        // What is told anew of a question is no other question.
        if change["event"] != "asked" || id == last {
            continue;
        }
        last = id;
        let path = format!("/v1/approvals/{id}");
        let yes = serde_json::json!({ "approve": true });
        let decided = now();
        let (status, said) = approve::api("POST", &path, Some(&yes))?;
        ensure!(status == 200, "{status}: {said}");
        moments.push((asked, decided));
        if moments.len() == WARM + HELD {
            break;
        }
    }
    Ok(moments)
}

fn distribution(what: &str, mut values: Vec<u64>) -> Result<()> {
    values.sort_unstable();
    let at = |part: usize| values[(values.len() - 1) * part / 100];
    tell(&Figure {
        what: what.to_owned(),
        under: "an agent, with ask rules".to_owned(),
        count: values.len(),
        median: at(50),
        p90: Some(at(90)),
        p99: Some(at(99)),
    })
}
