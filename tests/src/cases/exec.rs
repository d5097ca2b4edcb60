//! Running programs: in every way there is to run one, and from files that have no name.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Birth, Outcome, Program, Remote,
        calls::{call, exec, open, unlink},
    },
    scene::Case,
};

/// Programs of one folder may not be run.
const DENIED: &str = r#"
[[deny]]
id = "denied"
exec = "{dir}/denied/**"
because = "Not this one."
"#;

/// The same, and programs without a name may be run.
const NAMELESS: &str = r#"
[[allow]]
exec = ["memfd:", "deleted:"]
"#;

/// Only one program may be run.
const ONLY: &str = r#"
[default]
file = "allow"
exec = "deny"
connect = "deny"
listen = "deny"

[[allow]]
exec = ["{dir}/open/*", "/usr/local/bin/agentguard-guest"]
"#;

/// Ways to make a process that runs a program.
const BIRTHS: [Birth; 4] = [Birth::Fork, Birth::Vfork, Birth::Clone3, Birth::Spawn];

/// Copies of busybox, which is what its name says.
fn programs(dir: &Path) -> Result<()> {
    for folder in ["denied", "open"] {
        let folder = dir.join(folder);
        fs::create_dir_all(&folder)?;
        for name in ["true", "sh"] {
            fs::copy("/bin/busybox", folder.join(name))?;
        }
    }
    for (name, interpreter) in [
        ("denied/script", "open/sh"),
        ("open/script", "open/sh"),
        ("open/script-of-denied", "denied/sh"),
    ] {
        let path = dir.join(name);
        let interpreter = dir.join(interpreter);
        fs::write(&path, format!("#!{}\nexit 7\n", interpreter.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let denied = |name, play| Case::new(name, play).policy(DENIED).prepare(programs);
    vec![
        denied("exec::by_every_kind_of_child", every_child),
        denied("exec::script_and_its_interpreter", scripts),
        denied("exec::by_descriptor", by_descriptor),
        denied("exec::from_a_thread", from_a_thread),
        denied("exec::without_a_name", without_a_name).second(NAMELESS),
        denied("exec::by_a_shell", by_a_shell),
        Case::new("exec::only_what_is_listed", only_listed)
            .policy(ONLY)
            .prepare(programs),
    ]
}

fn denial() -> Wanted {
    Wanted::deny("exec", "denied").with("/because", "Not this one.")
}

fn every_child(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (denied, twin) = (bench.path("denied/true"), bench.path("open/true"));
    for birth in BIRTHS {
        let wanted = denial().path(&denied);
        let event = bench.denied(&mut agent, &exec(birth, &denied, &[]), wanted)?;
        ensure!(
            event.pointer("/object/access").is_none(),
            "a program has no accesses: {event}"
        );
        let wanted = Wanted::allow("exec").path(&twin);
        let status = bench.allowed_and_logged(&mut agent, &exec(birth, &twin, &[]), wanted)?;
        ensure!(status == 0, "{birth:?}: the program ended with {status}");
    }
    Ok(())
}

fn scripts(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let script = bench.path("denied/script");
    let wanted = denial().path(&script);
    bench.denied(&mut agent, &exec(Birth::Fork, &script, &[]), wanted)?;

    let script = bench.path("open/script-of-denied");
    let wanted = denial().path(bench.path("denied/sh"));
    bench.denied(&mut agent, &exec(Birth::Fork, &script, &[]), wanted)?;

    let script = bench.path("open/script");
    bench.log.skip()?;
    let status = bench.allowed(&mut agent, &exec(Birth::Fork, &script, &[]))?;
    ensure!(status == 7, "the script ended with {status}");
    for path in [script, bench.path("open/sh")] {
        bench.log.wait(&Wanted::allow("exec").path(path))?;
    }
    Ok(())
}

/// `execveat` of a descriptor.
fn run_descriptor(fd: i64, name: &Path) -> Act {
    Act::Exec {
        birth: Birth::Fork,
        program: Program::Descriptor(fd as i32),
        arguments: vec![name.as_os_str().as_bytes().to_vec()],
    }
}

fn by_descriptor(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for flags in [libc::O_PATH, libc::O_RDONLY] {
        for (folder, is_denied) in [("denied", true), ("open", false)] {
            let path = bench.path(folder).join("true");
            let fd = bench.allowed(&mut agent, &open(&path, flags))?;
            let direct = run_descriptor(fd, &path);
            let through_proc = Act::Exec {
                birth: Birth::Fork,
                program: Program::Path(format!("/proc/self/fd/{fd}").into_bytes()),
                arguments: vec![b"true".to_vec()],
            };
            for act in [direct, through_proc] {
                if is_denied {
                    bench.denied(&mut agent, &act, denial().path(&path))?;
                } else {
                    let wanted = Wanted::allow("exec").path(&path);
                    ensure!(bench.allowed_and_logged(&mut agent, &act, wanted)? == 0);
                }
            }
        }
    }
    Ok(())
}

fn from_a_thread(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let path = bench.path("denied/true");
    let in_thread = |path: &Path| Act::Thread(Box::new(exec(Birth::Vfork, path, &[])));
    bench.denied(&mut agent, &in_thread(&path), denial().path(&path))?;
    let twin = bench.path("open/true");
    ensure!(bench.allowed(&mut agent, &in_thread(&twin))? == 0);
    Ok(())
}

/// A memfd that holds a copy of a program.
///
/// # Errors
/// When it can't be made.
pub fn memfd_of(bench: &Bench, agent: &mut Remote, program: &Path) -> Result<i64> {
    let length = fs::metadata(program)?.len() as i64;
    let from = bench.allowed(agent, &open(program, libc::O_RDONLY))?;
    let memfd = call(libc::SYS_memfd_create, ["program".into(), 0.into()]);
    let memfd = bench.allowed(agent, &memfd)?;
    let copy = call(
        libc::SYS_sendfile,
        [memfd.into(), from.into(), 0.into(), length.into()],
    );
    let copied = bench.allowed(agent, &copy)?;
    ensure!(copied == length, "copied {copied} of {length} bytes");
    Ok(memfd)
}

fn without_a_name(bench: &mut Bench) -> Result<()> {
    let program = bench.path("open/true");
    let mut agent = bench.agent()?;
    let memfd = memfd_of(bench, &mut agent, &program)?;
    let wanted = Wanted::refusal("exec", "no-path").path("memfd:");
    bench.denied(&mut agent, &run_descriptor(memfd, &program), wanted)?;

    let deleted = bench.path("open/deleted");
    fs::copy(&program, &deleted)?;
    let fd = bench.allowed(&mut agent, &open(&deleted, libc::O_RDONLY))?;
    bench.allowed(&mut agent, &unlink(&deleted))?;
    let wanted = Wanted::refusal("exec", "no-path").path("deleted:");
    bench.denied(&mut agent, &run_descriptor(fd, &program), wanted)?;

    // A profile may say that it doesn't mind.
    let mut agent = bench.agent_under(&bench.second_profile())?;
    let memfd = memfd_of(bench, &mut agent, &program)?;
    let wanted = Wanted::allow("exec").path("memfd:");
    let act = run_descriptor(memfd, &program);
    ensure!(bench.allowed_and_logged(&mut agent, &act, wanted)? == 0);
    fs::copy(&program, &deleted)?;
    let fd = bench.allowed(&mut agent, &open(&deleted, libc::O_RDONLY))?;
    bench.allowed(&mut agent, &unlink(&deleted))?;
    let wanted = Wanted::allow("exec").path("deleted:");
    let act = run_descriptor(fd, &program);
    ensure!(bench.allowed_and_logged(&mut agent, &act, wanted)? == 0);
    Ok(())
}

/// Programs that run others for somebody: shells, `find`, `xargs`.
fn by_a_shell(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let shell = bench.path("open/sh");
    let run = |script: String| exec(Birth::Fork, &shell, &["-c", &script]);
    let (denied, twin) = (bench.path("denied/true"), bench.path("open/true"));
    for wrapper in ["", "exec ", "env ", "/usr/bin/xargs </dev/null "] {
        bench.log.skip()?;
        let outcome = agent.act(&run(format!("{wrapper}{}", denied.display())))?;
        ensure!(
            matches!(outcome, Outcome::Done(status) if status != 0),
            "`{wrapper}` ran it: {outcome:?}"
        );
        bench.log.wait(&denial().path(&denied))?;
        let act = run(format!("{wrapper}{}", twin.display()));
        ensure!(bench.allowed(&mut agent, &act)? == 0);
    }
    Ok(())
}

fn only_listed(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let rule = format!("{}/default", bench.profile);
    for path in [
        bench.path("denied/true").as_path(),
        Path::new("/bin/busybox"),
    ] {
        let wanted = Wanted::deny("exec", &rule);
        bench.denied(&mut agent, &exec(Birth::Spawn, path, &[]), wanted)?;
    }
    let listed = exec(Birth::Spawn, bench.path("open/true"), &[]);
    ensure!(bench.allowed(&mut agent, &listed)? == 0);
    Ok(())
}
