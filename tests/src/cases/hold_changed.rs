//! What changes between a question, its answer and the call that is made again: an answer is for one process, and for
//! what it was asked about.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{FileExt as _, symlink},
};

use agentguard_common::approval::cause;
use anyhow::{Context as _, Result, ensure};

use super::hold::{ARGUMENTS, POLICY, done, files, held, key, refused};
use crate::{
    bench::Bench,
    daemon::wait_until,
    desk::{Desk, boot_ns, is_stopped},
    log::Wanted,
    remote::{
        Arg, Birth, Outcome, Remote,
        calls::{at, connect, exec, forked, internet, open, socket_for},
    },
    scene::Case,
};

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("hold::changed_path", path),
        case("hold::changed_symlink", turned),
        case("hold::changed_address", address),
        case("hold::changed_arguments", arguments).policy(ARGUMENTS),
        case("hold::a_yes_is_for_one_process", one_process),
        case("hold::a_yes_that_came_too_late", late),
        case("hold::a_process_number_is_used_again", number_again),
    ]
}

/// The arguments of the system call that a stopped process is in, as numbers.
fn call_of(pid: u32) -> Result<Vec<u64>> {
    let line = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
    line.split(' ')
        .skip(1)
        .take(6)
        .map(|word| {
            let digits = word.strip_prefix("0x").context("no number")?;
            Ok(u64::from_str_radix(digits, 16)?)
        })
        .collect::<Result<_>>()
        .with_context(|| format!("what {pid} calls: {line:?}"))
}

/// Writes to the memory of a process, as any other that shares it could.
fn overwrite(pid: u32, address: u64, bytes: &[u8]) -> Result<()> {
    let memory = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    Ok(memory.write_all_at(bytes, address)?)
}

/// What the memory of a process has there.
fn peek(pid: u32, address: u64, bytes: &mut [u8]) -> Result<()> {
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    Ok(memory.read_exact_at(bytes, address)?)
}

fn path(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    fs::write(bench.path("ask/cat"), "cat\n")?;
    // To another one that is asked about: another question.
    let first = held(&mut desk, &mut agent, &key(bench))?;
    let name = call_of(agent.pid())?[1];
    let folder = bench.path("ask/").as_os_str().len() as u64;
    overwrite(agent.pid(), name + folder, b"cat")?;
    desk.grant(first)?;
    let second = desk.following()?;
    ensure!(second.0.object != first.0.object, "{second:?}");
    // To one that is denied: what was asked about counts for nothing.
    let name = call_of(agent.pid())?[1];
    let denied = bench.path("ask/never");
    overwrite(agent.pid(), name, denied.as_os_str().as_encoded_bytes())?;
    overwrite(agent.pid(), name + denied.as_os_str().len() as u64, &[0])?;
    desk.grant(second)?;
    refused(&mut agent)?;
    bench
        .log
        .wait(&Wanted::deny("file.open", "never").path(&denied))?;
    // The first yes was for this, and is used once.
    bench.allowed(&mut agent, &key(bench))?;
    let third = held(&mut desk, &mut agent, &key(bench))?;
    desk.refuse(third, cause::PERSON)?;
    refused(&mut agent)
}

fn turned(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let link = bench.path("link");
    symlink("ask/key", &link)?;
    let first = held(&mut desk, &mut agent, &open(&link, libc::O_RDONLY))?;
    fs::remove_file(&link)?;
    symlink("ask/other", &link)?;
    desk.grant(first)?;
    let second = desk.following()?;
    ensure!(second.0.object != first.0.object, "{second:?}");
    // Back again: that was approved, and not used yet.
    fs::remove_file(&link)?;
    symlink("ask/key", &link)?;
    desk.refuse(second, cause::PERSON)?;
    done(&mut agent).map(drop)
}

fn address(bench: &mut Bench) -> Result<()> {
    let asked = TcpListener::bind("127.0.0.1:7301")?;
    let other = TcpListener::bind("127.0.0.1:7302")?;
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let to = at("127.0.0.1:7301");
    let act = crate::remote::Act::Sequence(vec![
        socket_for(to, libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(to)),
    ]);
    // `sockaddr_in`: the port is at 2, its first byte higher.
    let first = held(&mut desk, &mut agent, &act)?;
    let name = call_of(agent.pid())?[1];
    overwrite(agent.pid(), name + 2, &7302_u16.to_be_bytes())?;
    desk.grant(first)?;
    let second = desk.following()?;
    ensure!(second.0.object != first.0.object, "{second:?}");
    // Nobody may go there.
    let name = call_of(agent.pid())?[1];
    overwrite(agent.pid(), name + 2, &7309_u16.to_be_bytes())?;
    desk.grant(second)?;
    refused(&mut agent)?;
    for listener in [asked, other] {
        listener.set_nonblocking(true)?;
        ensure!(listener.accept().is_err(), "somebody was connected");
    }
    Ok(())
}

fn arguments(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let act = exec(Birth::Fork, bench.path("program"), &["push", "origin"]);
    let first = held(&mut desk, &mut agent, &act)?;
    // `execve(path, argv, envp)`, whose third argument is `origin`.
    let list = call_of(first.0.pid)?[1];
    let mut third = [0; 8];
    peek(first.0.pid, list + 16, &mut third)?;
    overwrite(first.0.pid, u64::from_le_bytes(third), b"orange")?;
    desk.grant(first)?;
    let second = desk.following()?;
    ensure!(
        second.0.pid == first.0.pid && second.0.object != first.0.object,
        "{second:?} after {first:?}"
    );
    desk.refuse(second, cause::PERSON)?;
    refused(&mut agent)
}

/// Of two processes of an agent that ask the same, one is answered; and a child has none of its parent's answers.
fn one_process(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let (mut agent, cgroup) = bench.tagged_after(&[])?;
    let mut other = Remote::outside()?;
    cgroup.add(other.pid())?;
    let first = held(&mut desk, &mut agent, &key(bench))?;
    let second = held(&mut desk, &mut other, &key(bench))?;
    ensure!(
        second.0.object == first.0.object && second.1.leader == first.1.id(),
        "they don't share a question: {second:?} {first:?}"
    );
    desk.grant(first)?;
    done(&mut agent)?;
    ensure!(
        is_stopped(other.pid())? && desk.at(&second.0)? == Some(second.1),
        "the other goes on"
    );
    desk.refuse(second, cause::PERSON)?;
    refused(&mut other)?;
    // A yes that its process doesn't use: what it asks now is something else.
    let waiting = held(&mut desk, &mut agent, &key(bench))?;
    let name = call_of(agent.pid())?[1];
    overwrite(agent.pid(), name, b"/dev/null\0")?;
    desk.grant(waiting)?;
    done(&mut agent)?;
    ensure!(desk.at(&waiting.0)?.is_some(), "the yes is gone");
    let child = held(&mut desk, &mut agent, &forked(key(bench)))?;
    ensure!(child.0.pid != agent.pid(), "{child:?}");
    desk.refuse(child, cause::PERSON)?;
    refused(&mut agent)
}

fn late(bench: &mut Bench) -> Result<()> {
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let first = held(&mut desk, &mut agent, &key(bench))?;
    desk.grant_until(first, boot_ns() - 1)?;
    let second = desk.following()?;
    ensure!(
        second.0 == first.0 && second.1.id() > first.1.id(),
        "{second:?} after {first:?}"
    );
    desk.grant(second)?;
    done(&mut agent).map(drop)
}

/// A yes for a process that has ended is none for the next one with its number.
fn number_again(bench: &mut Bench) -> Result<()> {
    /// How often somebody else may have the number first.
    const TRIES: u32 = 100;
    let mut desk = Desk::open()?;
    let mut agent = bench.agent()?;
    let act = forked(key(bench));
    let first = held(&mut desk, &mut agent, &act)?;
    let pid = first.0.pid;
    crate::daemon::signal(pid, libc::SIGKILL)?;
    let outcome = agent.hear()?;
    ensure!(outcome == Outcome::Killed(libc::SIGKILL), "{outcome:?}");
    wait_until("the daemon forgets who has ended", || {
        Ok(desk.at(&first.0)?.is_none())
    })?;
    desk.leave_grant(first)?;
    for _ in 0..TRIES {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
        let next = held(&mut desk, &mut agent, &act)?;
        desk.refuse(next, cause::PERSON)?;
        refused(&mut agent)?;
        if next.0.pid == pid {
            ensure!(next.0.start_ns != first.0.start_ns, "{next:?}");
            ensure!(next.0.object == first.0.object, "{next:?}");
            return desk.clear(&first.0);
        }
    }
    anyhow::bail!("no process got the number {pid} in {TRIES} tries");
}
