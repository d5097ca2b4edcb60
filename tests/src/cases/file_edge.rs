//! Paths at the edges of what a path can be, and files that have none.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{call, chdir, close, mkdir, open, read, socket, write},
    },
    scene::Case,
};

/// A folder that may not be touched.
const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
"#;

/// Everything is denied but what the remote needs to run.
const CLOSED: &str = r#"
[default]
file = "deny"
exec = "allow"
connect = "deny"
listen = "deny"

[[allow]]
file = ["/usr/**", "/lib/**", "/lib64/**", "/bin/**", "/etc/ld.so.*"]
access = "read"
"#;

fn folders(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("secret"))?;
    fs::create_dir_all(dir.join("open"))?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let secret = |name, play| Case::new(name, play).policy(SECRET).prepare(folders);
    vec![
        secret("file::path_of_4095_bytes_and_200_components", longest),
        secret("file::path_too_long", too_long),
        secret("file::name_of_64_kib", name_of_64_kib),
        secret("file::names_that_are_not_utf8", not_utf8),
        Case::new("file::without_a_path", without_a_path).policy(CLOSED),
    ]
}

/// A path below `base` of exactly `length` bytes, in about `components` components.
pub fn long_path(base: &Path, length: usize, components: usize) -> PathBuf {
    let mut bytes = base.as_os_str().as_bytes().to_vec();
    for left in (1..=components).rev() {
        let missing = length - bytes.len();
        let name = missing / left - 1;
        bytes.push(b'/');
        bytes.extend(std::iter::repeat_n(b'n', name));
    }
    let missing = length - bytes.len();
    bytes.extend(std::iter::repeat_n(b'n', missing));
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn longest(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (components, length) in [(200, 4095), (20, 4095), (300, 4094)] {
        let [key, twin] = ["secret", "open"].map(|base| {
            let path = long_path(&bench.path(base), length, components);
            assert_eq!(path.as_os_str().len(), length);
            path
        });
        for path in [&key, &twin] {
            fs::create_dir_all(path.parent().expect("it has a parent"))?;
            fs::write(path, "content\n")?;
        }
        let wanted = Wanted::deny("file.open", "secret").path(&key);
        bench.denied(&mut agent, &open(&key, libc::O_RDONLY), wanted)?;
        let wanted = Wanted::allow("file.open").path(&twin);
        bench.allowed_and_logged(&mut agent, &open(&twin, libc::O_RDONLY), wanted)?;
    }
    Ok(())
}

/// A file deeper than a path can say is reached step by step, and still not opened.
fn too_long(bench: &mut Bench) -> Result<()> {
    let name = "n".repeat(250);
    let deep: Vec<Act> = (0..20).flat_map(|_| [mkdir(&name), chdir(&name)]).collect();
    let enter: Vec<Act> = (0..20).map(|_| chdir(&name)).collect();
    let base = bench.path("open");
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &chdir(&base))?;
    bench.allowed(&mut outside, &Act::Sequence(deep))?;
    let create = open("key", libc::O_WRONLY | libc::O_CREAT);
    bench.allowed(&mut outside, &create)?;

    let mut agent = bench.agent()?;
    bench.allowed(&mut agent, &chdir(&base))?;
    bench.allowed(&mut agent, &Act::Sequence(enter))?;
    let wanted = Wanted::refusal("file.open", "path-too-long");
    bench.denied(&mut agent, &open("key", libc::O_RDONLY), wanted)?;
    let wanted = Wanted::refusal("file.create", "path-too-long");
    let act = open("new", libc::O_WRONLY | libc::O_CREAT);
    bench.denied(&mut agent, &act, wanted)?;
    bench.fails(&mut outside, &open("new", libc::O_RDONLY), libc::ENOENT)?;
    // Out again to where paths are short enough.
    let up: Vec<Act> = (0..10).map(|_| chdir("..")).collect();
    bench.allowed(&mut agent, &Act::Sequence(up))?;
    bench.allowed(&mut agent, &open(".", libc::O_RDONLY))?;
    Ok(())
}

/// The kernel itself refuses it, before any hook.
fn name_of_64_kib(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let name = format!("/{}", "n".repeat(64 << 10));
    for flags in [libc::O_RDONLY, libc::O_WRONLY | libc::O_CREAT] {
        bench.fails(&mut agent, &open(&name, flags), libc::ENAMETOOLONG)?;
    }
    Ok(())
}

fn not_utf8(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (name, shown, is_escaped) in [
        (&b"a\xff\xfez"[..], r"a\xff\xfez", true),
        (b"back\\slash\x80", r"back\x5cslash\x80", true),
        (b"line\nfeed", "line\nfeed", false),
        ("ümläut".as_bytes(), "ümläut", false),
        (b"\x1b[31mred", "\x1b[31mred", false),
    ] {
        let encoding: serde_json::Value = if is_escaped {
            "escaped".into()
        } else {
            serde_json::Value::Null
        };
        for (folder, wanted) in [
            ("secret", Wanted::deny("file.open", "secret")),
            ("open", Wanted::allow("file.open")),
        ] {
            let path = bench.path(folder).join(OsStr::from_bytes(name));
            fs::write(&path, "content\n")?;
            let text = format!("{}/{shown}", bench.path(folder).display());
            let wanted = wanted
                .with("/object/path", text)
                .with("/object/encoding", encoding.clone());
            let act = open(&path, libc::O_RDONLY);
            if folder == "secret" {
                bench.denied(&mut agent, &act, wanted)?;
            } else {
                bench.allowed_and_logged(&mut agent, &act, wanted)?;
            }
        }
    }
    Ok(())
}

/// Pipes, sockets and memfds are on no file system that a rule could mean, so that even a profile that
/// denies all files leaves them alone.
fn without_a_path(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let denied = bench.path("file");
    fs::write(&denied, "content\n")?;
    let rule = format!("{}/default", bench.profile);
    let wanted = Wanted::deny("file.open", &rule).path(&denied);
    bench.denied(&mut agent, &open(&denied, libc::O_RDONLY), wanted)?;

    // The remote's own standard input and output are pipes.
    for (path, flags) in [
        ("/proc/self/fd/0", libc::O_RDONLY),
        ("/proc/self/fd/1", libc::O_WRONLY),
        ("/dev/stdin", libc::O_RDONLY),
        ("/dev/fd/1", libc::O_WRONLY),
    ] {
        let fd = bench.allowed(&mut agent, &open(path, flags))?;
        bench.allowed(&mut agent, &close(fd))?;
    }
    let memfd = call(libc::SYS_memfd_create, ["name".into(), 0.into()]);
    let memfd = bench.allowed(&mut agent, &memfd)?;
    bench.allowed(&mut agent, &write(memfd, "content"))?;
    let reopened = Act::Sequence(vec![
        open(format!("/proc/self/fd/{memfd}"), libc::O_RDWR),
        read(Arg::Step(0)),
    ]);
    ensure!(bench.allowed(&mut agent, &reopened)? == 7);
    let pair = Act::SocketPair {
        kind: libc::SOCK_STREAM,
    };
    let pair = bench.allowed(&mut agent, &pair)?;
    bench.allowed(&mut agent, &write(pair, "content"))?;
    ensure!(bench.allowed(&mut agent, &read(pair + 1))? == 7);
    bench.allowed(&mut agent, &socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0))?;
    bench.allowed(&mut agent, &call(libc::SYS_eventfd2, [0.into(), 0.into()]))?;
    Ok(())
}
