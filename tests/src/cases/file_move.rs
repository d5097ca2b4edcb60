//! Renaming and linking never lift a protection: what is denied under the old name is not had under a new
//! one, neither a file nor anything below a directory.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act,
        calls::{call, mkdir, on_paths, open},
    },
    scene::Case,
};

/// One access at a time, so that each is seen to be kept by itself.
const BY_ACCESS: &str = r#"
[[deny]]
id = "no-read"
file = "{dir}/no-read/**"
access = "read"

[[deny]]
id = "no-write"
file = "{dir}/no-write/**"
access = "write"

[[deny]]
id = "no-create"
file = "{dir}/no-create/**"
access = "create"

[[deny]]
id = "no-delete"
file = "{dir}/no-delete/**"
access = "delete"

[[deny]]
id = "no-metadata"
file = "{dir}/no-metadata/**"
access = "metadata"
"#;

/// What the folders of [`BY_ACCESS`] are called after `no-`.
const ACCESSES: [&str; 5] = ["read", "write", "create", "delete", "metadata"];

fn files_by_access(dir: &Path) -> Result<()> {
    let denied = ACCESSES.map(|access| format!("no-{access}"));
    for folder in denied.iter().map(String::as_str).chain(["open"]) {
        fs::create_dir_all(dir.join(folder))?;
        for file in ["key", "other"] {
            fs::write(dir.join(folder).join(file), "content\n")?;
        }
    }
    Ok(())
}

/// What is below directories, and a file by its identity.
const BELOW: &str = r#"
[[deny]]
id = "keys"
file = "{dir}/home/.ssh/**"

[[deny]]
id = "hooks"
file = "{dir}/repo/.git/hooks/**"
access = ["write", "create", "delete"]

[[deny]]
id = "env"
file = "**/.env"

[[deny]]
id = "inside"
file = "{dir}/late/inner/*"
access = ["write", "create"]

[[deny]]
id = "literal"
file = "{dir}/one/key"
access = "write"
"#;

fn files_below(dir: &Path) -> Result<()> {
    for folder in [
        "home/.ssh",
        "repo/.git/hooks",
        "repo/src",
        "prepared/hooks",
        "plain/deep",
        "one",
        "aliases",
    ] {
        fs::create_dir_all(dir.join(folder))?;
    }
    for file in [
        "home/.ssh/key",
        "repo/src/main",
        "plain/.env",
        "plain/deep/file",
        "one/key",
        "one/twin",
    ] {
        fs::write(dir.join(file), "content\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let by_access = |name, play| {
        Case::new(name, play)
            .policy(BY_ACCESS)
            .prepare(files_by_access)
    };
    let below = |name, play| Case::new(name, play).policy(BELOW).prepare(files_below);
    vec![
        by_access("move::a_file_keeps_what_is_denied", keeps),
        by_access("move::exchange_of_two_files", exchange),
        by_access("move::onto_a_protected_file", onto),
        by_access("move::a_symlink_is_only_its_own_name", of_symlinks),
        by_access("move::a_name_for_a_file_without_one", unnamed),
        below("move::directories", directories),
        below("move::symlinks_in_the_place_of_folders", for_folders),
        below("move::by_another_name", by_identity),
    ]
}

fn rename(from: &Path, to: &Path) -> Act {
    on_paths(libc::SYS_rename, from, to)
}

fn exchanging(from: &Path, to: &Path) -> Act {
    let here = libc::AT_FDCWD;
    let flags = libc::RENAME_EXCHANGE as i32;
    let arguments = [
        here.into(),
        from.into(),
        here.into(),
        to.into(),
        flags.into(),
    ];
    call(libc::SYS_renameat2, arguments)
}

fn keeps(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let target = bench.path("open/new");
    for access in ACCESSES {
        let rule = format!("no-{access}");
        let folder = bench.path(&rule);
        let key = folder.join("key");
        for (action, call) in [
            ("file.rename", libc::SYS_rename),
            ("file.link", libc::SYS_link),
        ] {
            // Into the open, over what is there, and into a folder that is as strict about something else.
            let elsewhere = if access == "write" {
                "no-read"
            } else {
                "no-write"
            };
            for to in [
                target.clone(),
                bench.path("open/other"),
                bench.path(elsewhere).join("new"),
            ] {
                if call == libc::SYS_link && to.exists() {
                    continue;
                }
                let wanted = Wanted::deny(action, &rule).path(&key).access(&[access]);
                bench.denied(&mut agent, &on_paths(call, &key, &to), wanted)?;
                ensure!(key.exists() && !target.exists());
            }
        }
        // Within the folder nothing is lifted.
        let (twin, moved) = (folder.join("other"), folder.join("moved"));
        if !matches!(access, "create" | "delete") {
            let wanted = Wanted::allow("file.rename").path(&moved);
            bench.allowed_and_logged(&mut agent, &rename(&twin, &moved), wanted)?;
            ensure!(moved.exists() && !twin.exists());
        }
        if !matches!(access, "create" | "read") {
            let linked = folder.join("linked");
            bench.allowed(&mut agent, &on_paths(libc::SYS_link, &key, &linked))?;
        }
    }
    // The other way round there is more protection than before.
    let wanted = Wanted::allow("file.rename").path(bench.path("open/key"));
    let act = rename(&bench.path("open/key"), &bench.path("no-write/new"));
    bench.allowed_and_logged(&mut agent, &act, wanted)?;
    Ok(())
}

fn exchange(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (open, other) = (bench.path("open/key"), bench.path("open/other"));
    for access in ACCESSES {
        let rule = format!("no-{access}");
        let key = bench.path(&rule).join("key");
        for (from, to) in [(&open, &key), (&key, &open)] {
            let wanted = Wanted::deny("file.rename", &rule).path(&key);
            bench.denied(&mut agent, &exchanging(from, to), wanted)?;
        }
    }
    let wanted = Wanted::allow("file.rename")
        .path(&open)
        .access(&["create", "delete"]);
    bench.allowed_and_logged(&mut agent, &exchanging(&open, &other), wanted)?;
    Ok(())
}

/// What is overwritten is deleted.
fn onto(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let key = bench.path("no-delete/key");
    let wanted = Wanted::deny("file.rename", "no-delete")
        .path(&key)
        .access(&["create", "delete"]);
    let from = bench.path("open/key");
    bench.denied(&mut agent, &rename(&from, &key), wanted)?;
    ensure!(from.exists());
    let beside = bench.path("no-delete/new");
    let wanted = Wanted::allow("file.rename")
        .path(&beside)
        .access(&["create"]);
    bench.allowed_and_logged(&mut agent, &rename(&from, &beside), wanted)?;
    Ok(())
}

fn of_symlinks(bench: &mut Bench) -> Result<()> {
    let (to_key, from_key) = (bench.path("open/link"), bench.path("no-write/link"));
    symlink(bench.path("no-write/key"), &to_key)?;
    symlink(bench.path("open/key"), &from_key)?;
    let mut agent = bench.agent()?;
    bench.allowed(&mut agent, &rename(&to_key, &bench.path("open/link2")))?;
    let wanted = Wanted::deny("file.rename", "no-write").path(&from_key);
    bench.denied(&mut agent, &rename(&from_key, &to_key), wanted)?;
    Ok(())
}

fn unnamed(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut link = |bench: &mut Bench, folder: &str, to: &Path| -> Result<Act> {
        let act = open(bench.path(folder), libc::O_RDWR | libc::O_TMPFILE);
        let fd = bench.allowed(&mut agent, &act)?;
        let arguments = [
            libc::AT_FDCWD.into(),
            Path::new(&format!("/proc/self/fd/{fd}")).into(),
            libc::AT_FDCWD.into(),
            to.into(),
            libc::AT_SYMLINK_FOLLOW.into(),
        ];
        Ok(call(libc::SYS_linkat, arguments))
    };
    let protected = bench.path("no-create/named");
    let refused = link(bench, "open", &protected)?;
    let lifting = link(bench, "no-metadata", &bench.path("open/named"))?;
    let named = bench.path("open/named");
    let twin = link(bench, "open", &named)?;
    let wanted = Wanted::deny("file.link", "no-create").path(&protected);
    bench.denied(&mut agent, &refused, wanted)?;
    bench.denied(
        &mut agent,
        &lifting,
        Wanted::deny("file.link", "no-metadata"),
    )?;
    let wanted = Wanted::allow("file.link").path(&named);
    bench.allowed_and_logged(&mut agent, &twin, wanted)?;
    ensure!(named.exists() && !protected.exists());
    Ok(())
}

/// Of `late/inner` only what is in it is protected, and of `late` what is in that.
fn for_folders(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let late = bench.path("late");
    let refused =
        |action: &str, path: &Path| Wanted::refusal(action, "would-lift-protection").path(path);
    let made = |path: &Path| on_paths(libc::SYS_symlink, "plain", path);
    bench.denied(&mut agent, &made(&late), refused("file.create", &late))?;
    let beside = bench.path("later");
    let wanted = Wanted::allow("file.create")
        .path(&beside)
        .access(&["create"]);
    bench.allowed_and_logged(&mut agent, &made(&beside), wanted)?;
    // The folder itself may be made, and once more it is about what is in it.
    bench.allowed(&mut agent, &mkdir(&late))?;
    let inner = late.join("inner");
    bench.denied(&mut agent, &made(&inner), refused("file.create", &inner))?;
    let link = late.join("link");
    bench.allowed(&mut agent, &made(&link))?;
    let other = bench.path("plain/link");
    bench.allowed(&mut agent, &made(&other))?;
    // One that is there already.
    for link in [&link, &other, &beside] {
        bench.denied(
            &mut agent,
            &rename(link, &inner),
            refused("file.rename", &inner),
        )?;
        let linked = on_paths(libc::SYS_link, link.as_path(), inner.as_path());
        bench.denied(&mut agent, &linked, refused("file.link", &inner))?;
    }
    let wanted = Wanted::allow("file.rename").path(late.join("renamed"));
    bench.allowed_and_logged(&mut agent, &rename(&link, &late.join("renamed")), wanted)?;
    bench.allowed(&mut agent, &rename(&other, &bench.path("plain/deep/link")))?;
    // The folder is somebody's, and makes room for none either.
    bench.allowed(&mut agent, &mkdir(&inner))?;
    for act in [exchanging(&beside, &inner), exchanging(&inner, &beside)] {
        let wanted = Wanted::refusal("file.rename", "would-lift-protection");
        bench.denied(&mut agent, &act, wanted)?;
    }
    ensure!(fs::symlink_metadata(&inner)?.is_dir());
    Ok(())
}

fn directories(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let lifted = |path: &Path| Wanted::refusal("file.rename", "would-lift-protection").path(path);
    // A folder with protected ones below, and a prepared one that would get rules.
    for (from, to) in [
        ("home", "elsewhere"),
        ("repo", "elsewhere"),
        ("repo/.git", "repo/git"),
        ("prepared", "repo/.git"),
        ("prepared", "home"),
    ] {
        let (from, to) = (bench.path(from), bench.path(to));
        bench.denied(&mut agent, &rename(&from, &to), lifted(&from))?;
        ensure!(from.exists());
    }
    let (plain, repo) = (bench.path("plain"), bench.path("repo"));
    bench.denied(&mut agent, &exchanging(&plain, &repo), lifted(&plain))?;
    bench.denied(&mut agent, &exchanging(&repo, &plain), lifted(&repo))?;
    // The folder that the rule is about, by the rule.
    let keys = bench.path("home/.ssh");
    let wanted = Wanted::deny("file.rename", "keys").path(&keys);
    bench.denied(&mut agent, &rename(&keys, &bench.path("home/ssh")), wanted)?;
    // Rules about names that may be anywhere are in nobody's way.
    let renamed = bench.path("renamed");
    let wanted = Wanted::allow("file.rename").path(&renamed);
    bench.allowed_and_logged(&mut agent, &rename(&plain, &renamed), wanted)?;
    let wanted = Wanted::deny("file.open", "env");
    let act = open(renamed.join(".env"), libc::O_RDONLY);
    bench.denied(&mut agent, &act, wanted)?;
    let deep = bench.path("renamed/deep");
    bench.allowed(&mut agent, &rename(&deep, &bench.path("deep")))?;
    let source = bench.path("repo/src");
    bench.allowed(&mut agent, &rename(&source, &bench.path("repo/source")))?;
    Ok(())
}

/// A file that a rule names literally, under a name that no rule knows.
fn by_identity(bench: &mut Bench) -> Result<()> {
    let (alias, twin) = (bench.path("aliases/key"), bench.path("aliases/twin"));
    fs::hard_link(bench.path("one/key"), &alias)?;
    fs::hard_link(bench.path("one/twin"), &twin)?;
    let mut agent = bench.agent()?;
    let to = bench.path("aliases/new");
    let wanted = Wanted::deny("file.link", "literal")
        .path(&alias)
        .access(&["write"]);
    bench.denied(&mut agent, &on_paths(libc::SYS_link, &alias, &to), wanted)?;
    let wanted = Wanted::deny("file.rename", "literal").path(&alias);
    bench.denied(&mut agent, &rename(&alias, &to), wanted.clone())?;
    // A file that no rule names.
    bench.allowed(&mut agent, &on_paths(libc::SYS_link, &twin, &to))?;
    bench.allowed(&mut agent, &rename(&to, &bench.path("aliases/newer")))?;
    Ok(())
}
