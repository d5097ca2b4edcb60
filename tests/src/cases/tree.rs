//! Changing the tree of names: what is created, deleted, renamed, linked, and whose it is. After a denial
//! the tree is as it was.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act,
        calls::{call, mkdir, on_path, on_paths, open, unlink},
    },
    scene::Case,
};

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

/// One access at a time, so that each is seen to be asked for by itself.
const BY_ACCESS: &str = r#"
[[deny]]
id = "no-create"
file = "{dir}/secret/create/**"
access = "create"

[[deny]]
id = "no-delete"
file = "{dir}/secret/delete/**"
access = "delete"

[[deny]]
id = "no-write"
file = "{dir}/secret/write/**"
access = "write"

[[deny]]
id = "no-metadata"
file = "{dir}/secret/metadata/**"
access = "metadata"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret/empty", "open/empty"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    for file in ["secret/key", "open/key", "open/other"] {
        fs::write(dir.join(file), "content\n")?;
    }
    Ok(())
}

fn files_by_access(dir: &Path) -> Result<()> {
    for access in ["create", "delete", "write", "metadata"] {
        let folder = dir.join("secret").join(access);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("key"), "content\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let secret = |name, play| Case::new(name, play).policy(SECRET).prepare(files);
    vec![
        secret("tree::create", create),
        secret("tree::delete", delete),
        secret("tree::rename", rename),
        secret("tree::link", link),
        secret("tree::truncate", truncate),
        secret("tree::mode_and_owner", mode_and_owner).policy(&format!(
            "{SECRET}\n[system]\ncapabilities = \"CAP_CHOWN\"\n"
        )),
        Case::new("tree::each_access_is_its_own", each_access)
            .policy(BY_ACCESS)
            .prepare(files_by_access),
    ]
}

/// Plays an act on a name in both folders: denied and without effect in one, allowed in the other.
fn both(
    bench: &mut Bench,
    agent: &mut crate::remote::Remote,
    (action, access): (&str, &str),
    name: &str,
    act: impl Fn(&Path) -> Act,
) -> Result<()> {
    let (secret, open) = (
        bench.path("secret").join(name),
        bench.path("open").join(name),
    );
    let before =
        fs::symlink_metadata(&secret).map(|data| (data.mode(), data.len(), data.ctime_nsec()));
    let wanted = Wanted::deny(action, "secret")
        .path(&secret)
        .access(&[access]);
    bench.denied(agent, &act(&secret), wanted)?;
    let after =
        fs::symlink_metadata(&secret).map(|data| (data.mode(), data.len(), data.ctime_nsec()));
    ensure!(
        before.as_ref().ok() == after.as_ref().ok(),
        "{} was changed by what was denied: {before:?}, {after:?}",
        secret.display()
    );
    let wanted = Wanted::allow(action).path(&open).access(&[access]);
    bench.allowed_and_logged(agent, &act(&open), wanted)?;
    Ok(())
}

fn create(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let what = ("file.create", "create");
    for (name, flags) in [
        ("created", libc::O_WRONLY | libc::O_CREAT),
        ("exclusive", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
        ("cut", libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC),
        ("read-only", libc::O_RDONLY | libc::O_CREAT),
    ] {
        both(bench, &mut agent, what, name, |path| open(path, flags))?;
    }
    both(bench, &mut agent, what, "folder", |path| mkdir(path))?;
    both(bench, &mut agent, what, "link", |path| {
        on_paths(libc::SYS_symlink, "target", path)
    })?;
    both(bench, &mut agent, what, "fifo", |path| {
        let mode = i64::from(libc::S_IFIFO | 0o600);
        on_path(libc::SYS_mknod, path, [mode, 0])
    })?;
    // A file without a name, that could be given one.
    let unnamed = |folder: &Path| open(folder, libc::O_RDWR | libc::O_TMPFILE);
    let wanted = Wanted::deny("file.open", "secret");
    bench.denied(&mut agent, &unnamed(&bench.path("secret")), wanted)?;
    bench.allowed(&mut agent, &unnamed(&bench.path("open")))?;
    Ok(())
}

fn delete(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let what = ("file.delete", "delete");
    both(bench, &mut agent, what, "key", |path| unlink(path))?;
    both(bench, &mut agent, what, "empty", |path| {
        on_path(libc::SYS_rmdir, path, [])
    })?;
    ensure!(!bench.path("open/key").exists());
    Ok(())
}

fn rename(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let move_it = |from: &Path, to: &Path| on_paths(libc::SYS_rename, from, to);
    let secret = bench.path("secret/key");
    let key = bench.path("open/key");

    let out = move_it(&secret, &bench.path("open/moved"));
    let wanted = Wanted::deny("file.rename", "secret").path(&secret);
    bench.denied(&mut agent, &out, wanted)?;

    let inside = bench.path("secret/new");
    let wanted = Wanted::deny("file.rename", "secret").path(&inside);
    bench.denied(&mut agent, &move_it(&key, &inside), wanted)?;

    let wanted = Wanted::deny("file.rename", "secret").path(&secret);
    bench.denied(&mut agent, &move_it(&key, &secret), wanted)?;

    // The folder itself, as an entry of its parent.
    let folder = bench.path("secret");
    let wanted = Wanted::deny("file.rename", "secret").path(&folder);
    let act = move_it(&folder, &bench.path("moved"));
    bench.denied(&mut agent, &act, wanted.clone())?;

    // Both change places with one call.
    let exchange = call(
        libc::SYS_renameat2,
        [
            libc::AT_FDCWD.into(),
            bench.path("open").as_path().into(),
            libc::AT_FDCWD.into(),
            folder.as_path().into(),
            (libc::RENAME_EXCHANGE as i32).into(),
        ],
    );
    bench.denied(&mut agent, &exchange, wanted)?;
    ensure!(secret.exists() && !inside.exists());

    let to = bench.path("open/renamed");
    let wanted = Wanted::allow("file.rename").path(&to);
    bench.allowed_and_logged(&mut agent, &move_it(&key, &to), wanted)?;
    ensure!(to.exists() && !key.exists());
    Ok(())
}

fn link(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let link = |from: &Path, to: &Path| on_paths(libc::SYS_link, from, to);
    let (secret, open) = (bench.path("secret/key"), bench.path("open/key"));

    let alias = bench.path("open/alias");
    let wanted = Wanted::deny("file.link", "secret").path(&secret);
    bench.denied(&mut agent, &link(&secret, &alias), wanted)?;
    ensure!(!alias.exists());

    let inside = bench.path("secret/alias");
    let wanted = Wanted::deny("file.link", "secret").path(&inside);
    bench.denied(&mut agent, &link(&open, &inside), wanted)?;
    ensure!(!inside.exists());

    let wanted = Wanted::allow("file.link").path(&alias);
    bench.allowed_and_logged(&mut agent, &link(&open, &alias), wanted)?;
    Ok(())
}

fn truncate(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    both(bench, &mut agent, ("file.open", "write"), "key", |path| {
        on_path(libc::SYS_truncate, path, [0])
    })?;
    ensure!(fs::read_to_string(bench.path("secret/key"))? == "content\n");
    ensure!(fs::read_to_string(bench.path("open/key"))?.is_empty());
    Ok(())
}

fn mode_and_owner(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let what = ("file.metadata", "metadata");
    both(bench, &mut agent, what, "key", |path| {
        on_path(libc::SYS_chmod, path, [0o777])
    })?;
    both(bench, &mut agent, what, "key", |path| {
        on_path(libc::SYS_chown, path, [1000, 1000])
    })?;
    both(bench, &mut agent, what, "empty", |path| {
        on_path(libc::SYS_lchown, path, [1000, 1000])
    })?;
    // Through a descriptor that only stands for a place.
    let key = bench.path("secret/key");
    let place = bench.allowed(&mut agent, &open(&key, libc::O_PATH))?;
    let act = call(
        libc::SYS_fchownat,
        [
            place.into(),
            "".into(),
            1000.into(),
            1000.into(),
            libc::AT_EMPTY_PATH.into(),
        ],
    );
    let wanted = Wanted::deny("file.metadata", "secret").path(&key);
    bench.denied(&mut agent, &act, wanted.clone())?;
    let act = on_path(libc::SYS_chmod, format!("/proc/self/fd/{place}"), [0o777]);
    bench.denied(&mut agent, &act, wanted)?;
    Ok(())
}

fn each_access(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    type OnFolder = fn(&Path) -> Act;
    let acts: [(&str, &str, OnFolder); 4] = [
        ("metadata", "file.metadata", |folder| {
            on_path(libc::SYS_chmod, folder.join("key"), [0o640])
        }),
        ("write", "file.open", |folder| {
            open(folder.join("key"), libc::O_WRONLY)
        }),
        ("create", "file.create", |folder| {
            open(folder.join("new"), libc::O_RDONLY | libc::O_CREAT)
        }),
        ("delete", "file.delete", |folder| unlink(folder.join("key"))),
    ];
    for (access, action, act) in acts {
        for folder in ["create", "delete", "write", "metadata"] {
            let act = act(&bench.path("secret").join(folder));
            if folder == access {
                let wanted = Wanted::deny(action, &format!("no-{access}")).access(&[access]);
                bench.denied(&mut agent, &act, wanted)?;
            } else {
                bench.allowed(&mut agent, &act)?;
            }
        }
    }
    Ok(())
}
