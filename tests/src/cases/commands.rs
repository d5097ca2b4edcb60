//! The command line as people and scripts meet it: what it prints, where, and how it ends.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    bench::{self, Bench},
    daemon::{Daemon, wait_until},
    log::{Log, Wanted},
    remote::{Outcome, calls::open},
    said::Said,
    scene::{Case, Scene},
};

/// A file that may not be opened and a folder of which nothing may be run.
const POLICY: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
because = "Not for agents."

[[deny]]
id = "denied"
exec = "{dir}/denied/**"
"#;

/// The profiles that are shipped.
const SHIPPED: [&str; 5] = ["baseline", "coding", "observe", "offline", "readonly"];

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "key\n")?;
    }
    fs::create_dir_all(dir.join("denied"))?;
    fs::copy("/bin/busybox", dir.join("denied/true"))?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("commands::run_ends_as_its_program", run_ends_as_its_program),
        case("commands::run_passes_streams_on", run_passes_streams),
        case("commands::run_that_fails_runs_nothing", run_that_fails),
        case("commands::run_as_a_user", run_as_user),
        case(
            "commands::run_leaves_descriptors_behind",
            run_leaves_descriptors,
        ),
        case("commands::run_without_a_daemon", run_without_daemon)
            .scene(Scene::OwnDaemon)
            .limit(120),
        case("commands::tag_and_untag", tag_and_untag),
        case("commands::status", status),
        case("commands::doctor", doctor),
        case("commands::tail_selects", tail_selects),
        case("commands::tail_for_people_and_programs", tail_forms),
        case("commands::tail_without_a_daemon", tail_without_daemon)
            .scene(Scene::OwnDaemon)
            .limit(120),
        case("commands::tail_follows_over_a_restart", tail_follows)
            .scene(Scene::OwnDaemon)
            .limit(180),
        case("commands::policies_that_are_shipped", shipped_policies),
        case("commands::policy_explain_and_schema", explain_and_schema),
        case("commands::completions_and_manual", completions_and_manual),
        case("commands::ordinary_users_are_told", ordinary_user),
        case("commands::unload_needs_peace", unload)
            .scene(Scene::OwnDaemon)
            .limit(120),
    ]
}

/// `agentguard run` of the case's profile.
fn run(bench: &mut Bench, command: &[&str]) -> Result<Said> {
    let (profile, name) = (bench.profile.clone(), bench.name());
    let mut arguments = vec!["run", "--profile", &profile, "--name", &name, "--"];
    arguments.extend(command);
    Said::by(&arguments)
}

fn run_ends_as_its_program(bench: &mut Bench) -> Result<()> {
    for code in [0, 1, 7, 125, 255] {
        run(bench, &["sh", "-c", &format!("exit {code}")])?.ends(code)?;
    }
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV] {
        run(bench, &["sh", "-c", &format!("kill -{signal} $$")])?.ends_by(signal)?;
    }
    // As a shell tells it.
    let profile = &bench.profile;
    let script = format!("agentguard run -p {profile} -- sh -c 'kill -9 $$'; echo $?");
    Said::by_shell(&script)?.ends(0)?.prints(&["137\n"])?;

    let denied = bench.path("denied/true").display().to_string();
    run(bench, &[&denied])?.ends(126)?.complains(&[
        &denied,
        "does not allow",
        "agentguard tail",
    ])?;
    bench
        .log
        .wait(&Wanted::deny("exec", "denied").path(&denied))?;
    let text = bench.path("open/key").display().to_string();
    run(bench, &[&text])?.ends(126)?.complains(&[&text])?;
    run(bench, &["/nothing/there"])?
        .ends(127)?
        .complains(&["/nothing/there", "no such command"])?;
    Ok(())
}

fn run_passes_streams(bench: &mut Bench) -> Result<()> {
    let said = run(bench, &["sh", "-c", "printf out; printf err >&2"])?.ends(0)?;
    ensure!(said.out == "out" && said.err == "err", "{}", said.all());
    let profile = &bench.profile;
    let script = format!("printf 'a b\\0c' | agentguard run --profile {profile} -- cat | od -c");
    Said::by_shell(&script)?
        .ends(0)?
        .prints(&["a       b  \\0   c"])?;
    // A signal that is sent to the command reaches the program, which is in the same process.
    let script = format!(
        "agentguard run --profile {profile} -- sh -c 'trap \"exit 9\" USR1; echo ready; while :; do read -t 1 x; done' >{0} & \
         until grep -q ready {0}; do usleep 10000; done; kill -USR1 $!; wait $!; echo $?",
        bench.path("open/said").display()
    );
    Said::by_shell(&script)?.ends(0)?.prints(&["9\n"])?;
    Ok(())
}

/// `arguments` end with this status, say these things, and the program is not run.
fn runs_nothing(bench: &Bench, arguments: &[&str], parts: &[&str]) -> Result<()> {
    let marker = bench.path("open/marker");
    let path = marker.display().to_string();
    let mut all = vec!["run"];
    all.extend(arguments);
    all.extend(["--", "touch", &path]);
    let said = Said::by(&all)?.ends(125)?.complains(parts)?;
    ensure!(!marker.exists(), "the program was run: {}", said.all());
    Ok(())
}

fn run_that_fails(bench: &mut Bench) -> Result<()> {
    let profile = &bench.profile;
    runs_nothing(
        bench,
        &["--profile", "no-such-profile"],
        &["no-such-profile", "installed profiles", profile, "coding"],
    )?;
    // The daemon's own are nobody's.
    runs_nothing(bench, &["--profile", ".canary"], &[".canary"])?;
    runs_nothing(
        bench,
        &["--profile", profile, "--user", "nobody-of-this-name"],
        &["nobody-of-this-name"],
    )?;
    runs_nothing(bench, &["--profile", profile, "--name", "a/b"], &["a/b"])?;
    runs_nothing(
        bench,
        &["--socket", "/run/no-such.sock", "--profile", profile],
        &["/run/no-such.sock", "agentguard.service"],
    )?;
    // What the command line can't mean is not a failure to run.
    Said::by(&["run", "--", "true"])?
        .ends(2)?
        .complains(&["--profile"])?;
    Said::by(&["run", "--profile", profile])?.ends(2)?;
    // An active agent's name is taken.
    let agent = bench.agent()?;
    let name = agent.agent.clone().context("the agent has no name")?;
    let profile = bench.profile.clone();
    runs_nothing(bench, &["--profile", &profile, "--name", &name], &[&name])?;
    Ok(())
}

fn run_as_user(bench: &mut Bench) -> Result<()> {
    let profile = bench.profile.clone();
    for user in ["agent", "1000"] {
        let script =
            "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; grep NoNewPrivs /proc/self/status";
        let arguments = ["run", "-p", &profile, "-u", user, "--", "sh", "-c", script];
        Said::by(&arguments)?.ends(0)?.prints(&[
            "1000\n1000\n1000\n",
            "/home/agent agent agent\n",
            "NoNewPrivs:\t1\n",
        ])?;
    }
    // Who called sudo, where sudo says so.
    let mut command = Command::new("agentguard");
    command.args(["run", "--profile", &profile, "--", "id", "-u"]);
    let said = Said::by_command(command.env("SUDO_UID", "1000").env("SUDO_GID", "1000"))?;
    ensure!(
        said.ends(0)?.out == "1000\n",
        "it doesn't run as who called sudo"
    );
    let said = run(bench, &["id", "-u"])?.ends(0)?;
    ensure!(said.out == "0\n", "{}", said.all());
    // Being another user changes nothing of the profile.
    let key = bench.path("open/key");
    let mut agent = bench.user_agent()?;
    let secret = bench.path("secret/key");
    std::os::unix::fs::chown(&secret, Some(1000), Some(1000))?;
    std::os::unix::fs::chown(&key, Some(1000), Some(1000))?;
    let wanted = Wanted::deny("file.open", "secret")
        .path(&secret)
        .with("/process/uid", 1000);
    bench.denied(&mut agent, &open(&secret, libc::O_RDONLY), wanted)?;
    bench.allowed(&mut agent, &open(&key, libc::O_RDWR))?;
    Ok(())
}

fn run_leaves_descriptors(bench: &mut Bench) -> Result<()> {
    let (profile, secret) = (&bench.profile, bench.path("secret/key"));
    let script = format!(
        "exec 7<{}; agentguard run --profile {profile} -- sh -c 'cat <&7'",
        secret.display()
    );
    let said = Said::by_shell(&script)?;
    ensure!(
        !said.status.success() && said.out.is_empty(),
        "the program read from an inherited descriptor: {}",
        said.all()
    );
    Ok(())
}

/// Nothing of AgentGuard is in the kernel or in the log.
fn fresh(bench: &mut Bench) -> Result<()> {
    crate::daemon::unload()?;
    bench.log = Log::from_start(Path::new(crate::log::PATH));
    Ok(())
}

fn run_without_daemon(bench: &mut Bench) -> Result<()> {
    fresh(bench)?;
    let profile = bench.profile.clone();
    let arguments = ["--profile", profile.as_str()];
    let parts = ["cannot reach the daemon", "agentguard.service"];
    runs_nothing(bench, &arguments, &parts)?;
    Said::by(&["status"])?
        .ends(17)?
        .prints(&["NOT ENFORCING"])?;
    let daemon = Daemon::start()?;
    run(bench, &["true"])?.ends(0)?;
    daemon.kill()?;
    runs_nothing(bench, &arguments, &parts)?;
    Said::by(&["status"])?
        .ends(17)?
        .prints(&["THE KERNEL ENFORCES"])?;
    for arguments in [
        &["agents"][..],
        &["reload"],
        &["tag", "nothing", &profile],
        &["untag", "nothing"],
    ] {
        Said::by(arguments)?.ends(17)?.complains(&parts)?;
    }
    Ok(())
}

fn tag_and_untag(bench: &mut Bench) -> Result<()> {
    let cgroup = bench.cgroup()?;
    let path = cgroup.path.display().to_string();
    let (profile, name) = (bench.profile.clone(), bench.name());
    Said::by(&["tag", &path, &profile, "--name", &name])?
        .ends(0)?
        .prints(&[&name, &profile, &path])?;
    Said::by(&["agents"])?
        .ends(0)?
        .prints(&[&name, &profile, &path, "active"])?;
    let agents = Said::by(&["agents", "--json"])?.ends(0)?.json()?;
    let listed = |agents: &Value| {
        agents
            .as_array()
            .and_then(|all| all.iter().find(|agent| agent["name"] == *name))
            .cloned()
    };
    let agent = listed(&agents).with_context(|| format!("not listed: {agents}"))?;
    ensure!(
        agent["profile"] == *profile
            && agent["cgroup"] == *path
            && agent["owned"] == false
            && agent["state"] == "active",
        "{agent}"
    );
    Said::by(&["tag", &path, &profile])?
        .ends(19)?
        .complains(&[&path])?;
    let relative = path.replace("/sys/fs/cgroup/", "");
    Said::by(&["untag", &relative])?.ends(0)?.prints(&[&name])?;
    Said::by(&["untag", &path])?.ends(19)?.complains(&[&path])?;
    Said::by(&["tag", "not/there", &profile])?
        .ends(19)?
        .complains(&["not/there"])?;
    Said::by(&["tag", &path, "no-such-profile"])?
        .ends(19)?
        .complains(&["no-such-profile", "installed profiles", &profile])?;
    Said::by(&["tag", "/etc", &profile])?
        .ends(2)?
        .complains(&["/etc"])?;
    Said::by(&["tag", "/sys/fs/cgroup", &profile])?.ends(2)?;
    Ok(())
}

fn status(bench: &mut Bench) -> Result<()> {
    let agent = bench.agent()?;
    let name = agent.agent.clone().context("the agent has no name")?;
    Said::by(&["status"])?
        .ends(0)?
        .prints(&["ENFORCING", &name, &bench.profile])?;
    let status = Said::by(&["status", "--json"])?.ends(0)?.json()?;
    let expected = [
        ("/enforcing", Value::Bool(true)),
        ("/problems", Value::Array(Vec::new())),
        ("/log/writing", Value::Bool(true)),
        ("/log/path", "/var/log/agentguard/events.jsonl".into()),
        ("/counters/undecodable", 0.into()),
    ];
    for (pointer, value) in expected {
        ensure!(
            status.pointer(pointer) == Some(&value),
            "{pointer} is not {value}: {status}"
        );
    }
    let hooks = status["hooks"].as_array().context("no hooks")?;
    ensure!(hooks.len() > 20, "few hooks: {hooks:?}");
    for hook in hooks {
        ensure!(
            hook["attached"] == true && hook["program"].as_u64().is_some(),
            "{hook}"
        );
    }
    let lsms = status["kernel"]["lsm"].as_array().context("no LSMs")?;
    ensure!(lsms.iter().any(|lsm| lsm == "bpf"), "{lsms:?}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(status["kernel"]["release"] == release.trim(), "{status}");
    Ok(())
}

fn doctor(_: &mut Bench) -> Result<()> {
    Said::by(&["doctor"])?
        .ends(0)?
        .prints(&["this machine can enforce", "bpf in the list of LSMs"])?;
    let report = Said::by(&["doctor", "--json"])?.ends(0)?.json()?;
    ensure!(report["enforcement"] == "possible", "{report}");
    for requirement in report["requirements"].as_array().context("no list")? {
        ensure!(
            requirement["state"] == "found" || requirement["state"] == "advised",
            "{requirement}"
        );
    }
    Ok(())
}

/// An agent that was denied once and allowed once, and its name.
fn judged(bench: &mut Bench) -> Result<String> {
    let mut agent = bench.agent()?;
    let (secret, key) = (bench.path("secret/key"), bench.path("open/key"));
    let wanted = Wanted::allow("file.open").path(&key);
    bench.allowed_and_logged(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
    let wanted = Wanted::deny("file.open", "secret").path(&secret);
    bench.denied(&mut agent, &open(&secret, libc::O_RDONLY), wanted)?;
    let name = agent.agent.clone().context("the agent has no name")?;
    bench.log.skip()?;
    agent.end()?;
    bench
        .log
        .wait(&Wanted::action("agent.ended").agent(&name))?;
    Ok(name)
}

fn tail(arguments: &[&str]) -> Result<Vec<Value>> {
    let mut all = vec!["tail"];
    all.extend(arguments);
    Said::by(&all)?.ends(0)?.json_lines()
}

fn tail_selects(bench: &mut Bench) -> Result<()> {
    let (one, two) = (judged(bench)?, judged(bench)?);
    let all = tail(&["-n", "1000000", "--agent", &one])?;
    ensure!(all.iter().all(|event| event["agent"] == *one), "{all:?}");
    let count = |action: &str| all.iter().filter(|event| event["action"] == action).count();
    ensure!(
        count("agent.started") == 1 && count("agent.ended") == 1 && count("file.open") >= 2,
        "{all:?}"
    );
    let denials = tail(&["-n", "100", "--agent", &one, "--verdict", "deny"])?;
    let wanted = Wanted::deny("file.open", "secret").agent(&one);
    ensure!(
        denials.len() == 1 && wanted.fits(&denials[0]),
        "{denials:?}"
    );
    let both = tail(&[
        "-n",
        "100",
        "--agent",
        &one,
        "--agent",
        &two,
        "--verdict",
        "deny",
    ])?;
    ensure!(both.len() == 2, "{both:?}");
    let last = tail(&[
        "-n",
        "1",
        "--agent",
        &one,
        "--agent",
        &two,
        "--verdict=deny,allow",
    ])?;
    ensure!(last.len() == 1 && last[0]["agent"] == *two, "{last:?}");
    let ends = tail(&["-n", "9", "--agent", &one, "--action", "agent.ended"])?;
    ensure!(ends.len() == 1, "{ends:?}");
    let family = tail(&["-n", "100", "--agent", &one, "--action", "agent"])?;
    ensure!(family.len() == 2, "{family:?}");
    ensure!(tail(&["-n", "0"])?.is_empty(), "0 are some");
    ensure!(tail(&["-n", "3"])?.len() == 3, "3 are not 3");
    let plain = tail(&[])?;
    ensure!(plain.len() == 10, "without -n: {}", plain.len());
    Said::by(&["tail", "--verdict", "maybe"])?
        .ends(2)?
        .complains(&["maybe", "deny"])?;
    Said::by(&["tail", "--action", "file.eat"])?
        .ends(2)?
        .complains(&["file.eat"])?;
    Ok(())
}

fn tail_forms(bench: &mut Bench) -> Result<()> {
    let name = judged(bench)?;
    let secret = bench.path("secret/key").display().to_string();
    let select = ["tail", "-n", "1", "--verdict", "deny", "--agent", &name];
    // Into a pipe it is JSON unless text is asked for; colours are only for those who ask.
    let json = Said::by(&select)?.ends(0)?;
    json.json_lines()?;
    let with = |more: &[&str]| {
        let mut all = select.to_vec();
        all.extend(more);
        Said::by(&all)?.ends(0)
    };
    ensure!(with(&["--json"])?.out == json.out, "--json differs");
    let text = with(&["--text"])?.prints(&[&name, &secret, "deny", "secret", "Not for agents."])?;
    ensure!(
        text.out.lines().count() == 1 && !text.out.contains('\u{1b}'),
        "{}",
        text.all()
    );
    with(&["--text", "--color", "always"])?.prints(&["\u{1b}["])?;
    with(&["--text", "--color", "never"])?;
    // On a terminal it is coloured text without being asked.
    let python = format!(
        r#"
import os, sys
pid, fd = os.forkpty()
if pid == 0:
    os.execvp("agentguard", "agentguard tail -n 1 --verdict deny --agent {name}".split())
try:
    while said := os.read(fd, 4096):
        sys.stdout.buffer.write(said)
except OSError:
    pass  # the other end is closed
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#
    );
    let mut command = Command::new("python3");
    command.args(["-c", &python]).env("TERM", "xterm");
    Said::by_command(&mut command)?
        .ends(0)?
        .prints(&["\u{1b}[", &secret, "Not for agents."])?;
    Ok(())
}

fn tail_without_daemon(bench: &mut Bench) -> Result<()> {
    fresh(bench)?;
    Said::by(&["tail"])?
        .ends(1)?
        .complains(&["/var/log/agentguard/events.jsonl"])?;
    let daemon = Daemon::start()?;
    let name = judged(bench)?;
    let select = ["-n", "5", "--agent", &name, "--verdict", "deny"];
    let before = tail(&select)?;
    daemon.kill()?;
    let after = tail(&select)?;
    ensure!(
        before == after && !before.is_empty(),
        "{before:?}, then {after:?}"
    );
    Said::by(&["tail", "-n", "1"])?
        .ends(0)?
        .complains(&["no daemon answers"])?;
    Ok(())
}

fn tail_follows(bench: &mut Bench) -> Result<()> {
    let out = bench.path("open/followed");
    let daemon = Daemon::start()?;
    let mut following = Command::new("agentguard")
        .args(["tail", "-f", "-n", "0", "--verdict", "deny"])
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(bench.path("open/notes"))?)
        .spawn()?;
    let result = follow(bench, daemon, &out);
    following.kill()?;
    following.wait()?;
    result.with_context(|| {
        let notes = fs::read_to_string(bench.path("open/notes")).unwrap_or_default();
        format!("it noted: {notes}")
    })
}

fn follow(bench: &mut Bench, daemon: Daemon, out: &Path) -> Result<()> {
    let shown = |agent: &str| -> Result<usize> {
        let text = fs::read_to_string(out)?;
        Ok(text.matches(&format!("\"agent\":\"{agent}\"")).count())
    };
    let told = |agent: &str| wait_until("the event is shown", || Ok(shown(agent)? == 1));
    // It begins with what comes once it has begun, so the first may be missed.
    wait_until("the first event is shown", || {
        let name = judged(bench)?;
        std::thread::sleep(std::time::Duration::from_millis(200));
        Ok(shown(&name)? == 1)
    })?;
    let second = judged(bench)?;
    told(&second)?;
    daemon.kill()?;
    let daemon = Daemon::start()?;
    let third = judged(bench)?;
    told(&third)?;
    daemon.stop()?;
    let _daemon = Daemon::start()?;
    let fourth = judged(bench)?;
    told(&fourth)?;
    for name in [second, third, fourth] {
        ensure!(shown(&name)? == 1, "shown more than once: {name}");
    }
    Ok(())
}

fn shipped_policies(_: &mut Bench) -> Result<()> {
    for name in SHIPPED {
        let path = format!("{}/{name}.toml", bench::POLICIES);
        Said::by(&["policy", "check", &path])?.ends(0)?;
        let found = Said::by(&["policy", "check", "--json", &path])?
            .ends(0)?
            .json()?;
        ensure!(found.is_object(), "{found}");
        Said::by(&["policy", "test", &path])?.ends(0)?;
    }
    // Each of them can hold an agent, and none keeps it from working.
    for name in SHIPPED {
        let said = Said::by(&["run", "--profile", name, "--", "sh", "-c", "echo works"])?;
        said.ends(0)?.prints(&["works\n"])?;
    }
    Ok(())
}

fn explain_and_schema(bench: &mut Bench) -> Result<()> {
    let secret = bench.path("secret/key").display().to_string();
    let twin = bench.path("open/key").display().to_string();
    let profile = bench.profile.clone();
    let ask = |question: &[&str]| {
        let mut all = vec!["policy", "explain", "--profile", &profile, "--json"];
        all.extend(question);
        Said::by(&all)?.ends(0)?.json()
    };
    let answer = ask(&["open", &secret])?;
    ensure!(
        answer["verdict"] == "deny" && answer["rule"].to_string().contains("secret"),
        "{answer}"
    );
    ensure!(ask(&["open", &twin])?["verdict"] == "allow");
    let program = bench.path("denied/true").display().to_string();
    ensure!(ask(&["exec", &program])?["verdict"] == "deny");
    ensure!(ask(&["connect", "192.0.2.1:443"])?["verdict"] == "deny");
    Said::by(&["policy", "explain", "-p", &profile, "open", &secret])?
        .ends(0)?
        .prints(&["deny", "secret", "Not for agents."])?;
    let schema = Said::by(&["policy", "schema"])?.ends(0)?.json()?;
    ensure!(schema["properties"]["deny"].is_object(), "{schema}");
    Ok(())
}

fn completions_and_manual(bench: &mut Bench) -> Result<()> {
    for (shell, option) in [
        ("bash", "--profile"),
        ("zsh", "--profile"),
        ("fish", "-l profile"),
    ] {
        Said::by(&["completions", shell])?
            .ends(0)?
            .prints(&["agentguard", "doctor", option])?;
    }
    Said::by(&["man"])?.ends(0)?.prints(&[
        ".TH agentguard 8",
        "EXIT STATUS",
        "\\fB125\\fR",
        "/var/log/agentguard/events.jsonl",
    ])?;
    let folder = bench.path("open/man");
    let path = folder.display().to_string();
    Said::by(&["man", &path])?.ends(0)?;
    ensure!(folder.join("agentguard.8").exists() && folder.join("agentguard-run.8").exists());
    Said::by(&["--version"])?
        .ends(0)?
        .prints(&["agentguard "])?;
    Said::by(&["--help"])?
        .ends(0)?
        .prints(&["doctor", "daemon", "Usage"])?;
    Said::by(&[])?.ends(2)?;
    Ok(())
}

fn ordinary_user(bench: &mut Bench) -> Result<()> {
    let profile = bench.profile.clone();
    let marker = bench.path("open/marker").display().to_string();
    Said::by_user(&["run", "--profile", &profile, "--", "touch", &marker])?
        .ends(125)?
        .complains(&["only root", "sudo"])?;
    ensure!(!Path::new(&marker).exists(), "the program was run");
    Said::by_user(&["daemon"])?.ends(3)?.complains(&["root"])?;
    Said::by_user(&["doctor"])?.ends(3)?.prints(&["root"])?;
    Said::by_user(&["unload"])?.ends(3)?.complains(&["root"])?;
    for arguments in [
        &["status"][..],
        &["agents"],
        &["reload"],
        &["tag", "nothing", &profile],
        &["untag", "nothing"],
        &["tail"],
    ] {
        Said::by_user(arguments)?
            .ends(18)?
            .complains(&["/run/agentguard/agentguard.sock", "group agentguard"])?;
    }
    // What needs no rights needs none.
    let file = format!("{}/coding.toml", bench::POLICIES);
    Said::by_user(&["policy", "check", &file])?.ends(0)?;
    let report = Said::by_user(&["doctor", "--json"])?.ends(3)?.json()?;
    ensure!(report["enforcement"] == "unknown", "{report}");
    Ok(())
}

fn unload(bench: &mut Bench) -> Result<()> {
    fresh(bench)?;
    let daemon = Daemon::start()?;
    Said::by(&["unload"])?.ends(12)?;
    let secret = bench.path("secret/key");
    let mut agent = bench.agent()?;
    daemon.stop()?;
    Said::by(&["unload"])?.ends(20)?.complains(&["1 agent"])?;
    bench.fails(&mut agent, &open(&secret, libc::O_RDONLY), libc::EPERM)?;
    Said::by(&["unload", "--force"])?.ends(0)?;
    // The kernel lets go of the programs a moment after their pins are gone.
    wait_until("what was denied is allowed", || {
        let outcome = agent.act(&open(&secret, libc::O_RDONLY))?;
        Ok(matches!(outcome, Outcome::Done(_)))
    })?;
    Said::by(&["status"])?
        .ends(17)?
        .prints(&["NOT ENFORCING"])?;
    Said::by(&["unload"])?.ends(0)?;
    Ok(())
}
