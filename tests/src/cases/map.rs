//! Files that become code without being run: mapped by hand, as libraries, by a loader that is run as the program,
//! as the interpreter that an ELF file asks for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::exec::memfd_of;
use crate::{
    bench::{Bench, run_well},
    log::Wanted,
    remote::{
        Act, Birth, Outcome, Remote,
        calls::{call, exec, open},
    },
    scene::Case,
};

/// Programs of one folder may not be run.
const DENIED: &str = r#"
[[deny]]
id = "denied"
exec = "{dir}/denied/**"
"#;

/// One may not be run with an argument, and anything without a name may be.
const ARGUMENTS: &str = r#"
[[deny]]
id = "denied"
exec = "{dir}/denied/curl"
args = ["--help", "**"]

[[allow]]
exec = "memfd:"
"#;

/// The same as the first, and nothing that is allowed is logged.
const SILENT: &str = r#"
[log]
allow = "none"

[[deny]]
id = "denied"
exec = "{dir}/denied/**"
"#;

/// Only what lies in one folder may be run, and Python.
const ONLY: &str = r#"
[default]
file = "allow"
exec = "deny"
connect = "deny"
listen = "deny"

[[allow]]
exec = ["{dir}/open/*", "/usr/bin/python3*", "/usr/local/bin/agentguard-guest"]
"#;

const LOADER: &str = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
/// What `curl` is given to do.
const WORK: [&str; 4] = ["-s", "-o", "/dev/null", "file:///proc/version"];
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libz.so.1";

/// A program that needs libraries, a library, and the loader itself.
fn programs(dir: &Path) -> Result<()> {
    for folder in ["denied", "open"] {
        let folder = dir.join(folder);
        fs::create_dir_all(&folder)?;
        for (from, name) in [
            ("/usr/bin/curl", "curl"),
            (LIBRARY, "libz.so.1"),
            (LOADER, "loader"),
        ] {
            fs::copy(from, folder.join(name)).context(from)?;
        }
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let denied = |name, play| Case::new(name, play).policy(DENIED).prepare(programs);
    vec![
        denied("map::by_hand", by_hand).second(ARGUMENTS),
        denied("map::loader_as_the_program", loader_as_the_program).second(ARGUMENTS),
        denied("map::preloaded_library", preloaded),
        denied("map::interpreter_of_a_program", interpreter),
        denied("map::file_without_a_name", without_a_name).second(ARGUMENTS),
        denied("map::what_was_mapped_before", before).second(SILENT),
        denied("map::on_an_overlay", on_an_overlay),
        Case::new("map::only_what_is_listed", only_listed)
            .policy(ONLY)
            .prepare(programs),
    ]
}

fn denial() -> Wanted {
    Wanted::deny("exec", "denied").with("/object/mapped", true)
}

const READ: i32 = libc::PROT_READ;
const CODE: i32 = libc::PROT_READ | libc::PROT_EXEC;
/// Of a mapping, in bytes.
const PAGE: usize = 4096;

fn mapped(fd: i64, protection: i32) -> Act {
    call(
        libc::SYS_mmap,
        [
            0.into(),
            PAGE.into(),
            protection.into(),
            libc::MAP_PRIVATE.into(),
            fd.into(),
            0.into(),
        ],
    )
}

fn protected(address: i64, protection: i32) -> Act {
    call(
        libc::SYS_mprotect,
        [address.into(), PAGE.into(), protection.into()],
    )
}

/// What is denied and its twin, mapped as code at once and in two steps.
fn pair(
    bench: &mut Bench,
    agent: &mut Remote,
    denied: &Path,
    twin: &Path,
    wanted: &Wanted,
) -> Result<()> {
    let fd = bench.allowed(agent, &open(denied, libc::O_RDONLY))?;
    let wanted = wanted.clone().path(denied);
    bench.denied(agent, &mapped(fd, CODE), wanted.clone())?;
    let address = bench.allowed(agent, &mapped(fd, READ))?;
    bench.denied(agent, &protected(address, CODE), wanted)?;
    bench.allowed(agent, &protected(address, READ))?;

    let fd = bench.allowed(agent, &open(twin, libc::O_RDONLY))?;
    bench.allowed(agent, &mapped(fd, CODE))?;
    let address = bench.allowed(agent, &mapped(fd, READ))?;
    bench.allowed(agent, &protected(address, CODE))?;
    Ok(())
}

fn by_hand(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for name in ["curl", "libz.so.1"] {
        let (denied, twin) = (
            bench.path("denied").join(name),
            bench.path("open").join(name),
        );
        pair(bench, &mut agent, &denied, &twin, &denial())?;
    }
    // What may not be run with some arguments may not be mapped, since nobody knows with which it goes on.
    let mut agent = bench.agent_under(&bench.second_profile())?;
    let (denied, twin) = (bench.path("denied/curl"), bench.path("open/curl"));
    pair(bench, &mut agent, &denied, &twin, &denial())
}

/// Fails in the new program's own way, and is in the log.
fn fails(bench: &mut Bench, agent: &mut Remote, act: &Act, path: &Path) -> Result<()> {
    bench.log.skip()?;
    let outcome = agent.act(act)?;
    ensure!(
        matches!(outcome, Outcome::Done(1..) | Outcome::Killed(_)),
        "{act:?}: {outcome:?}"
    );
    bench.log.wait(&denial().path(path)).map(drop)
}

fn loader_as_the_program(bench: &mut Bench) -> Result<()> {
    for profile in [bench.profile.clone(), bench.second_profile()] {
        let mut agent = bench.agent_under(&profile)?;
        let load = |program: &Path| {
            let program = program.display().to_string();
            exec(
                Birth::Fork,
                LOADER,
                &[&[program.as_str()], &WORK[..]].concat(),
            )
        };
        let denied = bench.path("denied/curl");
        fails(bench, &mut agent, &load(&denied), &denied)?;
        let status = bench.allowed(&mut agent, &load(&bench.path("open/curl")))?;
        ensure!(status == 0, "the twin ended with {status}");
    }
    Ok(())
}

/// A program that succeeds when the library is loaded into it. glibc goes on without one that it can't preload.
fn preloading(library: &Path) -> Act {
    let library = library.display();
    let found =
        format!("any('{library}' in line and 'r-x' in line for line in open('/proc/self/maps'))");
    let script = format!("LD_PRELOAD={library} /usr/bin/python3 -ISc \"assert {found}\"");
    exec(Birth::Fork, "/bin/sh", &["-c", &script])
}

fn preloaded(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (denied, twin) = (bench.path("denied/libz.so.1"), bench.path("open/libz.so.1"));
    fails(bench, &mut agent, &preloading(&denied), &denied)?;
    let status = bench.allowed(&mut agent, &preloading(&twin))?;
    ensure!(status == 0, "the twin ended with {status}");
    Ok(())
}

/// A copy of a program with another `PT_INTERP`.
fn with_interpreter(program: &Path, interpreter: &str) -> Result<()> {
    const USUAL: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
    let mut bytes = fs::read("/usr/bin/curl")?;
    let at = bytes
        .windows(USUAL.len())
        .position(|window| window == USUAL)
        .context("the program has no interpreter")?;
    ensure!(interpreter.len() < USUAL.len(), "too long: {interpreter}");
    bytes[at..at + USUAL.len()].fill(0);
    bytes[at..at + interpreter.len()].copy_from_slice(interpreter.as_bytes());
    fs::write(program, bytes)?;
    fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

fn interpreter(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (folder, is_denied) in [("denied", true), ("open", false)] {
        // A name short enough to take the usual one's place.
        let link = format!("/tmp/loader-{folder}");
        let loader = bench.path(folder).join("loader");
        let program = bench.path("open").join(folder);
        std::os::unix::fs::symlink(&loader, &link)?;
        let made = with_interpreter(&program, &link);
        let run = exec(Birth::Fork, &program, &WORK);
        let outcome = made.and_then(|()| {
            if is_denied {
                // There is no way back from an exec that has come this far: the process dies.
                fails(bench, &mut agent, &run, &loader)
            } else {
                let status = bench.allowed(&mut agent, &run)?;
                ensure!(status == 0, "the twin ended with {status}");
                Ok(())
            }
        });
        fs::remove_file(&link)?;
        outcome?;
    }
    Ok(())
}

fn without_a_name(bench: &mut Bench) -> Result<()> {
    let library = bench.path("open/libz.so.1");
    let mut agent = bench.agent()?;
    let memfd = memfd_of(bench, &mut agent, &library)?;
    let wanted = Wanted::refusal("exec", "no-path").path("memfd:");
    bench.denied(&mut agent, &mapped(memfd, CODE), wanted)?;
    bench.allowed(&mut agent, &mapped(memfd, READ))?;
    // Memory that is no file's is how JITs work.
    let memory = call(
        libc::SYS_mmap,
        [
            0.into(),
            PAGE.into(),
            CODE.into(),
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into(),
            (-1).into(),
            0.into(),
        ],
    );
    bench.allowed(&mut agent, &memory)?;

    let mut agent = bench.agent_under(&bench.second_profile())?;
    let memfd = memfd_of(bench, &mut agent, &library)?;
    bench.allowed(&mut agent, &mapped(memfd, CODE))?;
    Ok(())
}

/// A library that was mapped may be again, until it is called otherwise or has no name any more; and being opened is not
/// being mapped.
fn before(bench: &mut Bench) -> Result<()> {
    for profile in [bench.profile.clone(), bench.second_profile()] {
        let mut agent = bench.agent_under(&profile)?;
        let (here, there) = (bench.path("open/libz.so.1"), bench.path("denied/moved"));
        let fd = bench.allowed(&mut agent, &open(&here, libc::O_RDONLY))?;
        for _ in 0..3 {
            for _ in 0..3 {
                bench.allowed(&mut agent, &open(&here, libc::O_RDONLY))?;
                bench.allowed(&mut agent, &mapped(fd, CODE))?;
            }
            fs::rename(&here, &there)?;
            for _ in 0..3 {
                bench.allowed(&mut agent, &open(&there, libc::O_RDONLY))?;
                let wanted = denial().path(&there);
                bench.denied(&mut agent, &mapped(fd, CODE), wanted)?;
            }
            fs::rename(&there, &here)?;
        }
        bench.allowed(&mut agent, &mapped(fd, CODE))?;
        fs::hard_link(&here, &there)?;
        let other = bench.allowed(&mut agent, &open(&there, libc::O_RDONLY))?;
        for _ in 0..3 {
            bench.denied(&mut agent, &mapped(other, CODE), denial().path(&there))?;
            bench.allowed(&mut agent, &mapped(fd, CODE))?;
        }
        fs::remove_file(&there)?;
        bench.allowed(&mut agent, &mapped(fd, CODE))?;
        fs::remove_file(&here)?;
        let wanted = Wanted::refusal("exec", "no-path").path("deleted:");
        bench.denied(&mut agent, &mapped(fd, CODE), wanted)?;
        fs::copy(LIBRARY, &here)?;
    }
    Ok(())
}

/// An overlay over the case's folder, mounted there.
struct Overlay(PathBuf);

impl Overlay {
    fn mount(dir: &Path) -> Result<Self> {
        let at = dir.to_owned();
        let scratch = PathBuf::from("/run/overlay-of-the-case");
        for folder in ["upper", "work"] {
            fs::create_dir_all(scratch.join(folder))?;
        }
        let (at_text, scratch) = (at.display(), scratch.display());
        let options = format!("lowerdir={at_text},upperdir={scratch}/upper,workdir={scratch}/work");
        let at_text = at_text.to_string();
        run_well(
            "mount",
            &["-t", "overlay", "overlay", "-o", &options, &at_text],
        )?;
        Ok(Self(at))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = run_well("umount", &["-l", &self.0.display().to_string()]);
    }
}

/// What lies below an overlay is another file, on a mount that nobody sees.
fn on_an_overlay(bench: &mut Bench) -> Result<()> {
    let _overlay = Overlay::mount(&bench.dir)?;
    let mut agent = bench.agent()?;
    let (denied, twin) = (bench.path("denied/curl"), bench.path("open/curl"));
    pair(bench, &mut agent, &denied, &twin, &denial())?;
    let status = bench.allowed(&mut agent, &exec(Birth::Fork, &twin, &WORK))?;
    ensure!(status == 0, "the twin ended with {status}");
    Ok(())
}

fn only_listed(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let rule = format!("{}/default", bench.profile);
    let wanted = Wanted::deny("exec", &rule).with("/object/mapped", true);
    let (denied, twin) = (bench.path("denied/libz.so.1"), bench.path("open/libz.so.1"));
    pair(bench, &mut agent, &denied, &twin, &wanted)?;
    // The libraries of the machine go with the programs.
    let run = exec(Birth::Fork, bench.path("open/curl"), &WORK);
    ensure!(bench.allowed(&mut agent, &run)? == 0);
    let run = exec(Birth::Fork, "/usr/bin/python3", &["-ISc", "import zlib"]);
    ensure!(bench.allowed(&mut agent, &run)? == 0);
    // A loader doesn't, as a program.
    let load = exec(Birth::Fork, LOADER, &["/usr/bin/curl"]);
    bench.denied(&mut agent, &load, Wanted::deny("exec", &rule).path(LOADER))?;
    // Nor programs that lie among libraries: they are loaded by whoever may run.
    let fd = bench.allowed(&mut agent, &open("/usr/bin/curl", libc::O_RDONLY))?;
    bench.denied(&mut agent, &mapped(fd, CODE), wanted.path("/usr/bin/curl"))?;
    Ok(())
}
