//! Questions and their answers: a held action goes on after a yes, fails after a no, and nobody but people answers.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    bench::{self, Bench},
    daemon::{signal, wait_until},
    desk::wait_for_stop,
    log::{self, Wanted},
    remote::{
        Act, Birth, Outcome, Remote,
        calls::{connect, exec, forked, open, socket, unix},
    },
    said::Said,
    scene::Case,
};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/agentguard/agentguard.sock";

pub(super) const POLICY: &str = r#"
[[ask]]
id = "asked"
file = "{dir}/asked/**"
because = "Somebody should look."
[[ask]]
id = "other"
file = "{dir}/other/**"
"#;

/// Nobody answers these in time.
const SHORT: &str = r#"
[[ask]]
id = "asked"
file = "{dir}/asked/**"
timeout = "1s"
"#;

/// Two questions at a time.
const TWO: &str = r#"
[approvals]
max_pending = 2
[[ask]]
id = "asked"
file = "{dir}/asked/**"
"#;

pub(super) fn files(dir: &Path) -> Result<()> {
    for folder in ["asked", "other"] {
        fs::create_dir_all(dir.join(folder))?;
        for name in ["key", "second", "third", "fourth"] {
            fs::write(dir.join(folder).join(name), "key\n")?;
        }
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let shared = |name, play| {
        Case::new(name, play)
            .policy(POLICY)
            .prepare(files)
            .limit(120)
    };
    vec![
        shared("approve::once_is_once_and_no_is_no", once),
        shared("approve::no_answer_is_a_no", times_out).policy(SHORT),
        shared("approve::for_a_while", for_a_while),
        shared("approve::the_whole_rule", whole_rule),
        shared("approve::a_dead_process_asks_nothing", dead),
        shared("approve::too_many_questions_are_refused", too_many).policy(TWO),
        shared("approve::a_flood_stays_with_its_agent", flood).policy(TWO),
        shared("approve::two_hundred_share_one_answer", two_hundred).limit(240),
        shared("approve::is_nothing_for_agents", not_for_agents),
        shared("approve::a_name_paints_nothing", painted),
    ]
}

/// Asks the API.
/// # Errors
/// When there is no answer, or none that is JSON.
pub fn api(method: &str, path: &str, body: Option<&Value>) -> Result<(u32, Value)> {
    let mut stream = UnixStream::connect(SOCKET).context("cannot connect to the daemon")?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let body = serde_json::from_str(body).with_context(|| format!("not JSON: {answer}"))?;
    Ok((status, body))
}

/// The questions of an agent that wait.
pub(super) fn pending(agent: &Remote) -> Result<Vec<Value>> {
    let (status, list) = api("GET", "/v1/approvals", None)?;
    ensure!(status == 200, "{list}");
    let list = list.as_array().context("no list")?.clone();
    let own = |one: &Value| one["agent"].as_str() == agent.agent.as_deref();
    Ok(list.into_iter().filter(own).collect())
}

/// Waits for a question of an agent that `is` one.
pub(super) fn question(agent: &Remote, mut is: impl FnMut(&Value) -> bool) -> Result<Value> {
    let mut found = Value::Null;
    let what = format!("a question of {:?}", agent.agent);
    wait_until(&what, || {
        found = pending(agent)?
            .into_iter()
            .find(|one| is(one))
            .unwrap_or_default();
        Ok(!found.is_null())
    })
    .with_context(|| {
        let log = fs::read_to_string(log::PATH).unwrap_or_default();
        let latest: Vec<&str> = log.lines().rev().take(3).collect();
        format!("the latest events, backwards: {latest:#?}")
    })?;
    Ok(found)
}

fn about(path: &Path) -> impl FnMut(&Value) -> bool {
    move |one| one["object"]["path"].as_str() == path.to_str()
}

/// Answers a question.
pub(super) fn answer(question: &Value, body: &Value) -> Result<Value> {
    let id = &question["id"];
    let (status, answer) = api("POST", &format!("/v1/approvals/{id}"), Some(body))?;
    ensure!(status == 200, "{status}: {answer}");
    Ok(answer)
}

pub(super) fn yes(scope: &Value) -> Value {
    json!({ "approve": true, "scope": scope })
}

pub(super) fn key(bench: &Bench, name: &str) -> Act {
    open(bench.path(name), libc::O_RDONLY)
}

/// What it was told to do went on, or failed with this.
pub(super) fn comes_to(agent: &mut Remote, errno: Option<i32>) -> Result<()> {
    let outcome = agent.hear()?;
    let fits = match (outcome, errno) {
        (Outcome::Done(_), None) => true,
        (Outcome::Failed(found), Some(errno)) => found == errno,
        _ => false,
    };
    ensure!(fits, "{}, expected {errno:?}", bench::shown(outcome));
    Ok(())
}

fn once(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let path = bench.path("asked/key");
    agent.tell(&key(bench, "asked/key"))?;
    let asked = question(&agent, about(&path))?;
    for (field, wanted) in [
        ("action", json!("file.open")),
        ("rule", json!("asked")),
        ("because", json!("Somebody should look.")),
        ("held", json!(true)),
        ("waiting", json!(1)),
    ] {
        ensure!(asked[field] == wanted, "{field}: {asked}");
    }
    ensure!(asked["process"]["pid"] == agent.pid(), "{asked}");
    ensure!(asked["process"]["cwd"].is_string(), "{asked}");
    ensure!(asked["process"]["ancestors"].is_array(), "{asked}");
    let id = asked["id"].clone();
    let requested = Wanted::action("approval.requested")
        .with("/verdict", "ask")
        .with("/rule", "asked")
        .with("/approval/id", id.clone())
        .with("/approval/action", "file.open")
        .with("/approval/held", true)
        .path(&path);
    bench.log.wait(&requested)?;
    // Somebody else's SIGCONT is no answer.
    signal(agent.pid(), libc::SIGCONT)?;
    wait_for_stop(agent.pid())?;
    ensure!(pending(&agent)?.len() == 1, "it waits no longer");

    let body = json!({ "approve": true, "reason": "fine" });
    let said = answer(&asked, &body)?;
    ensure!(
        said["approved"] == true && said["scope"] == "once",
        "{said}"
    );
    comes_to(&mut agent, None)?;
    let granted = Wanted::action("approval.granted")
        .with("/approval/id", id.clone())
        .with("/approval/by", "root")
        .with("/approval/uid", 0)
        .with("/approval/how", "api")
        .with("/approval/scope", "once")
        .with("/approval/reason", "fine")
        .with("/approval/processes", 1);
    let granted = bench.log.wait(&granted)?;
    ensure!(granted["approval"]["took_ms"].is_u64(), "{granted}");
    let through = Wanted::allow("file.open")
        .with("/reason", "granted")
        .with("/rule", "asked")
        .with("/approval/id", id)
        .path(&path);
    let through = bench.log.wait(&through)?;
    ensure!(
        through["seq"].as_u64() > granted["seq"].as_u64(),
        "the log has it before its answer"
    );

    // It is used; a no is another answer.
    agent.tell(&key(bench, "asked/key"))?;
    let again = question(&agent, about(&path))?;
    ensure!(again["id"] != asked["id"], "{again}");
    answer(&again, &json!({ "approve": false }))?;
    comes_to(&mut agent, Some(libc::EPERM))?;
    let denied = Wanted::action("approval.denied").with("/approval/id", again["id"].clone());
    bench.log.wait(&denied)?;
    let refused = Wanted::deny("file.open", "asked").with("/reason", "refused");
    bench.log.wait(&refused.path(&path))?;
    // For a while it is refused without a question, whoever of the agent does it.
    bench.fails(&mut agent, &forked(key(bench, "asked/key")), libc::EPERM)?;
    ensure!(pending(&agent)?.is_empty(), "it was asked again");
    let (status, said) = api("POST", "/v1/approvals/1", Some(&json!({ "approve": true })))?;
    ensure!(
        status == 404 && said["code"] == "unknown-request",
        "{status}: {said}"
    );
    Ok(())
}

fn times_out(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let begin = Instant::now();
    bench.fails(&mut agent, &key(bench, "asked/key"), libc::EPERM)?;
    let took = begin.elapsed();
    ensure!(took >= Duration::from_secs(1), "refused after {took:?}");
    bench
        .log
        .wait(&Wanted::action("approval.expired").with("/rule", "asked"))?;
    let late = Wanted::deny("file.open", "asked").with("/reason", "timed-out");
    bench.log.wait(&late.path(bench.path("asked/key")))?;
    ensure!(pending(&agent)?.is_empty(), "it still waits");
    // For a while it is not asked again, by whatever process of the agent.
    bench.fails(&mut agent, &forked(key(bench, "asked/key")), libc::EPERM)?;
    let asked = Wanted::action("approval.requested").with("/rule", "asked");
    let mut times = 0;
    for event in bench.log.events()? {
        times += u32::from(asked.fits(event));
    }
    ensure!(times == 1, "asked {times} times");
    Ok(())
}

fn for_a_while(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    agent.tell(&key(bench, "asked/key"))?;
    let asked = question(&agent, |_| true)?;
    let id = &asked["id"];
    let body = yes(&json!({ "for": 0 }));
    let (status, said) = api("POST", &format!("/v1/approvals/{id}"), Some(&body))?;
    ensure!(status == 400, "{said}");
    answer(&asked, &yes(&json!({ "for": 4 })))?;
    let until = Instant::now() + Duration::from_secs(5);
    comes_to(&mut agent, None)?;
    // Any process of the agent, as often as it likes, and this object alone.
    bench.allowed(&mut agent, &key(bench, "asked/key"))?;
    bench.allowed(&mut agent, &forked(key(bench, "asked/key")))?;
    agent.tell(&key(bench, "asked/second"))?;
    let other = question(&agent, about(&bench.path("asked/second")))?;
    answer(&other, &yes(&json!("once")))?;
    comes_to(&mut agent, None)?;
    // Nor is it another agent's.
    let mut second = bench.agent()?;
    second.tell(&key(bench, "asked/key"))?;
    let own = question(&second, |_| true)?;
    answer(&own, &json!({ "approve": false }))?;
    comes_to(&mut second, Some(libc::EPERM))?;
    thread::sleep(until.saturating_duration_since(Instant::now()));
    agent.tell(&key(bench, "asked/key"))?;
    let again = question(&agent, about(&bench.path("asked/key")))?;
    answer(&again, &yes(&json!("once")))?;
    comes_to(&mut agent, None)
}

fn whole_rule(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    agent.tell(&key(bench, "asked/key"))?;
    let asked = question(&agent, |_| true)?;
    answer(&asked, &yes(&json!("rule")))?;
    comes_to(&mut agent, None)?;
    bench.allowed(&mut agent, &key(bench, "asked/second"))?;
    bench.allowed(&mut agent, &open(bench.path("asked/third"), libc::O_RDWR))?;
    agent.tell(&key(bench, "other/key"))?;
    let other = question(&agent, |_| true)?;
    ensure!(other["rule"] == "other", "{other}");
    answer(&other, &json!({ "approve": false }))?;
    comes_to(&mut agent, Some(libc::EPERM))?;
    let mut second = bench.agent()?;
    second.tell(&key(bench, "asked/key"))?;
    let own = question(&second, |_| true)?;
    answer(&own, &json!({ "approve": false }))?;
    comes_to(&mut second, Some(libc::EPERM))
}

fn dead(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    agent.tell(&forked(key(bench, "asked/key")))?;
    let asked = question(&agent, |_| true)?;
    let pid = asked["process"]["pid"].as_u64().context("no process")? as u32;
    ensure!(pid != agent.pid(), "{asked}");
    signal(pid, libc::SIGKILL)?;
    let outcome = agent.hear()?;
    ensure!(
        outcome == Outcome::Killed(libc::SIGKILL),
        "{}",
        bench::shown(outcome)
    );
    wait_until("the question is gone", || Ok(pending(&agent)?.is_empty()))?;
    Ok(())
}

fn too_many(bench: &mut Bench) -> Result<()> {
    let mut agents = bench.agent()?;
    let dir = bench.dir.display();
    let script =
        format!("for f in key second; do cat {dir}/asked/$f >/dev/null & done; wait; exit 0");
    agents.tell(&exec(Birth::Fork, "/bin/sh", &["-c", &script]))?;
    wait_until("two questions", || Ok(pending(&agents)?.len() == 2))?;
    // Another one is refused, and one that is asked already is not another one.
    let name = agents.agent.clone().context("no name")?;
    let (status, list) = api("GET", "/v1/agents", None)?;
    ensure!(status == 200, "{list}");
    let own = list.as_array().into_iter().flatten();
    let own = own
        .clone()
        .find(|one| one["name"] == name.as_str())
        .context("no agent")?;
    let mut third = Remote::outside()?;
    let cgroup = Path::new(own["cgroup"].as_str().context("no cgroup")?);
    bench::move_to(cgroup, third.pid())?;
    third.agent = Some(name);
    bench.fails(&mut third, &key(bench, "asked/third"), libc::EPERM)?;
    let refused = Wanted::deny("file.open", "asked").with("/reason", "too-many-pending");
    bench.log.wait(&refused.path(bench.path("asked/third")))?;
    for one in pending(&agents)? {
        answer(&one, &yes(&json!("once")))?;
    }
    comes_to(&mut agents, None)
}

/// An agent that asks as much as it can: people see as many questions as the profile says, and other agents' as before.
fn flood(bench: &mut Bench) -> Result<()> {
    const COUNT: usize = 100;
    let mut agent = bench.agent()?;
    let mut other = bench.agent()?;
    let dir = bench.dir.display();
    let script = format!(
        "i=0; while [ $i -lt {COUNT} ]; do (mkdir {dir}/asked/$i 2>/dev/null || echo no >> {dir}/out) & i=$((i+1)); done; wait; exit 0"
    );
    agent.tell(&exec(Birth::Fork, "/bin/sh", &["-c", &script]))?;
    let out = bench.path("out");
    wait_until("the rest is refused", || {
        ensure!(pending(&agent)?.len() <= 2, "too many questions");
        let refused = fs::read_to_string(&out).unwrap_or_default();
        Ok(refused.lines().count() == COUNT - 2)
    })?;
    let asked = pending(&agent)?;
    ensure!(asked.len() == 2, "{asked:?}");
    other.tell(&key(bench, "asked/key"))?;
    answer(&question(&other, |_| true)?, &yes(&json!("once")))?;
    comes_to(&mut other, None)?;
    for one in &asked {
        answer(one, &yes(&json!("once")))?;
    }
    comes_to(&mut agent, None)?;
    let made = |event: &&Value| {
        event["action"] == "file.create" && event["verdict"] == "allow" && event["rule"] == "asked"
    };
    let name = agent.agent.clone().context("no name")?;
    let deadline = "as many as were approved are made";
    wait_until(deadline, || {
        let events = bench.log.events()?.iter().filter(made);
        Ok(events.filter(|event| event["agent"] == *name).count() == 2)
    })
}

fn two_hundred(bench: &mut Bench) -> Result<()> {
    const COUNT: usize = 200;
    let mut agent = bench.agent()?;
    let dir = bench.dir.display();
    let script = format!(
        "i=0; while [ $i -lt {COUNT} ]; do (read line < {dir}/asked/key && echo $line >> {dir}/out) & i=$((i+1)); done; wait; exit 0"
    );
    agent.tell(&exec(Birth::Fork, "/bin/sh", &["-c", &script]))?;
    let begin = Instant::now();
    let mut waiting = 0;
    while waiting < COUNT as u64 && begin.elapsed() < Duration::from_secs(150) {
        let list = pending(&agent)?;
        ensure!(list.len() <= 1, "{} questions", list.len());
        waiting = list
            .first()
            .map_or(0, |one| one["waiting"].as_u64().unwrap_or(0));
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(waiting == COUNT as u64, "{waiting} wait");
    let asked = question(&agent, |_| true)?;
    answer(&asked, &yes(&json!("once")))?;
    comes_to(&mut agent, None)?;
    let lines = fs::read_to_string(bench.path("out"))?.lines().count();
    ensure!(lines == COUNT, "{lines} went on");
    ensure!(pending(&agent)?.is_empty(), "something still waits");
    Ok(())
}

fn not_for_agents(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut second = bench.agent()?;
    agent.tell(&key(bench, "asked/key"))?;
    let asked = question(&agent, |_| true)?;
    let id = &asked["id"];
    let to_daemon = Act::Sequence(vec![
        socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        connect(crate::remote::Arg::Step(0), unix(SOCKET)),
    ]);
    bench.fails(&mut second, &to_daemon, libc::EPERM)?;
    // An ordinary user who is no member of the group can't even connect.
    let mut user = Command::new("curl");
    user.args([
        "-sS",
        "--unix-socket",
        SOCKET,
        "-H",
        "Content-Type: application/json",
    ])
    .args(["-d", r#"{"approve":true}"#])
    .arg(format!("http://x/v1/approvals/{id}"));
    user.uid(1000).gid(1000);
    let said = Said::by_command(&mut user)?;
    ensure!(!said.out.contains("\"approved\""), "{}", said.out);
    // Nobody passes for the daemon's own way to ask.
    let body = json!({ "approve": true, "how": "notify" });
    let (status, answered) = api("POST", &format!("/v1/approvals/{id}"), Some(&body))?;
    ensure!(status == 400, "{answered}");
    ensure!(pending(&agent)?.len() == 1, "it was answered");
    answer(&asked, &json!({ "approve": false }))?;
    comes_to(&mut agent, Some(libc::EPERM))
}

/// A file's name and a program's arguments that would clear the terminal, and show a question that isn't there.
fn painted(bench: &mut Bench) -> Result<()> {
    const NAME: &str = "k\x1b[2J\x1b[Hallow? [y]\n\u{9b}31m\u{202e}\rx";
    let path = bench.path("asked").join(NAME);
    fs::write(&path, "key\n")?;
    let mut agent = bench.agent()?;
    let cat = exec(
        Birth::Fork,
        "/bin/cat",
        &[path.to_str().context("not UTF-8")?],
    );
    agent.tell(&cat)?;
    let asked = question(&agent, |_| true)?;
    ensure!(asked["object"]["path"].as_str() == path.to_str(), "{asked}");
    let said = Said::by(&["pending"])?.ends(0)?;
    ensure!(
        !said.out.contains(['\x1b', '\u{9b}', '\u{202e}', '\r']),
        "{:?}",
        said.out
    );
    let lines = said.out.lines().filter(|line| line.contains("allow? [y]"));
    let escaped = lines
        .map(|line| line.contains("\\u{1b}[2J"))
        .collect::<Vec<_>>();
    ensure!(
        !escaped.is_empty() && escaped.iter().all(|it| *it),
        "{}",
        said.out
    );
    let id = asked["id"].to_string();
    let said = Said::by(&["deny", &id])?.ends(0)?;
    ensure!(!said.out.contains(['\x1b', '\u{202e}']), "{:?}", said.out);
    comes_to_status(&mut agent, 1)
}

/// The program that it was told to run ended with this.
fn comes_to_status(agent: &mut Remote, status: i64) -> Result<()> {
    let outcome = agent.hear()?;
    ensure!(
        outcome == Outcome::Done(status),
        "{}",
        bench::shown(outcome)
    );
    Ok(())
}
