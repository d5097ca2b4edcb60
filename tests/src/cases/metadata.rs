//! What belongs to a file besides its content: times, extended attributes, ACLs, the attributes of file systems.
//! By which names is the business of `metadata_names`.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, run_well, status},
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{call, on_path, open},
    },
    scene::Case,
};

pub const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
access = "metadata"

[system]
capabilities = "CAP_SETFCAP"
"#;

/// On a file system that has all of these, which that of the guest's root may not.
pub fn files(dir: &Path) -> Result<()> {
    run_well(
        "mount",
        &["-t", "tmpfs", "none", &dir.display().to_string()],
    )?;
    for folder in ["secret", "open/named", "other", "alias"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    for file in ["secret/key", "open/key", "open/named/key", "other/key"] {
        fs::write(dir.join(file), "content\n")?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let secret = |name, play| Case::new(name, play).policy(SECRET).prepare(files);
    vec![
        secret("metadata::times", times),
        secret("metadata::extended_attributes", extended_attributes),
        secret("metadata::access_control_lists", access_control_lists),
        secret("metadata::file_attributes", file_attributes),
    ]
}

/// `utimensat` with these flags; both times become the epoch's beginning.
pub fn set_times(directory: impl Into<Arg>, path: impl AsRef<Path>, flags: i32) -> Act {
    call(
        libc::SYS_utimensat,
        [
            directory.into(),
            path.as_ref().into(),
            Arg::Bytes(vec![0; 32]),
            flags.into(),
        ],
    )
}

/// The same by a descriptor alone, as `futimens` makes it. Without times they become the present.
pub fn set_times_of(fd: impl Into<Arg>, times: Option<Vec<u8>>) -> Act {
    let times = times.map_or(Arg::Int(0), Arg::Bytes);
    call(libc::SYS_utimensat, [fd.into(), 0.into(), times, 0.into()])
}

pub fn touch(path: impl AsRef<Path>) -> Act {
    set_times(libc::AT_FDCWD, path, 0)
}

/// `setxattr` and its kin.
pub fn set_attribute(number: i64, place: impl Into<Arg>, name: &str, value: &[u8]) -> Act {
    call(
        number,
        [
            place.into(),
            name.into(),
            Arg::Bytes(value.to_vec()),
            value.len().into(),
            0.into(),
        ],
    )
}

/// What must not change.
fn state(path: &Path) -> Result<(i64, i64, i64, u32)> {
    let data = fs::symlink_metadata(path)?;
    Ok((data.mtime(), data.ctime(), data.ctime_nsec(), data.mode()))
}

/// Plays an act on the file in both folders: denied and without effect in one, allowed in the other.
fn both(bench: &mut Bench, agent: &mut Remote, act: impl Fn(&Path) -> Act) -> Result<()> {
    let (secret, open) = (bench.path("secret/key"), bench.path("open/key"));
    let before = state(&secret)?;
    let wanted = Wanted::deny("file.metadata", "secret")
        .path(&secret)
        .access(&["metadata"]);
    bench.denied(agent, &act(&secret), wanted)?;
    ensure!(state(&secret)? == before, "changed by {:?}", act(&secret));
    let wanted = Wanted::allow("file.metadata").path(&open);
    bench.allowed_and_logged(agent, &act(&open), wanted)?;
    Ok(())
}

fn times(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    both(bench, &mut agent, |path| touch(path))?;
    ensure!(fs::metadata(bench.path("open/key"))?.mtime() == 0);
    both(bench, &mut agent, |path| {
        set_times(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW)
    })?;
    both(bench, &mut agent, |path| {
        on_path(libc::SYS_utimes, path, [0])
    })?;
    both(bench, &mut agent, |path| {
        on_path(libc::SYS_utime, path, [0])
    })?;
    // By descriptors: of the file, of a place, and by the name that descriptors have.
    let descriptor = |path: &Path, flags, act: fn(Arg) -> Act| {
        Act::Sequence(vec![open(path, flags), act(Arg::Step(0))])
    };
    both(bench, &mut agent, |path| {
        descriptor(path, libc::O_RDONLY, |fd| {
            set_times_of(fd, Some(vec![0; 32]))
        })
    })?;
    both(bench, &mut agent, |path| {
        descriptor(path, libc::O_WRONLY, |fd| set_times_of(fd, None))
    })?;
    both(bench, &mut agent, |path| {
        descriptor(path, libc::O_PATH, |fd| {
            set_times(fd, "", libc::AT_EMPTY_PATH)
        })
    })?;
    for name in ["secret", "open"] {
        let path = bench.path(name).join("key");
        let place = bench.allowed(&mut agent, &open(&path, libc::O_PATH))?;
        let act = touch(format!("/proc/self/fd/{place}"));
        if name == "open" {
            bench.allowed(&mut agent, &act)?;
        } else {
            let wanted = Wanted::deny("file.metadata", "secret").path(&path);
            bench.denied(&mut agent, &act, wanted)?;
        }
    }
    // A folder, and by an ordinary user who owns the file.
    let folder = bench.path("secret");
    let wanted = Wanted::deny("file.metadata", "secret").path(&folder);
    bench.denied(&mut agent, &touch(&folder), wanted)?;
    for name in ["secret/key", "open/key"] {
        std::os::unix::fs::chown(bench.path(name), Some(1000), Some(1000))?;
    }
    let mut user = bench.user_agent()?;
    both(bench, &mut user, |path| touch(path))
}

/// `struct vfs_cap_data` of revision 2, without any capability (include/uapi/linux/capability.h).
pub const NO_CAPABILITIES: [u8; 20] = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// KERNEL: of the attributes that a tmpfs keeps on every kernel, the one that needs no more than a capability that
/// can be named.
pub const CAPABILITY: &str = "security.capability";

fn extended_attributes(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let put = |number| move |path: &Path| set_attribute(number, path, CAPABILITY, &NO_CAPABILITIES);
    let take = |number| move |path: &Path| call(number, [path.into(), CAPABILITY.into()]);
    both(bench, &mut agent, put(libc::SYS_setxattr))?;
    // For the second one there must be something to take away.
    let secret = bench.path("secret/key");
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &put(libc::SYS_setxattr)(&secret))?;
    both(bench, &mut agent, take(libc::SYS_removexattr))?;
    both(bench, &mut agent, put(libc::SYS_lsetxattr))?;
    both(bench, &mut agent, take(libc::SYS_lremovexattr))?;
    let by_descriptor = |act: fn(Arg) -> Act| {
        move |path: &Path| Act::Sequence(vec![open(path, libc::O_RDONLY), act(Arg::Step(0))])
    };
    both(
        bench,
        &mut agent,
        by_descriptor(|fd| set_attribute(libc::SYS_fsetxattr, fd, CAPABILITY, &NO_CAPABILITIES)),
    )?;
    both(
        bench,
        &mut agent,
        by_descriptor(|fd| call(libc::SYS_fremovexattr, [fd, CAPABILITY.into()])),
    )?;
    // It is asked before the file system says that it doesn't have such attributes.
    let wanted = Wanted::deny("file.metadata", "secret").path(&secret);
    let act = set_attribute(libc::SYS_setxattr, secret.as_path(), "user.note", b"x");
    bench.denied(&mut agent, &act, wanted)?;
    Ok(())
}

/// A POSIX ACL as the call takes it: version 2, then tag, permissions and id of each entry
/// (include/uapi/linux/posix_acl_xattr.h).
pub fn acl() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (0x01_u16, 6_u16, u32::MAX),
        (0x02, 4, 1000),
        (0x04, 4, u32::MAX),
        (0x10, 6, u32::MAX),
        (0x20, 4, u32::MAX),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn access_control_lists(bench: &mut Bench) -> Result<()> {
    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    let mut agent = bench.agent()?;
    let put = |name: &'static str| {
        move |path: &Path| set_attribute(libc::SYS_setxattr, path, name, &acl())
    };
    let take = |name: &'static str| {
        move |path: &Path| call(libc::SYS_removexattr, [path.into(), name.into()])
    };
    both(bench, &mut agent, put(ACCESS))?;
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &put(ACCESS)(&bench.path("secret/key")))?;
    both(bench, &mut agent, take(ACCESS))?;
    both(bench, &mut agent, |path| {
        let fd = open(path, libc::O_RDONLY);
        let set = set_attribute(libc::SYS_fsetxattr, Arg::Step(0), ACCESS, &acl());
        Act::Sequence(vec![fd, set])
    })?;
    // What new files in a folder get.
    let (secret, open) = (bench.path("secret"), bench.path("open"));
    let wanted = || Wanted::deny("file.metadata", "secret").path(&secret);
    bench.denied(&mut agent, &put(DEFAULT)(&secret), wanted())?;
    bench.allowed(&mut agent, &put(DEFAULT)(&open))?;
    bench.allowed(&mut outside, &put(DEFAULT)(&secret))?;
    bench.denied(&mut agent, &take(DEFAULT)(&secret), wanted())?;
    bench.allowed(&mut agent, &take(DEFAULT)(&open))?;
    Ok(())
}

/// Whether this kernel has a hook, as `agentguard status` says.
fn has_hook(name: &str) -> Result<bool> {
    let status = status()?;
    let hooks = status["hooks"].as_array().map(Vec::as_slice);
    let hook = hooks
        .unwrap_or_default()
        .iter()
        .find(|hook| hook["name"] == name);
    Ok(hook.is_some_and(|hook| hook["attached"] == true))
}

fn file_attributes(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let (secret, free) = (bench.path("secret/key"), bench.path("open/key"));
    // FS_IOC_SETFLAGS with FS_NOATIME_FL, from 64 bits and from 32; FS_IOC_FSSETXATTR with nothing; the version of a
    // file; its attributes on a FAT file system; fs-verity (include/uapi/linux/{fs,msdos_fs,fsverity}.h).
    let commands: [(i64, Vec<u8>); 6] = [
        (0x4008_6602, 0x80_u64.to_le_bytes().to_vec()),
        (0x4004_6602, 0x80_u32.to_le_bytes().to_vec()),
        (0x401c_5820, vec![0; 28]),
        (0x4008_7602, vec![0; 8]),
        (0x4004_7211, vec![0; 4]),
        (0x4080_6685, vec![0; 128]),
    ];
    for (command, argument) in commands {
        let ioctl = |path: &Path| {
            let arguments = [Arg::Step(0), command.into(), Arg::Bytes(argument.clone())];
            Act::Sequence(vec![
                open(path, libc::O_RDONLY),
                call(libc::SYS_ioctl, arguments),
            ])
        };
        let wanted = Wanted::deny("file.metadata", "secret").path(&secret);
        bench.denied(&mut agent, &ioctl(&secret), wanted)?;
        // A tmpfs has no such attributes on every kernel; then it says so itself.
        bench.log.skip()?;
        let outcome = agent.act(&ioctl(&free))?;
        ensure!(
            outcome != crate::remote::Outcome::Failed(libc::EPERM),
            "{command:x} must be allowed"
        );
        let wanted = crate::bench::of(&agent, Wanted::allow("file.metadata").path(&free));
        bench.log.wait(&wanted)?;
    }
    // The call of Linux 6.17 (arch/x86/entry/syscalls/syscall_64.tbl), with a `struct file_attr` of zeros.
    const SYS_FILE_SETATTR: i64 = 469;
    let call = |path: &Path| {
        call(
            SYS_FILE_SETATTR,
            [
                libc::AT_FDCWD.into(),
                path.into(),
                Arg::Bytes(vec![0; 24]),
                24.into(),
                0.into(),
            ],
        )
    };
    if has_hook("inode_file_setattr")? {
        both(bench, &mut agent, call)
    } else {
        bench.fails(&mut agent, &call(&secret), libc::ENOSYS)
    }
}
