//! The log's chain: it holds over restarts and files, and whatever is done to the log shows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    bench::{self, Bench, run_well},
    daemon::{Daemon, wait_until},
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
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "key\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("log::what_is_done_to_it_shows", shows).scene(Scene::OwnDaemon),
        case("log::is_closed_and_goes_on", closed)
            .scene(Scene::OwnDaemon)
            .limit(240),
        case("log::the_journal_knows_its_end", journal)
            .scene(Scene::OwnBoot {
                append: "",
                root: Root::Systemd,
            })
            .limit(240),
    ]
}

/// A folder for a log of the case's own, with the configuration that names it.
fn configured(bench: &Bench, more: &str) -> Result<(PathBuf, PathBuf)> {
    let folder = bench.path("log");
    let configuration = bench.path("agentguard.toml");
    let text = format!("[log]\ndir = {:?}\n{more}", folder.display().to_string());
    fs::write(&configuration, text)?;
    Ok((folder, configuration))
}

fn start(configuration: &Path) -> Result<Daemon> {
    Daemon::start_with(&[Path::new("--config"), configuration])
}

fn verify(folder: &Path, more: &[&str]) -> Result<Said> {
    let folder = folder.display().to_string();
    Said::by(&[&["log", "verify", &folder, "--no-journal"], more].concat())
}

fn denials(key: &Path, times: u32) -> Act {
    let act = Box::new(Act::Denied(Box::new(open(key, libc::O_RDONLY))));
    Act::Repeat { times, act }
}

/// Many opens that are denied, and one that isn't.
fn act(bench: &mut Bench, log: &mut Log, times: u32) -> Result<()> {
    let mut agent = bench.agent()?;
    let (key, twin) = (bench.path("secret/key"), bench.path("open/key"));
    bench.allowed(&mut agent, &denials(&key, times))?;
    bench.allowed(&mut agent, &open(&twin, libc::O_RDONLY))?;
    let name = agent.agent.clone().context("the agent has no name")?;
    log.wait(&Wanted::deny("file.open", "secret").path(&key).agent(&name))?;
    agent.end()?;
    log.wait(&Wanted::action("agent.ended").agent(&name))?;
    Ok(())
}

fn shows(bench: &mut Bench) -> Result<()> {
    let (folder, configuration) = configured(bench, "")?;
    let path = folder.join("events.jsonl");
    let mut log = Log::from_start(&path);
    let daemon = start(&configuration)?;
    act(bench, &mut log, 3)?;
    // With what the daemon knows.
    verify(&folder, &[])?
        .ends(0)?
        .prints(&["verified", "compared  with 1 line "])?;
    daemon.kill()?;
    // Half a line, as a power failure leaves it.
    run_well(
        "sh",
        &["-c", &format!("printf '{{\"v\":1,' >>{}", path.display())],
    )?;
    let daemon = start(&configuration)?;
    log = Log::from_start(&path);
    log.wait(&Wanted::action("daemon.gap"))?;
    act(bench, &mut log, 3)?;
    let head = bench::status()?["log"].clone();
    daemon.stop()?;
    verify(&folder, &[])?
        .ends(0)?
        .prints(&["verified", "compared  with nothing"])?;
    let seq = head["seq"].as_u64().context("no number")?;
    let known = format!("{seq}:{}", head["hash"].as_str().context("no hash")?);

    let text = fs::read_to_string(&path)?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let denial = lines
        .iter()
        .position(|line| line.contains("\"rule\":\"secret\""))
        .context("no denial in the log")?;
    let number = denial + 1;
    let altered = lines[denial].replace("\"verdict\":\"deny\"", "\"verdict\":\"allow\"");
    let mut with_altered = lines.clone();
    with_altered[denial] = &altered;
    let mut without = lines.clone();
    without.remove(denial);
    let mut swapped = lines.clone();
    swapped.swap(denial, denial + 1);
    let copy = bench.path("copy");
    fs::create_dir_all(&copy)?;
    for (lines, problem) in [
        (
            with_altered,
            format!(":{number}: line {number} was altered"),
        ),
        (without, format!(":{number}: line {number} is missing")),
        (swapped, format!(":{number}: line {number} is missing")),
        (
            lines[..denial].to_vec(),
            format!("--head knows line {seq}, and the last one here is {denial}"),
        ),
        (Vec::new(), format!("--head knows line {seq}")),
    ] {
        fs::write(copy.join("events.jsonl"), lines.concat())?;
        verify(&copy, &["--head", &known])?
            .ends(1)?
            .complains(&["the log is not verified", &problem])?;
        let said = verify(&copy, &["--head", &known, "--json"])?.ends(1)?;
        ensure!(said.json()?["verified"] == false, "{}", said.all());
    }
    // The twin: a copy as it is.
    fs::write(copy.join("events.jsonl"), &text)?;
    let said = verify(&copy, &["--head", &known, "--json"])?.ends(0)?;
    ensure!(said.json()?["log"]["compared_to"] == seq, "{}", said.all());
    Said::by_user(&["log", "verify", &folder.display().to_string()])?
        .ends(3)?
        .complains(&["only root can read"])?;
    Said::by(&["log", "verify", "/nonexistent"])?
        .ends(1)?
        .complains(&["/nonexistent"])?;
    Ok(())
}

fn closed(bench: &mut Bench) -> Result<()> {
    let (folder, configuration) = configured(bench, "rotate_mib = 1\nkeep = 2\n")?;
    let path = folder.join("events.jsonl");
    let closed = || -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name.starts_with("events-"));
        names.sort_unstable();
        Ok(names)
    };
    let mut daemon = start(&configuration)?;
    let mut agent = bench.agent()?;
    let key = bench.path("secret/key");
    let many = denials(&key, 500);
    let mut rounds = 0;
    // The first one is removed when the third one is closed.
    while closed()?
        .first()
        .is_none_or(|name| name.ends_with("-00000000000000000001.jsonl"))
    {
        rounds += 1;
        ensure!(rounds < 60, "nothing is removed: {:?}", closed()?);
        bench.allowed(&mut agent, &many)?;
        if rounds % 5 == 0 {
            daemon.kill()?;
            daemon = start(&configuration)?;
        }
        // Also while it is being written.
        verify(&folder, &[])?
            .ends(0)?
            .prints(&["compared  with 1 line "])?;
    }
    let names = closed()?;
    ensure!(names.len() == 2, "{names:?}");
    let said = verify(&folder, &[])?.ends(0)?;
    said.prints(&["lines in 3 files", "removed   the lines before"])?;
    // What was shown of one file is shown over all of them, and an agent is told what it was denied before.
    let count: usize = 10 + fs::read_to_string(&path)?.lines().count();
    let said = Said::by(&["tail", "--json", "-n", &count.to_string()])?.ends(0)?;
    let events = said.json_lines()?;
    ensure!(
        events.len() == count && events.iter().any(|event| event["action"] == "log.closed"),
        "{} of {count} events",
        events.len()
    );
    let numbers: Vec<u64> = events
        .iter()
        .filter_map(|event| event["seq"].as_u64())
        .collect();
    ensure!(
        numbers.windows(2).all(|two| two[1] == two[0] + 1),
        "holes: {numbers:?}"
    );
    daemon.stop()?;
    // The root is that of the file, as b3sum would say, and the last line of it tells.
    let first = fs::read_to_string(folder.join(&names[0]))?;
    let last: Value = serde_json::from_str(first.lines().last().context("no line")?)?;
    ensure!(
        last["action"] == "log.closed" && last["object"]["file"] == names[0],
        "{last}"
    );
    fs::remove_file(folder.join(&names[0]))?;
    verify(&folder, &[])?.ends(1)?.complains(&["are missing"])?;
    Ok(())
}

fn journal(bench: &mut Bench) -> Result<()> {
    // Under a name of its own, or the journal would know what other boots' logs held.
    let (folder, configuration) = configured(bench, "heads_every = \"1s\"\n")?;
    let path = folder.join("events.jsonl");
    let mut log = Log::from_start(&path);
    let daemon = start(&configuration)?;
    act(bench, &mut log, 3)?;
    daemon.stop()?;
    let shown = folder.display().to_string();
    let verify = |more: &[&str]| Said::by(&[&["log", "verify", &shown], more].concat());
    // When it stops it tells the last line; the journal may be slow to take it.
    let text = fs::read_to_string(&path)?;
    let last = text.lines().count();
    let whole = format!("up to {last}");
    wait_until("the journal knows the end", || {
        let _ = Command::new("journalctl").arg("--sync").status()?;
        Ok(verify(&[])?.ends(0)?.prints(&[&whole]).is_ok())
    })?;
    let at = text.trim_end().rfind('\n').context("one line")?;
    fs::write(&path, &text[..=at])?;
    verify(&[])?.ends(1)?.complains(&[
        "the end is missing: the journal of ",
        &format!("knows line {last}, and the last one here is {}", last - 1),
    ])?;
    // Who doesn't ask is told that it can't be known.
    verify(&["--no-journal"])?
        .ends(0)?
        .prints(&["compared  with nothing"])?;
    verify(&["--since", "2100-01-01"])?
        .ends(0)?
        .prints(&["compared  with nothing"])?;
    verify(&["--since", "whenever"])?
        .ends(0)?
        .complains(&["the journal can't be asked"])?;
    // A daemon that goes on from there doesn't hide it.
    let daemon = start(&configuration)?;
    daemon.stop()?;
    verify(&[])?
        .ends(1)?
        .complains(&["is another than the journal of "])?;
    Ok(())
}
