//! How long an agent is held: from its action to the question, and from the answer to its going on.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{FOLDER, Figure, operations::now};
use crate::{cases::approve, remote::PROGRAM};

/// Held actions whose times are taken, after so many that aren't.
const HELD: usize = 200;
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
    super::print(&Figure {
        what: what.to_owned(),
        under: "an agent, with ask rules".to_owned(),
        unit: None,
        median: at(50),
        p90: Some(at(90)),
        p99: Some(at(99)),
    })
}
