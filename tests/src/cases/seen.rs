//! Files that an agent has opened before and may open again without being judged: until anything changes that the answer
//! followed from. Each of these opens a file, changes one thing, and opens it again.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{Bench, of, run_well},
    daemon::Daemon,
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{chdir, close, open},
    },
    said::Said,
    scene::{Case, Scene},
};

/// What is allowed here is not logged.
const RULES: &str = r#"
[log]
allow = "none"

[[deny]]
id = "closed"
file = "{dir}/closed/**"

[[deny]]
id = "written"
file = "{dir}/open/kept"
access = "write"
"#;

/// What is allowed here is, and says by which rule.
const LOGGED: &str = r#"
[[allow]]
id = "reading"
file = "{dir}/**"
access = "read"

[[deny]]
id = "closed"
file = "{dir}/closed/**"
"#;

/// The second profile closes what the first leaves open.
const OTHERS: &str = r#"
[log]
allow = "none"

[[deny]]
id = "open"
file = "{dir}/open/**"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in [
        "open/sub/deep",
        "closed/sub",
        "closed/mounted",
        "open/mounted",
    ] {
        fs::create_dir_all(dir.join(folder))?;
    }
    for file in [
        "open/key",
        "open/kept",
        "open/sub/key",
        "open/sub/deep/key",
        "closed/key",
    ] {
        fs::write(dir.join(file), "content\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(RULES).prepare(files);
    vec![
        case("seen::renamed", renamed),
        case("seen::a_folder_above_it_renamed", folder_renamed),
        case("seen::under_another_name", other_name),
        case("seen::on_another_mount", mounted),
        case("seen::on_a_mount_that_moves", mount_moved),
        case("seen::from_a_folder_that_moves", from_within),
        case("seen::for_another_access", other_access),
        case("seen::by_an_agent_under_another_profile", other_profile).second(OTHERS),
        case("seen::renamed_while_others_open_it", while_others_open),
        case("seen::before_a_reload", before_a_reload)
            .scene(Scene::OwnDaemon)
            .limit(300),
        Case::new("seen::every_open_has_its_event", logged)
            .policy(LOGGED)
            .prepare(files),
    ]
}

fn reads(path: impl AsRef<Path>) -> Act {
    Act::Sequence(vec![open(path, libc::O_RDONLY), close(Arg::Step(0))])
}

/// Opens it often enough that it is remembered, and is let go because of that.
fn remembered(bench: &Bench, agent: &mut Remote, path: &Path) -> Result<()> {
    for _ in 0..3 {
        bench.allowed(agent, &reads(path))?;
    }
    Ok(())
}

fn is_closed(bench: &mut Bench, agent: &mut Remote, path: &Path) -> Result<()> {
    let wanted = Wanted::deny("file.open", "closed").path(path);
    bench.denied(agent, &reads(path), wanted)?;
    Ok(())
}

fn renamed(bench: &mut Bench) -> Result<()> {
    let (here, there) = (bench.path("open/key"), bench.path("closed/moved"));
    let mut agent = bench.agent()?;
    for _ in 0..3 {
        remembered(bench, &mut agent, &here)?;
        fs::rename(&here, &there)?;
        is_closed(bench, &mut agent, &there)?;
        fs::rename(&there, &here)?;
    }
    remembered(bench, &mut agent, &here)
}

fn folder_renamed(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (here, there) = (bench.path("open/sub"), bench.path("closed/moved"));
    for file in ["key", "deep/key"] {
        remembered(bench, &mut agent, &here.join(file))?;
        fs::rename(&here, &there)?;
        is_closed(bench, &mut agent, &there.join(file))?;
        fs::rename(&there, &here)?;
        remembered(bench, &mut agent, &here.join(file))?;
    }
    Ok(())
}

/// Nothing is renamed here: a name comes, and another goes.
fn other_name(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let here = bench.path("open/key");
    // Under another name, and in another folder under the same.
    fs::remove_file(bench.path("closed/key"))?;
    for name in ["closed/other", "closed/key"] {
        let there = bench.path(name);
        remembered(bench, &mut agent, &here)?;
        fs::hard_link(&here, &there)?;
        for _ in 0..3 {
            is_closed(bench, &mut agent, &there)?;
            remembered(bench, &mut agent, &here)?;
        }
        fs::remove_file(&here)?;
        is_closed(bench, &mut agent, &there)?;
        fs::hard_link(&there, &here)?;
        remembered(bench, &mut agent, &here)?;
    }
    // In a folder that takes the place of the one that is gone.
    let (sub, twin) = (bench.path("open/sub"), bench.path("closed/sub"));
    remembered(bench, &mut agent, &sub.join("key"))?;
    fs::hard_link(sub.join("key"), bench.path("open/aside"))?;
    fs::remove_dir_all(&sub)?;
    fs::remove_dir(&twin)?;
    fs::create_dir(&twin)?;
    fs::hard_link(bench.path("open/aside"), twin.join("key"))?;
    is_closed(bench, &mut agent, &twin.join("key"))
}

fn mounted(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (here, there) = (bench.path("open"), bench.path("closed/mounted"));
    remembered(bench, &mut agent, &here.join("key"))?;
    let paths = [&here, &there].map(|path| path.display().to_string());
    run_well("mount", &["--bind", &paths[0], &paths[1]])?;
    let shown = (|| {
        for _ in 0..3 {
            is_closed(bench, &mut agent, &there.join("key"))?;
            remembered(bench, &mut agent, &here.join("key"))?;
        }
        Ok(())
    })();
    run_well("umount", &[&paths[1]])?;
    shown
}

fn mount_moved(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (here, there) = (bench.path("open/mounted"), bench.path("closed/mounted"));
    let paths = [&here, &there].map(|path| path.display().to_string());
    run_well("mount", &["-t", "tmpfs", "none", &paths[0]])?;
    fs::write(here.join("key"), "content\n")?;
    remembered(bench, &mut agent, &here.join("key"))?;
    run_well("mount", &["--move", &paths[0], &paths[1]])?;
    let shown = is_closed(bench, &mut agent, &there.join("key"));
    run_well("umount", &[&paths[1]])?;
    shown
}

/// What is remembered of an open that is logged are what its events say, each time.
fn logged(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let here = bench.path("open/key");
    // Longer than what is remembered.
    let long = bench.path(&format!("open/{}/{}", "l".repeat(120), "m".repeat(120)));
    fs::create_dir_all(long.parent().context("a folder")?)?;
    fs::write(&long, "content\n")?;
    let by_default = format!("{}/default", bench.profile);
    let is_logged = |bench: &mut Bench, agent: &mut Remote, path: &Path, flags| {
        for _ in 0..3 {
            bench.log.skip()?;
            bench.allowed(agent, &open(path, flags))?;
            let wanted = Wanted::allow("file.open").path(path);
            let wanted = match flags {
                libc::O_RDONLY => wanted.access(&["read"]).with("/rule", "reading"),
                _ => wanted.access(&["write"]).with("/rule", by_default.clone()),
            };
            bench.log.wait(&of(agent, wanted))?;
            // One event for each, and no more.
            let end = Wanted::deny("file.open", "closed");
            bench.fails(agent, &reads(bench.path("closed/key")), libc::EPERM)?;
            bench.log.wait(&of(agent, end))?;
            let opens = Wanted::allow("file.open").path(path);
            let events = bench.log.events()?.iter();
            let times = events.filter(|event| opens.fits(event)).count();
            ensure!(
                times == 1,
                "{times} events of one open of {}",
                path.display()
            );
        }
        Ok(())
    };
    is_logged(bench, &mut agent, &here, libc::O_RDONLY)?;
    is_logged(bench, &mut agent, &here, libc::O_WRONLY)?;
    is_logged(bench, &mut agent, &here, libc::O_RDONLY)?;
    is_logged(bench, &mut agent, &long, libc::O_RDONLY)?;
    let other = bench.path("open/other");
    fs::hard_link(&here, &other)?;
    is_logged(bench, &mut agent, &other, libc::O_RDONLY)?;
    is_logged(bench, &mut agent, &here, libc::O_RDONLY)?;
    let moved = bench.path("open/sub/moved");
    fs::rename(&here, &moved)?;
    is_logged(bench, &mut agent, &moved, libc::O_RDONLY)?;
    fs::rename(bench.path("open/sub"), bench.path("open/called"))?;
    is_logged(
        bench,
        &mut agent,
        &bench.path("open/called/moved"),
        libc::O_RDONLY,
    )?;
    let there = bench.path("closed/moved");
    fs::rename(bench.path("open/called/moved"), &there)?;
    is_closed(bench, &mut agent, &there)
}

/// Its own path doesn't change: it is looked up from where the agent stands.
fn from_within(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (here, there) = (bench.path("open/sub"), bench.path("closed/moved"));
    bench.allowed(&mut agent, &chdir(&here))?;
    remembered(bench, &mut agent, Path::new("key"))?;
    fs::rename(&here, &there)?;
    let wanted = Wanted::deny("file.open", "closed").path(there.join("key"));
    bench.denied(&mut agent, &reads("key"), wanted)?;
    fs::rename(&there, &here)?;
    remembered(bench, &mut agent, Path::new("key"))
}

fn other_access(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let path = bench.path("open/kept");
    remembered(bench, &mut agent, &path)?;
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC] {
        let wanted = Wanted::deny("file.open", "written").path(&path);
        bench.denied(&mut agent, &open(&path, flags), wanted)?;
        remembered(bench, &mut agent, &path)?;
    }
    Ok(())
}

fn other_profile(bench: &mut Bench) -> Result<()> {
    let path = bench.path("open/key");
    let mut one = bench.agent()?;
    let mut other = bench.agent_under(&bench.second_profile())?;
    for _ in 0..3 {
        remembered(bench, &mut one, &path)?;
        let wanted = Wanted::deny("file.open", "open").path(&path);
        bench.denied(&mut other, &reads(&path), wanted)?;
    }
    // And what the other may open, and the first may not.
    let path = bench.path("closed/key");
    for _ in 0..3 {
        remembered(bench, &mut other, &path)?;
        is_closed(bench, &mut one, &path)?;
    }
    Ok(())
}

/// Others open it all the time, under both names, so that answers are kept while it is renamed.
fn while_others_open(bench: &mut Bench) -> Result<()> {
    const TIMES: usize = 300;
    let (here, there) = (bench.path("open/key"), bench.path("closed/moved"));
    let opens = format!(
        "while True:\n  for path in ('{}', '{}'):\n    try: open(path).close()\n    except OSError: pass\n",
        here.display(),
        there.display()
    );
    let mut others = Vec::new();
    for _ in 0..2 {
        let name = bench.name();
        let others_are = Command::new("agentguard")
            .args(["run", "--profile", &bench.profile, "--name", &name, "--"])
            .args(["python3", "-c", &opens])
            .spawn()?;
        others.push(Killed(others_are));
        // It is at work.
        fs::rename(&here, &there)?;
        let wanted = Wanted::deny("file.open", "closed").path(&there);
        bench.log.wait(&wanted.agent(&name))?;
        fs::rename(&there, &here)?;
    }
    let mut agent = bench.agent()?;
    for _ in 0..TIMES {
        bench.allowed(&mut agent, &reads(&here))?;
        fs::rename(&here, &there)?;
        bench.fails(&mut agent, &reads(&there), libc::EPERM)?;
        fs::rename(&there, &here)?;
    }
    bench.log.skip()?;
    fs::rename(&here, &there)?;
    is_closed(bench, &mut agent, &there)
}

/// A process that ends with this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn before_a_reload(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let profile = bench.profile.clone();
    let folder = bench.path("policies");
    fs::create_dir_all(&folder)?;
    let write = |bench: &Bench, rules: &str| {
        let rules = rules.replace("{dir}", &bench.dir.display().to_string());
        fs::write(
            folder.join(format!("{profile}.toml")),
            format!("version = 1\nname = \"{profile}\"\n{rules}"),
        )
    };
    let defaults = "[default]\nfile = \"allow\"\nexec = \"allow\"\n";
    let open = format!("{defaults}{RULES}");
    write(bench, &open)?;
    let daemon = Daemon::start_with(&[Path::new("--policies"), &folder])?;
    let mut agent = bench.agent()?;
    let path = bench.path("open/key");
    // A pattern, and a name, which is known by its inode as well.
    for rule in ["{dir}/open/**", "{dir}/open/key"] {
        remembered(bench, &mut agent, &path)?;
        let more = format!("\n[[deny]]\nid = \"more\"\nfile = \"{rule}\"\n");
        write(bench, &format!("{open}{more}"))?;
        Said::by(&["reload"])?.ends(0)?;
        let wanted = Wanted::deny("file.open", "more").path(&path);
        bench.denied(&mut agent, &reads(&path), wanted)?;
        write(bench, &open)?;
        Said::by(&["reload"])?.ends(0)?;
    }
    remembered(bench, &mut agent, &path)?;
    daemon.stop()
}
