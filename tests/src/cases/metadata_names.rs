//! The names by which `metadata` is judged. The hooks don't say by which one a file was found, so every name counts
//! that it has in the agent's mount namespace.

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use super::metadata::{
    CAPABILITY, NO_CAPABILITIES, SECRET, acl, files, set_attribute, set_times, set_times_of, touch,
};
use crate::{
    bench::{Bench, run_well, shown},
    log::Wanted,
    remote::{
        Act, Arg, Outcome,
        calls::{call, chdir, on_path, open},
    },
    scene::Case,
};

/// Nothing but one folder, and not all of that.
const ONE_FOLDER: &str = r#"
[default]
file = { read = "allow", write = "allow", create = "allow", delete = "allow", metadata = "deny" }
exec = "allow"

[[allow]]
file = "{dir}/open/**"

[[deny]]
id = "alias"
file = "{dir}/alias/named/**"
access = "metadata"
"#;

/// As in a container: what the agent sees is an overlay, and its layers are there under other names.
const MERGED: &str = r#"
[default]
file = { read = "allow", write = "allow", create = "allow", delete = "allow", metadata = "deny" }
exec = "allow"

[[allow]]
file = "{dir}/merged/**"

[[deny]]
id = "secret"
file = "{dir}/upper/secret/**"
access = "metadata"
"#;

fn layers(dir: &Path) -> Result<()> {
    run_well(
        "mount",
        &["-t", "tmpfs", "none", &dir.display().to_string()],
    )?;
    for folder in ["lower/secret", "upper/secret", "work", "merged"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    for file in ["lower/key", "upper/new", "upper/secret/key"] {
        fs::write(dir.join(file), "content\n")?;
    }
    run_well("modprobe", &["overlay"])?;
    let dir = dir.display();
    let options = format!("lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work");
    let merged = format!("{dir}/merged");
    run_well("mount", &["-t", "overlay", "none", "-o", &options, &merged])?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let secret = |name, play| Case::new(name, play).policy(SECRET).prepare(files);
    let one_folder = |name, play| Case::new(name, play).policy(ONE_FOLDER).prepare(files);
    vec![
        secret("metadata::through_a_bind_mount", through_a_bind_mount),
        secret("metadata::in_a_mount_namespace", in_a_mount_namespace),
        one_folder("metadata::every_name_counts", every_name_counts),
        one_folder("metadata::descriptors_without_a_name", without_a_name),
        one_folder("metadata::too_many_names", too_many_names),
        Case::new("metadata::below_an_overlay", below_an_overlay)
            .policy(MERGED)
            .prepare(layers),
    ]
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

fn through_a_bind_mount(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let alias = bench.path("alias");
    let key = alias.join("key");
    let acts = || {
        [
            touch(&key),
            set_attribute(
                libc::SYS_setxattr,
                key.as_path(),
                CAPABILITY,
                &NO_CAPABILITIES,
            ),
            set_attribute(
                libc::SYS_setxattr,
                key.as_path(),
                "system.posix_acl_access",
                &acl(),
            ),
        ]
    };
    {
        let _mount = Mount::bind(&bench.path("secret"), &alias)?;
        for act in acts() {
            let wanted = Wanted::deny("file.metadata", "secret");
            bench.denied(&mut agent, &act, wanted)?;
        }
        // The name that has the rule itself.
        let wanted = Wanted::deny("file.metadata", "secret");
        bench.denied(&mut agent, &touch(bench.path("secret/key")), wanted)?;
    }
    let _mount = Mount::bind(&bench.path("open"), &alias)?;
    for act in acts() {
        bench.allowed(&mut agent, &act)?;
    }
    Ok(())
}

fn in_a_mount_namespace(bench: &mut Bench) -> Result<()> {
    let private = (libc::MS_REC | libc::MS_PRIVATE) as i64;
    let mount = |from: Arg, to: Arg, flags: i64| {
        call(
            libc::SYS_mount,
            [from, to, 0.into(), flags.into(), 0.into()],
        )
    };
    let (secret, alias) = (bench.path("secret"), bench.path("alias"));
    let before = [
        call(libc::SYS_unshare, [libc::CLONE_NEWNS.into()]),
        mount(0.into(), "/".into(), private),
        mount(
            secret.as_path().into(),
            alias.as_path().into(),
            libc::MS_BIND as i64,
        ),
    ];
    let (mut agent, _cgroup) = bench.tagged_after(&before)?;
    for name in ["secret/key", "alias/key"] {
        let wanted = Wanted::deny("file.metadata", "secret");
        bench.denied(&mut agent, &touch(bench.path(name)), wanted)?;
    }
    let free = bench.path("open/key");
    let wanted = Wanted::allow("file.metadata").path(&free);
    bench.allowed_and_logged(&mut agent, &touch(&free), wanted)?;

    // A descriptor of a file system that the namespace doesn't have any more.
    let dir = bench.dir.display().to_string();
    let before = [
        call(libc::SYS_unshare, [libc::CLONE_NEWNS.into()]),
        mount(0.into(), "/".into(), private),
        chdir("/"),
        open(&free, libc::O_PATH),
        call(
            libc::SYS_umount2,
            [Path::new(&dir).into(), libc::MNT_DETACH.into()],
        ),
    ];
    let (mut agent, _cgroup) = bench.tagged_after(&before)?;
    // The lowest number that was free.
    let fd = bench.allowed(&mut agent, &call(libc::SYS_dup, [3.into()]))?;
    let wanted = Wanted::refusal("file.metadata", "detached");
    let act = set_times(fd, "", libc::AT_EMPTY_PATH);
    bench.denied(&mut agent, &act, wanted)?;
    Ok(())
}

fn every_name_counts(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let other = bench.path("other/key");
    let default = format!("{}/default", bench.profile);
    let wanted = Wanted::deny("file.metadata", &default).path(&other);
    bench.denied(&mut agent, &touch(&other), wanted)?;
    let named = bench.path("open/named/key");
    bench.allowed(&mut agent, &touch(&named))?;
    let _mount = Mount::bind(&bench.path("open"), &bench.path("alias"))?;
    // Now it is also a file that has a rule against it, by whichever name it is found.
    for path in [&named, &bench.path("alias/named/key")] {
        let wanted = Wanted::deny("file.metadata", "alias").path(bench.path("alias/named/key"));
        bench.denied(&mut agent, &touch(path), wanted)?;
    }
    // The default has no say where a rule does, and here one allows.
    for path in ["open/key", "alias/key"] {
        let wanted = Wanted::allow("file.metadata").path(bench.path("open/key"));
        bench.allowed_and_logged(&mut agent, &touch(bench.path(path)), wanted)?;
    }
    let _other = Mount::bind(&bench.path("other"), &bench.path("alias"))?;
    let wanted = Wanted::deny("file.metadata", &default);
    bench.denied(&mut agent, &touch(bench.path("alias/key")), wanted)?;
    Ok(())
}

fn without_a_name(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let memory = call(libc::SYS_memfd_create, ["x".into(), 0.into()]);
    let memory = bench.allowed(&mut agent, &memory)?;
    let sockets = Act::SocketPair {
        kind: libc::SOCK_STREAM,
    };
    let socket = bench.allowed(&mut agent, &sockets)?;
    let queue = call(libc::SYS_epoll_create1, [0.into()]);
    let queue = bench.allowed(&mut agent, &queue)?;
    bench.allowed(&mut agent, &set_times_of(memory, None))?;
    bench.allowed(&mut agent, &set_times_of(socket, None))?;
    // What all such descriptors share is nobody's, and so says the kernel.
    let outcome = agent.act(&set_times_of(queue, None))?;
    ensure!(
        matches!(outcome, Outcome::Done(_)) || outcome == Outcome::Failed(libc::EOPNOTSUPP),
        "{}",
        shown(outcome)
    );
    // The standard input is a pipe.
    bench.allowed(&mut agent, &set_times_of(0, None))?;
    // Unnamed files are judged by their folder.
    let unnamed = |folder: &Path| {
        Act::Sequence(vec![
            open(folder, libc::O_RDWR | libc::O_TMPFILE),
            set_times_of(Arg::Step(0), None),
        ])
    };
    bench.allowed(&mut agent, &unnamed(&bench.path("open")))?;
    let default = format!("{}/default", bench.profile);
    let wanted = Wanted::deny("file.metadata", &default);
    bench.denied(&mut agent, &unnamed(&bench.path("other")), wanted)?;
    Ok(())
}

fn too_many_names(bench: &mut Bench) -> Result<()> {
    /// `NAMES` in agentguard-common/src/limits.rs, less the file's own.
    const MOUNTS: usize = 63;
    let mut agent = bench.agent()?;
    let open = bench.path("open");
    let mut mounts = Vec::new();
    for number in 0..=MOUNTS {
        let place = bench.dir.join(format!("names/{number}"));
        fs::create_dir_all(&place)?;
        mounts.push(Mount::bind(&open, &place)?);
    }
    let key = open.join("key");
    let wanted = Wanted::refusal("file.metadata", "too-many-aliases");
    bench.denied(&mut agent, &touch(&key), wanted)?;
    mounts.pop();
    bench.allowed(&mut agent, &touch(&key))?;
    Ok(())
}

fn below_an_overlay(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let merged = bench.path("merged");
    // The first of each has the overlay copy the file up with its times and attributes.
    for name in ["key", "new"] {
        let path = merged.join(name);
        let wanted = Wanted::allow("file.metadata").path(&path);
        bench.allowed_and_logged(&mut agent, &touch(&path), wanted.clone())?;
        let act = on_path(libc::SYS_chmod, &path, [0o640]);
        bench.allowed_and_logged(&mut agent, &act, wanted)?;
        bench.allowed(&mut agent, &open(&path, libc::O_WRONLY | libc::O_APPEND))?;
    }
    // By the layer's own name nothing has changed.
    let upper = bench.path("upper/new");
    let default = format!("{}/default", bench.profile);
    let wanted = Wanted::deny("file.metadata", &default).path(&upper);
    bench.denied(&mut agent, &touch(&upper), wanted)?;
    // A rule about the layer holds through the overlay.
    let wanted = Wanted::deny("file.metadata", "secret");
    let act = touch(merged.join("secret/key"));
    bench.denied(&mut agent, &act, wanted)?;
    Ok(())
}
