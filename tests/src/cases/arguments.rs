//! Rules that look at a program's arguments: what is denied before the program starts, what only the copy that
//! the program gets can show, and that nobody changes the arguments in between.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, of, run_well, shown},
    log::Wanted,
    remote::{
        Act, Birth, Outcome, Program,
        calls::{exec, exec_32},
    },
    scene::Case,
};

/// `tool` is what it is run with; `sh` is an interpreter.
const POLICY: &str = r#"
[approvals]
timeout = "20ms"

[[deny]]
id = "push"
exec = ["{dir}/touch", "{dir}/script"]
args = ["push", "**"]
because = "Pushing is for people."

[[deny]]
id = "bad-file"
exec = "{dir}/touch"
args = ["**", "{dir}/bad*", "**"]

[[deny]]
id = "deadly"
exec = "{dir}/touch"
args = ["deadly"]
kill = true

[[ask]]
id = "asked"
exec = "{dir}/touch"
args = ["ask", "**"]

[[deny]]
id = "command"
exec = "{dir}/sh"
args = ["-c", "**"]

[[deny]]
id = "of-a-script"
exec = "{dir}/sh"
args = ["*/script", "tell", "**"]

[[deny]]
id = "of-a-format"
exec = "{dir}/sh"
args = ["*.agarguments", "tell"]

[[deny]]
id = "format"
exec = "{dir}/*.agarguments"
args = ["push"]

[[allow]]
exec = "memfd:"

[[deny]]
id = "in-memory"
exec = "memfd:"
args = ["**", "hidden"]

[[deny]]
id = "never"
exec = "{dir}/never"
"#;

/// Only what is listed may be run.
const ONLY: &str = r#"
[default]
file = "allow"
exec = "deny"
connect = "deny"
listen = "deny"

[[allow]]
exec = "/usr/local/bin/agentguard-guest"

[[allow]]
id = "status"
exec = "{dir}/touch"
args = ["{dir}/status*"]
"#;

/// The first one's rules, in audit mode.
const AUDIT: &str = r#"
mode = "audit"

[[deny]]
id = "push"
exec = "{dir}/touch"
args = ["push", "**"]
"#;

fn programs(dir: &Path) -> Result<()> {
    for name in ["touch", "sh", "never"] {
        fs::copy("/bin/busybox", dir.join(name))?;
    }
    fs::hard_link(dir.join("touch"), dir.join("alias"))?;
    let script = dir.join("script");
    fs::write(&script, format!("#!{}\nexit 7\n", dir.join("sh").display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(programs);
    vec![
        case("arguments::decide", decide),
        case("arguments::of_scripts", of_scripts),
        case("arguments::of_a_registered_format", registered_format),
        case("arguments::by_32_bit_calls", by_32_bit_calls),
        case("arguments::by_descriptor", by_descriptor),
        case("arguments::too_long", too_long),
        case("arguments::swapped_by_a_thread", swapped),
        case("arguments::in_audit_mode", in_audit_mode).second(AUDIT),
        Case::new("arguments::only_what_is_listed", only_listed)
            .policy(ONLY)
            .prepare(programs),
    ]
}

fn touch(bench: &Bench, arguments: &[&str]) -> Act {
    exec(Birth::Fork, bench.path("touch"), arguments)
}

/// What a name in the case's folder is called by rules.
fn text(bench: &Bench, name: &str) -> String {
    bench.path(name).display().to_string()
}

/// The event of a start that was past the point where it could be refused.
fn killed(rule: &str) -> Wanted {
    Wanted::action("exec")
        .with("/verdict", "deny")
        .with("/rule", rule)
        .with("/killed", true)
}

/// The act is killed, and the log says why.
fn is_killed(
    bench: &mut Bench,
    agent: &mut crate::remote::Remote,
    act: &Act,
    wanted: Wanted,
) -> Result<()> {
    bench.log.skip()?;
    let outcome = agent.act(act)?;
    ensure!(
        outcome == Outcome::Killed(libc::SIGKILL),
        "must be killed, but {}: {act:?}",
        shown(outcome)
    );
    let event = bench.log.wait(&of(agent, wanted))?;
    ensure!(event.get("errno").is_none(), "nobody was told: {event}");
    Ok(())
}

fn decide(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let program = bench.path("touch");
    let bad = text(bench, "bad/file");
    let good = text(bench, "good");
    for (arguments, rule) in [
        (&["push"][..], "push"),
        (&["push", "origin", ""], "push"),
        (&["-c", &bad], "bad-file"),
        (&[&bad, "-c", ""], "bad-file"),
        (&["push", &bad], "push"),
    ] {
        let wanted = Wanted::deny("exec", rule)
            .path(&program)
            .with("/object/args", arguments.to_vec());
        let event = bench.denied(&mut agent, &touch(bench, arguments), wanted)?;
        ensure!(event.get("killed").is_none(), "nobody was killed: {event}");
    }
    let wanted = Wanted::deny("exec", "asked").with("/reason", "timed-out");
    bench.denied(&mut agent, &touch(bench, &["ask", "me"]), wanted)?;
    // The same file under another name; the rule names the first.
    let alias = exec(Birth::Fork, bench.path("alias"), &["push"]);
    bench.denied(&mut agent, &alias, Wanted::deny("exec", "push"))?;

    bench.log.skip()?;
    let outcome = agent.act(&touch(bench, &["deadly"]))?;
    ensure!(
        outcome == Outcome::Killed(libc::SIGKILL),
        "{}",
        shown(outcome)
    );
    let wanted = Wanted::action("exec").with("/verdict", "kill");
    bench
        .log
        .wait(&of(&agent, wanted.with("/rule", "deadly")))?;

    for arguments in [
        &[good.as_str()][..],
        &[&good, "push"],
        &["--", &good],
        &[&text(bench, "pushed"), &good],
    ] {
        for birth in [Birth::Fork, Birth::Vfork, Birth::Clone3, Birth::Spawn] {
            let wanted = Wanted::allow("exec")
                .path(&program)
                .with("/object/args", arguments.to_vec());
            let act = exec(birth, &program, arguments);
            let status = bench.allowed_and_logged(&mut agent, &act, wanted)?;
            ensure!(
                arguments.contains(&"push") || status == 0,
                "ended with {status}"
            );
        }
    }
    // Without arguments, and without even a name.
    let wanted = Wanted::allow("exec").path(&program);
    bench.allowed_and_logged(&mut agent, &touch(bench, &[]), wanted.clone())?;
    let nameless = Act::Exec {
        birth: Birth::Fork,
        program: Program::Path(program.to_string_lossy().into_owned().into_bytes()),
        arguments: Vec::new(),
    };
    bench.allowed_and_logged(&mut agent, &nameless, wanted)?;
    // A program whose arguments don't matter is judged as ever.
    let never = exec(Birth::Fork, bench.path("never"), &["push"]);
    let event = bench.denied(&mut agent, &never, Wanted::deny("exec", "never"))?;
    ensure!(event.pointer("/object/args").is_none(), "{event}");
    Ok(())
}

fn of_scripts(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let script = bench.path("script");
    let run = |arguments: &[&str]| exec(Birth::Fork, &script, arguments);
    // The script's own arguments.
    let wanted = Wanted::deny("exec", "push").path(&script);
    bench.denied(&mut agent, &run(&["push", "x"]), wanted)?;
    // The interpreter's, among which is the script; they are known only when there is no way back.
    let name = script.display().to_string();
    let wanted = killed("of-a-script")
        .path(bench.path("sh"))
        .with("/object/args", vec![name.as_str(), "tell", "push"]);
    is_killed(bench, &mut agent, &run(&["tell", "push"]), wanted)?;
    let direct = exec(Birth::Fork, bench.path("sh"), &["-c", "exit 0"]);
    bench.denied(&mut agent, &direct, Wanted::deny("exec", "command"))?;

    bench.log.skip()?;
    let status = bench.allowed(&mut agent, &run(&["say", "push"]))?;
    ensure!(status == 7, "the script ended with {status}");
    for (path, arguments) in [
        (&script, vec!["say", "push"]),
        (&bench.path("sh"), vec![name.as_str(), "say", "push"]),
    ] {
        let wanted = Wanted::allow("exec")
            .path(path)
            .with("/object/args", arguments);
        bench.log.wait(&of(&agent, wanted))?;
    }
    Ok(())
}

/// `binfmt_misc`: a file without a `#!` line that the kernel hands to an interpreter.
fn registered_format(bench: &mut Bench) -> Result<()> {
    let registry = bench.path("formats");
    fs::create_dir(&registry)?;
    run_well(
        "mount",
        &["-t", "binfmt_misc", "none", &registry.to_string_lossy()],
    )?;
    let sh = text(bench, "sh");
    let line = format!(":agentguard-arguments:E::agarguments::{sh}:");
    fs::write(registry.join("register"), line)?;
    let outcome = of_a_format(bench);
    fs::write(registry.join("agentguard-arguments"), "-1")?;
    run_well("umount", &[&registry.to_string_lossy()])?;
    outcome
}

fn of_a_format(bench: &mut Bench) -> Result<()> {
    let file = bench.path("script.agarguments");
    fs::write(&file, "exit 7\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    let mut agent = bench.agent()?;
    let run = |arguments: &[&str]| exec(Birth::Fork, &file, arguments);
    let name = file.display().to_string();
    let wanted = killed("of-a-format")
        .path(bench.path("sh"))
        .with("/object/args", vec![name.as_str(), "tell"]);
    is_killed(bench, &mut agent, &run(&["tell"]), wanted)?;
    let wanted = Wanted::deny("exec", "format").path(&file);
    bench.denied(&mut agent, &run(&["push"]), wanted)?;
    let status = bench.allowed(&mut agent, &run(&["say"]))?;
    ensure!(status == 7, "the file ended with {status}");
    Ok(())
}

/// `int 0x80`: the list of arguments is of 4-byte addresses, which the first look doesn't read.
fn by_32_bit_calls(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let program = bench.path("touch");
    let run = |arguments: &[&str]| exec_32(&program, arguments);
    let good = text(bench, "good-32");
    let outcome = agent.act(&run(&[&good]))?;
    if outcome == Outcome::Failed(libc::ENOSYS) || outcome == Outcome::Killed(libc::SIGSEGV) {
        let config = fs::read_to_string(format!("/boot/config-{}", release()?)).unwrap_or_default();
        ensure!(
            config.contains("# CONFIG_IA32_EMULATION is not set"),
            "no 32-bit calls, and no proof that this kernel has none: {}",
            shown(outcome)
        );
        println!("skipped: this kernel has no 32-bit calls");
        return Ok(());
    }
    ensure!(outcome == Outcome::Done(0), "{}", shown(outcome));
    ensure!(Path::new(&good).exists(), "it was not run");
    let wanted = killed("push").with("/object/args", vec!["push", "32"]);
    is_killed(bench, &mut agent, &run(&["push", "32"]), wanted)
}

fn release() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?
        .trim()
        .to_owned())
}

/// `execveat` with `AT_EMPTY_PATH`, of a file and of a memfd.
fn by_descriptor(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let program = bench.path("touch");
    let run = |fd: i64, arguments: &[&str]| Act::Exec {
        birth: Birth::Fork,
        program: Program::Descriptor(fd as i32),
        arguments: std::iter::once("touch")
            .chain(arguments.iter().copied())
            .map(|text| text.as_bytes().to_vec())
            .collect(),
    };
    let good = text(bench, "good-fd");
    let fd = bench.allowed(
        &mut agent,
        &crate::remote::calls::open(&program, libc::O_PATH),
    )?;
    let wanted = Wanted::deny("exec", "push").path(&program);
    bench.denied(&mut agent, &run(fd, &["push"]), wanted)?;
    ensure!(bench.allowed(&mut agent, &run(fd, &[&good]))? == 0);

    let memfd = super::exec::memfd_of(bench, &mut agent, &program)?;
    let wanted = Wanted::deny("exec", "in-memory").path("memfd:");
    bench.denied(&mut agent, &run(memfd, &[&good, "hidden"]), wanted)?;
    let wanted = Wanted::allow("exec").path("memfd:");
    ensure!(bench.allowed_and_logged(&mut agent, &run(memfd, &[&good]), wanted)? == 0);
    Ok(())
}

fn too_long(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let long = "x".repeat(3_000);
    let longer = "x".repeat(5_000);
    // Any of them could be the bad file.
    let wanted = Wanted::refusal("exec", "arguments-too-long").path(bench.path("touch"));
    bench.denied(&mut agent, &touch(bench, &[&longer]), wanted.clone())?;
    bench.denied(&mut agent, &touch(bench, &[&long, &long]), wanted)?;
    // What can be judged whole is.
    let bad = text(bench, "bad");
    bench.denied(
        &mut agent,
        &touch(bench, &[&long, &bad]),
        Wanted::deny("exec", "bad-file"),
    )?;
    bench.allowed(&mut agent, &touch(bench, &[&long]))?;
    // What no rule says anything of beyond the first argument may be as long as it likes.
    let sh = exec(Birth::Fork, bench.path("sh"), &["--help", &longer, &longer]);
    bench.allowed(&mut agent, &sh)?;
    Ok(())
}

/// A thread rewrites the argument all the time while another runs the program: a name that is denied is never
/// what a program gets.
fn swapped(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (good, bad) = (text(bench, "cad"), text(bench, "bad"));
    let act = Act::SwappingExec {
        program: bench
            .path("touch")
            .to_string_lossy()
            .into_owned()
            .into_bytes(),
        argument: good.clone().into_bytes(),
        other: bad.clone().into_bytes(),
        times: 400,
    };
    bench.log.skip()?;
    let ran = bench.allowed(&mut agent, &act)?;
    ensure!(ran > 0, "the permitted twin was never run");
    ensure!(Path::new(&good).exists(), "the permitted twin left nothing");
    ensure!(!Path::new(&bad).exists(), "the denied name got through");
    bench.log.wait(&of(
        &agent,
        Wanted::action("exec")
            .with("/verdict", "deny")
            .with("/rule", "bad-file"),
    ))?;
    Ok(())
}

fn in_audit_mode(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent_under(&bench.second_profile())?;
    let wanted = Wanted::action("exec")
        .with("/verdict", "audit")
        .with("/would", "deny")
        .with("/rule", "push");
    bench.log.skip()?;
    bench.allowed(&mut agent, &touch(bench, &["push"]))?;
    let event = bench.log.wait(&of(&agent, wanted))?;
    ensure!(event.get("killed").is_none(), "nobody was killed: {event}");
    Ok(())
}

fn only_listed(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let rule = format!("{}/default", bench.profile);
    let listed = text(bench, "status");
    for arguments in [&[][..], &["x"], &[&listed, "x"]] {
        bench.denied(
            &mut agent,
            &touch(bench, arguments),
            Wanted::deny("exec", &rule),
        )?;
    }
    let other = exec(Birth::Fork, bench.path("sh"), &[&listed]);
    bench.denied(&mut agent, &other, Wanted::deny("exec", &rule))?;
    let wanted = Wanted::allow("exec").with("/rule", "status");
    ensure!(bench.allowed_and_logged(&mut agent, &touch(bench, &[&listed]), wanted)? == 0);
    Ok(())
}
