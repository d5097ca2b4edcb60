//! Files that are protected by name, under other names: hard links, mounts, other roots, moved parents. All
//! of these are made by somebody who is nobody's agent; an agent must not profit from them.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, run_well},
    log::Wanted,
    remote::{
        Act,
        calls::{call, chdir, on_path, open, open_at},
    },
    scene::Case,
};

/// The rules name a file, and a folder; what is in the folder has no rule of its own.
const LITERAL: &str = r#"
[[deny]]
id = "file"
file = "{dir}/one/key"

[[deny]]
id = "folder"
file = "{dir}/secret/**"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["one", "secret/deep", "open", "aliases", "parent/inner"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    for file in ["one/key", "one/twin", "secret/deep/key", "open/key"] {
        fs::write(dir.join(file), "content\n")?;
    }
    Ok(())
}

/// The folder with the rule is below one that has none.
const PARENT: &str = r#"
[[deny]]
id = "folder"
file = "{dir}/parent/inner/**"
"#;

fn parent_files(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("parent/inner"))?;
    fs::write(dir.join("parent/inner/key"), "content\n")?;
    fs::write(dir.join("parent/twin"), "content\n")?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let literal = |name, play| Case::new(name, play).policy(LITERAL).prepare(files);
    let parent = |name, play| Case::new(name, play).policy(PARENT).prepare(parent_files);
    vec![
        literal("file::hard_link_made_outside", hard_link),
        literal("file::bind_mount_made_outside", bind_mount),
        literal("file::bind_mount_of_a_part", bind_mount_of_a_part),
        literal("file::in_a_chroot", in_a_chroot),
        literal("file::in_a_mount_namespace", in_a_mount_namespace),
        literal("file::on_a_detached_mount", on_a_detached_mount),
        literal("file::replaced_by_another", replaced),
        parent("file::parent_moved_outside", parent_moved_outside),
        parent("file::parent_moved_by_the_agent", parent_moved_by_the_agent),
    ]
}

fn hard_link(bench: &mut Bench) -> Result<()> {
    let alias = bench.path("aliases/key");
    fs::hard_link(bench.path("one/key"), &alias)?;
    fs::hard_link(bench.path("one/twin"), bench.path("aliases/twin"))?;
    symlink("key", bench.path("aliases/link"))?;
    let mut agent = bench.agent()?;
    let wanted = Wanted::deny("file.open", "file").path(&alias);
    for name in ["aliases/key", "aliases/link"] {
        let act = open(bench.path(name), libc::O_RDONLY);
        bench.denied(&mut agent, &act, wanted.clone())?;
    }
    let act = on_path(libc::SYS_truncate, &alias, [0]);
    bench.denied(&mut agent, &act, wanted)?;
    let twin = open(bench.path("aliases/twin"), libc::O_RDWR);
    bench.allowed(&mut agent, &twin)?;
    Ok(())
}

/// What the rule names is not below the alias at all: the file is still in that folder.
fn bind_mount_of_a_part(bench: &mut Bench) -> Result<()> {
    let alias = bench.path("aliases");
    let mut agent = bench.agent()?;
    let _mount = Mount::bind(&bench.path("secret/deep"), &alias)?;
    let key = alias.join("key");
    let wanted = Wanted::deny("file.open", "folder").path(&key);
    bench.denied(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
    Ok(())
}

/// A bind mount that goes with its guard.
struct Mount(String);

impl Mount {
    fn bind(from: &Path, to: &Path) -> Result<Self> {
        let to = to.display().to_string();
        run_well("mount", &["--bind", &from.display().to_string(), &to])?;
        Ok(Self(to))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run_well("umount", &[&self.0]);
    }
}

fn bind_mount(bench: &mut Bench) -> Result<()> {
    let alias = bench.path("aliases");
    let mut agent = bench.agent()?;
    {
        let _mount = Mount::bind(&bench.path("secret"), &alias)?;
        let key = alias.join("deep/key");
        let wanted = Wanted::deny("file.open", "folder").path(&key);
        bench.denied(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
        let new = alias.join("new");
        let wanted = Wanted::deny("file.create", "folder").path(&new);
        let act = open(&new, libc::O_WRONLY | libc::O_CREAT);
        bench.denied(&mut agent, &act, wanted)?;
        ensure!(!new.exists(), "{} was created", new.display());
    }
    {
        // The single file.
        let target = bench.path("open/key");
        let _mount = Mount::bind(&bench.path("one/key"), &target)?;
        let wanted = Wanted::deny("file.open", "file").path(&target);
        bench.denied(&mut agent, &open(&target, libc::O_RDONLY), wanted)?;
    }
    let _mount = Mount::bind(&bench.path("open"), &alias)?;
    let twin = open(alias.join("key"), libc::O_RDONLY);
    bench.allowed(&mut agent, &twin)?;
    Ok(())
}

fn in_a_chroot(bench: &mut Bench) -> Result<()> {
    let before = [on_path(libc::SYS_chroot, &bench.dir, []), chdir("/")];
    let (mut agent, _cgroup) = bench.tagged_after(&before)?;
    for (name, rule) in [("one/key", "file"), ("secret/deep/key", "folder")] {
        let act = open(format!("/{name}"), libc::O_RDONLY);
        let wanted = Wanted::deny("file.open", rule).path(bench.path(name));
        bench.denied(&mut agent, &act, wanted)?;
    }
    let wanted = Wanted::allow("file.open").path(bench.path("open/key"));
    bench.allowed_and_logged(&mut agent, &open("/open/key", libc::O_RDWR), wanted)?;
    Ok(())
}

/// `mount`, bind.
fn bind(from: &Path, to: &Path) -> Act {
    call(
        libc::SYS_mount,
        [
            from.into(),
            to.into(),
            0.into(),
            (libc::MS_BIND as i64).into(),
            0.into(),
        ],
    )
}

/// Whatever is mounted from now on stays out of the other namespaces.
fn make_private() -> Act {
    let flags = (libc::MS_REC | libc::MS_PRIVATE) as i64;
    let arguments = [0.into(), "/".into(), 0.into(), flags.into(), 0.into()];
    call(libc::SYS_mount, arguments)
}

fn in_a_mount_namespace(bench: &mut Bench) -> Result<()> {
    let alias = bench.path("aliases");
    let before = [
        call(libc::SYS_unshare, [libc::CLONE_NEWNS.into()]),
        make_private(),
        bind(&bench.path("secret"), &alias),
        // The name of one file now shows another.
        bind(&bench.path("one/key"), &bench.path("open/key")),
    ];
    let (mut agent, _cgroup) = bench.tagged_after(&before)?;
    for (name, rule) in [
        ("one/key", "file"),
        ("open/key", "file"),
        ("secret/deep/key", "folder"),
        ("aliases/deep/key", "folder"),
    ] {
        let path = bench.path(name);
        let wanted = Wanted::deny("file.open", rule).path(&path);
        bench.denied(&mut agent, &open(&path, libc::O_RDONLY), wanted)?;
    }
    let twin = bench.path("one/twin");
    let wanted = Wanted::allow("file.open").path(&twin);
    bench.allowed_and_logged(&mut agent, &open(&twin, libc::O_RDWR), wanted)?;
    Ok(())
}

fn on_a_detached_mount(bench: &mut Bench) -> Result<()> {
    // include/uapi/linux/mount.h
    const OPEN_TREE_CLONE: i32 = 1;
    let open_tree = call(
        libc::SYS_open_tree,
        [
            libc::AT_FDCWD.into(),
            bench.dir.as_path().into(),
            OPEN_TREE_CLONE.into(),
        ],
    );
    let (mut agent, _cgroup) = bench.tagged_after(&[open_tree, call(libc::SYS_getpid, [])])?;
    // The first descriptor after the three standard ones.
    let tree = 3;
    let by_rule = open_at(tree, "one/key", libc::O_RDONLY);
    bench.denied(&mut agent, &by_rule, Wanted::deny("file.open", "file"))?;
    let by_folder = open_at(tree, "secret/deep/key", libc::O_RDONLY);
    bench.denied(&mut agent, &by_folder, Wanted::deny("file.open", "folder"))?;
    // Text that anybody could have made up can't allow anything.
    let unnamed = open_at(tree, "open/key", libc::O_RDONLY);
    bench.denied(
        &mut agent,
        &unnamed,
        Wanted::refusal("file.open", "detached"),
    )?;
    bench.allowed(&mut agent, &open(bench.path("open/key"), libc::O_RDONLY))?;
    Ok(())
}

/// What a rule names literally is another file now: the new one is protected as the old one was.
fn replaced(bench: &mut Bench) -> Result<()> {
    let key = bench.path("one/key");
    fs::rename(bench.path("open/key"), &key)?;
    fs::hard_link(&key, bench.path("aliases/new"))?;
    let mut agent = bench.agent()?;
    let wanted = Wanted::deny("file.open", "file");
    bench.denied(&mut agent, &open(&key, libc::O_RDONLY), wanted.clone())?;
    // The daemon hears of the new file a moment later; until then only its name protects it.
    let alias = open(bench.path("aliases/new"), libc::O_RDONLY);
    crate::daemon::wait_until("the new file is known by its identity", || {
        Ok(agent.act(&alias)? == crate::remote::Outcome::Failed(libc::EPERM))
    })?;
    bench.denied(&mut agent, &alias, wanted)?;
    Ok(())
}

fn parent_moved_outside(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let moved = bench.path("elsewhere");
    fs::rename(bench.path("parent"), &moved)?;
    let key = moved.join("inner/key");
    let wanted = Wanted::deny("file.open", "folder").path(&key);
    bench.denied(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
    bench.allowed(&mut agent, &open(moved.join("twin"), libc::O_RDONLY))?;
    Ok(())
}

/// Whether the move itself is refused or what was moved stays protected: nothing is gained.
fn parent_moved_by_the_agent(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (from, to) = (bench.path("parent"), bench.path("elsewhere"));
    let act = crate::remote::calls::on_paths(libc::SYS_rename, &from, &to);
    agent.act(&act)?;
    let place = if to.exists() { to } else { from };
    let key = open(place.join("inner/key"), libc::O_RDONLY);
    bench.denied(&mut agent, &key, Wanted::deny("file.open", "folder"))?;
    bench.allowed(&mut agent, &open(place.join("twin"), libc::O_RDONLY))?;
    Ok(())
}
