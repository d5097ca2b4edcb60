//! How long an agent is held: from its action to the question, and from the answer to its going on.

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{FOLDER, Figure, operations::now, print};
use crate::{cases::approve, remote::PROGRAM};

/// Held actions, of which the times of the first few aren't taken.
pub const TIMES: usize = WARM + 200;
const WARM: usize = 10;

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

/// Holds an agent again and again, as somebody who follows the API and says yes at once.
pub fn held() -> Result<()> {
    let mut follower = UnixStream::connect(approve::SOCKET)?;
    write!(
        follower,
        "GET /v1/approvals?follow=true HTTP/1.1\r\nHost: x\r\n\r\n"
    )?;
    let mut agent = Command::new("agentguard")
        .args(["run", "--profile", "measured-asks", "--name", "held", "--"])
        .args([PROGRAM, "moments", &path(), &TIMES.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let moments = BufReader::new(agent.stdout.take().context("no standard output")?);
    let answers = thread::spawn(move || answer(follower));
    compare(
        "from the action to the question on the API",
        "an agent, with ask rules",
        moments,
        answers,
    )?;
    ensure!(agent.wait()?.success(), "the agent failed");
    Ok(())
}

/// The file that is asked about.
pub fn path() -> String {
    format!("{FOLDER}/asked/key")
}

/// How long it took until somebody was asked, and until the process went on, by what the process printed and by when who
/// answers was asked and answered.
pub fn compare(
    until_asked: &str,
    under: &str,
    moments: impl BufRead,
    answers: JoinHandle<Result<Vec<(u64, u64)>>>,
) -> Result<()> {
    let mut held = Vec::new();
    for line in moments.lines() {
        let line = line?;
        let (begin, end) = line.split_once(' ').context("no two numbers")?;
        held.push((begin.parse::<u64>()?, end.parse::<u64>()?));
    }
    let answers = answers
        .join()
        .map_err(|_| anyhow::anyhow!("whoever answers panicked"))??;
    ensure!(
        answers.len() == held.len(),
        "{} answers to {} questions",
        answers.len(),
        held.len()
    );
    let pairs = || held.iter().zip(&answers).skip(WARM);
    let asked = pairs().map(|((begin, _), (asked, _))| asked - begin);
    let running = pairs().map(|((_, end), (_, decided))| end - decided);
    let until_running = "from the answer to the process running again";
    print(&Figure::of_many(until_asked, under, asked.collect()))?;
    print(&Figure::of_many(until_running, under, running.collect()))
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
        if moments.len() == TIMES {
            break;
        }
    }
    Ok(moments)
}
