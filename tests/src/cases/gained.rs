//! Rights that a program's file brings along, by its setuid bit or its capabilities: an agent that runs it gains no
//! capability that its profile doesn't name, and under `agentguard run` nothing at all.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{PermissionsExt as _, chown},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{Bench, Cgroup, run_well},
    log::Wanted,
    remote::{
        Act, Arg, PROGRAM, Remote,
        calls::{call, forked, on_path, open},
    },
    scene::Case,
};

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret"
"#;

/// The same, and one capability.
const CHOWN: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret"

[system]
capabilities = ["CAP_CHOWN"]
"#;

const USER: u32 = 1000;

/// `struct vfs_cap_data` (include/uapi/linux/capability.h): version 2, effective, and as permitted: chown,
/// dac_override, kill, setuid, sys_admin, mknod.
fn capabilities() -> Vec<u8> {
    let permitted = [0, 1, 5, 7, 21, 27].map(|bit| 1_u32 << bit);
    let permitted = permitted.iter().fold(0, |all, bit| all | bit);
    [0x0200_0001, permitted, 0, 0, 0]
        .map(u32::to_le_bytes)
        .concat()
}

/// On a file system of its own, because files in that of the guest's root may have no capabilities.
fn files(dir: &Path) -> Result<()> {
    run_well(
        "mount",
        &["-t", "tmpfs", "none", &dir.display().to_string()],
    )?;
    for (name, mode) in [("setuid", 0o4755), ("capable", 0o755)] {
        let path = dir.join(name);
        fs::copy(PROGRAM, &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let value = capabilities();
    let path = std::ffi::CString::new(dir.join("capable").display().to_string())?;
    // SAFETY: both strings end in a NUL, and the value is as long as it says.
    let set = unsafe {
        libc::setxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    ensure!(set == 0, "{}", io::Error::last_os_error());
    for (name, owner) in [("secret", 0), ("roots", 0), ("others", 1001)] {
        let path = dir.join(name);
        fs::write(&path, "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        chown(&path, Some(owner), Some(owner))?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| {
        Case::new(name, play)
            .policy(SECRET)
            .second(CHOWN)
            .prepare(files)
    };
    vec![
        case("gained::by_setuid_programs", by_setuid),
        case("gained::by_file_capabilities", by_capabilities),
        case("gained::nothing_under_run", nothing_under_run),
    ]
}

/// An ordinary user's process, in a cgroup or not, that runs this program; nothing keeps it from gaining rights.
fn runs(program: &Path, cgroup: Option<&Cgroup>) -> Result<Remote> {
    let mut command = Command::new(program);
    command.uid(USER).gid(USER);
    if let Some(cgroup) = cgroup {
        let procs = File::options()
            .write(true)
            .open(cgroup.path.join("cgroup.procs"))?;
        // SAFETY: nothing but a system call is made.
        unsafe {
            command.pre_exec(move || {
                match libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) {
                    1 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
    }
    Remote::start(&mut command, None)
}

/// That process as an agent under a profile.
fn agent(bench: &mut Bench, profile: &str, program: &str) -> Result<(Remote, Cgroup)> {
    let cgroup = bench.cgroup()?;
    let name = bench.name();
    cgroup.tag(profile, &name)?;
    let mut remote = runs(&bench.path(program), Some(&cgroup))?;
    remote.agent = Some(name);
    Ok((remote, cgroup))
}

fn capability(name: &str) -> Wanted {
    Wanted::refusal("system.capabilities", "system").with("/object/capability", name)
}

fn id(number: i64) -> Act {
    call(number, [])
}

fn give_away(path: &Path) -> Act {
    on_path(libc::SYS_chown, path, [USER.into(), USER.into()])
}

fn mount(bench: &Bench) -> Act {
    call(
        libc::SYS_mount,
        [
            "none".into(),
            bench.dir.as_path().into(),
            "tmpfs".into(),
            0.into(),
            0.into(),
        ],
    )
}

fn by_setuid(bench: &mut Bench) -> Result<()> {
    // It does what it is for where nobody is in the way.
    let mut outside = runs(&bench.path("setuid"), None)?;
    ensure!(bench.allowed(&mut outside, &id(libc::SYS_geteuid))? == 0);
    bench.allowed(&mut outside, &open(bench.path("others"), libc::O_RDWR))?;
    bench.allowed(&mut outside, &forked(call(libc::SYS_setuid, [1001.into()])))?;

    let profile = bench.profile.clone();
    let (mut agent, _cgroup) = agent(bench, &profile, "setuid")?;
    ensure!(bench.allowed(&mut agent, &id(libc::SYS_getuid))? == i64::from(USER));
    ensure!(bench.allowed(&mut agent, &id(libc::SYS_geteuid))? == 0);
    let roots = bench.path("roots");
    let device = [i64::from(libc::S_IFCHR | 0o600), 0x103];
    for (act, name) in [
        (give_away(&roots), "CAP_CHOWN"),
        (forked(call(libc::SYS_setuid, [1001.into()])), "CAP_SETUID"),
        (mount(bench), "CAP_SYS_ADMIN"),
        (
            on_path(libc::SYS_mknod, bench.path("device"), device),
            "CAP_MKNOD",
        ),
        (
            forked(call(libc::SYS_unshare, [libc::CLONE_NEWNS.into()])),
            "CAP_SYS_ADMIN",
        ),
    ] {
        bench.denied(&mut agent, &act, capability(name))?;
    }
    bench.log.skip()?;
    bench.fails(
        &mut agent,
        &open(bench.path("others"), libc::O_RDWR),
        libc::EACCES,
    )?;
    bench
        .log
        .wait(&crate::bench::of(&agent, capability("CAP_DAC_OVERRIDE")))?;
    let init = call(libc::SYS_kill, [1.into(), 0.into()]);
    let wanted = Wanted::refusal("process.signal", "other-task");
    bench.denied(&mut agent, &init, wanted)?;
    let command = call(
        libc::SYS_bpf,
        [0.into(), Arg::Bytes(vec![0; 64]), 64.into()],
    );
    // KERNEL: its own check of CAP_BPF comes before the hook on 6.1.
    let refused = Wanted::default().with("/verdict", "deny");
    bench.denied(&mut agent, &command, refused)?;
    // Rules hold for whoever it is now. What root owns it may open where they say nothing.
    let secret = open(bench.path("secret"), libc::O_RDONLY);
    bench.denied(&mut agent, &secret, Wanted::deny("file.open", "secret"))?;
    bench.allowed(&mut agent, &open(&roots, libc::O_RDWR))?;
    // What the profile names it has.
    let second = bench.second_profile();
    let (mut named, _cgroup2) = self::agent(bench, &second, "setuid")?;
    bench.allowed(&mut named, &give_away(&roots))?;
    bench.denied(&mut named, &mount(bench), capability("CAP_SYS_ADMIN"))?;
    Ok(())
}

fn by_capabilities(bench: &mut Bench) -> Result<()> {
    let roots = bench.path("roots");
    let init = || call(libc::SYS_kill, [1.into(), 0.into()]);
    let mut outside = runs(&bench.path("capable"), None)?;
    ensure!(bench.allowed(&mut outside, &id(libc::SYS_geteuid))? == i64::from(USER));
    bench.allowed(&mut outside, &init())?;
    bench.allowed(&mut outside, &open(bench.path("others"), libc::O_RDWR))?;

    let profile = bench.profile.clone();
    let (mut agent, _cgroup) = agent(bench, &profile, "capable")?;
    for (act, name) in [
        (give_away(&roots), "CAP_CHOWN"),
        (init(), "CAP_KILL"),
        (forked(call(libc::SYS_setuid, [0.into()])), "CAP_SETUID"),
        (mount(bench), "CAP_SYS_ADMIN"),
    ] {
        bench.denied(&mut agent, &act, capability(name))?;
    }
    for name in ["others", "roots", "secret"] {
        let act = open(bench.path(name), libc::O_RDWR);
        bench.fails(&mut agent, &act, libc::EACCES)?;
    }
    let second = bench.second_profile();
    let (mut named, _cgroup2) = self::agent(bench, &second, "capable")?;
    bench.allowed(&mut named, &give_away(&roots))?;
    bench.denied(&mut named, &init(), capability("CAP_KILL"))?;
    Ok(())
}

fn nothing_under_run(bench: &mut Bench) -> Result<()> {
    const PR_GET_NO_NEW_PRIVS: i64 = 39;
    let roots = bench.path("roots");
    for program in ["setuid", "capable"] {
        let name = bench.name();
        let path = bench.path(program).display().to_string();
        let mut run = Command::new("agentguard");
        // The profile that names the capability that the file brings.
        run.args(["run", "--profile", &bench.second_profile(), "--name", &name]);
        run.args(["--user", "1000", "--", &path]);
        let mut agent = Remote::start(&mut run, Some(&name)).context(program)?;
        let no_new_privs = call(
            libc::SYS_prctl,
            [PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0].map(Arg::Int),
        );
        ensure!(bench.allowed(&mut agent, &no_new_privs)? == 1);
        for number in [libc::SYS_getuid, libc::SYS_geteuid] {
            ensure!(
                bench.allowed(&mut agent, &id(number))? == i64::from(USER),
                "{program}"
            );
        }
        bench.fails(&mut agent, &give_away(&roots), libc::EPERM)?;
        let act = open(&roots, libc::O_RDONLY);
        bench.fails(&mut agent, &act, libc::EACCES)?;
    }
    Ok(())
}
