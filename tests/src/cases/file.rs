//! Opening files: every access, and every other name that a file can be had under.

use std::{
    fs,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::symlink, net::UnixListener},
    },
    path::Path,
};

use anyhow::{Result, ensure};

use crate::{
    bench::Bench,
    log::Wanted,
    remote::{
        Act, Arg, Outcome,
        calls::{call, close, connect, open, open_at, read, socket, unix},
        send_descriptor,
    },
    scene::Case,
};

/// A folder that may not be touched and a file that may.
const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
because = "Not for agents."
"#;

/// The same, and a socket over which descriptors come.
const GIVEN: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
because = "Not for agents."

[[deny]]
id = "no-write"
file = "{dir}/open/read-only"
access = "write"

[[allow]]
connect = "unix:{dir}/giver"
"#;

/// What [`SECRET`] is about.
fn secret(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("secret"))?;
    fs::create_dir_all(dir.join("open"))?;
    fs::write(dir.join("secret/key"), "secret\n")?;
    fs::write(dir.join("open/key"), "open\n")?;
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let secret_case = |name, play| Case::new(name, play).policy(SECRET).prepare(secret);
    vec![
        secret_case("file::open_for_every_access", every_access),
        secret_case("file::symlink_to_a_protected_file", through_symlinks),
        secret_case("file::other_spellings_of_a_path", other_spellings),
        secret_case(
            "file::relative_to_a_directory_descriptor",
            directory_descriptor,
        ),
        secret_case("file::reopened_through_proc", reopened),
        Case::new("file::received_from_somebody_else", received)
            .policy(GIVEN)
            .prepare(secret),
    ]
}

fn denial() -> Wanted {
    Wanted::deny("file.open", "secret").with("/because", "Not for agents.")
}

fn every_access(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    for (flags, access) in [
        (libc::O_RDONLY, &["read"][..]),
        (libc::O_WRONLY, &["write"]),
        (libc::O_RDWR, &["read", "write"]),
        (libc::O_WRONLY | libc::O_APPEND, &["write"]),
        (libc::O_RDONLY | libc::O_TRUNC, &["read", "write"]),
        (libc::O_RDWR | libc::O_DIRECT, &["read", "write"]),
    ] {
        let (key, twin) = (bench.path("secret/key"), bench.path("open/key"));
        let wanted = denial().path(&key).access(access);
        bench.denied(&mut agent, &open(&key, flags), wanted)?;
        if flags & libc::O_DIRECT == 0 {
            let wanted = Wanted::allow("file.open").path(&twin).access(access);
            bench.allowed_and_logged(&mut agent, &open(&twin, flags), wanted)?;
        }
    }
    ensure!(fs::read_to_string(bench.path("secret/key"))? == "secret\n");
    ensure!(fs::read_to_string(bench.path("open/key"))?.is_empty());
    Ok(())
}

fn through_symlinks(bench: &mut Bench) -> Result<()> {
    symlink("secret/key", bench.path("link"))?;
    symlink("link", bench.path("link-to-link"))?;
    symlink("secret", bench.path("folder"))?;
    symlink("open/key", bench.path("twin"))?;
    let mut agent = bench.agent()?;
    let key = bench.path("secret/key");
    for name in ["link", "link-to-link", "folder/key"] {
        let act = open(bench.path(name), libc::O_RDONLY);
        bench.denied(&mut agent, &act, denial().path(&key))?;
    }
    bench.allowed(&mut agent, &open(bench.path("twin"), libc::O_RDONLY))?;
    Ok(())
}

fn other_spellings(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let key = bench.path("secret/key");
    let dir = bench.dir.display().to_string();
    for spelling in [
        format!("{dir}/open/../secret/key"),
        format!("{dir}//secret///key"),
        format!("{dir}/./secret/./key"),
        format!("/proc/self/root{dir}/secret/key"),
        format!("/proc/self/cwd{dir}/secret/key"),
        format!("../../../../../../..{dir}/secret/key"),
    ] {
        bench.allowed(&mut agent, &crate::remote::calls::chdir("/"))?;
        let act = open(&spelling, libc::O_RDONLY);
        bench.denied(&mut agent, &act, denial().path(&key))?;
        let act = open(spelling.replace("/secret", "/open"), libc::O_RDONLY);
        bench.allowed(&mut agent, &act)?;
    }
    Ok(())
}

fn directory_descriptor(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let key = bench.path("secret/key");
    let folder = bench.allowed(
        &mut agent,
        &open(&bench.dir, libc::O_RDONLY | libc::O_DIRECTORY),
    )?;
    let act = open_at(folder, "secret/key", libc::O_RDONLY);
    bench.denied(&mut agent, &act, denial().path(&key))?;
    let act = open_at(folder, "open/key", libc::O_RDONLY);
    bench.allowed(&mut agent, &act)?;
    // A descriptor that only stands for a place can be had of the folder itself.
    let place = open(bench.path("secret"), libc::O_PATH | libc::O_DIRECTORY);
    let place = bench.allowed(&mut agent, &place)?;
    let act = open_at(place, "key", libc::O_RDONLY);
    bench.denied(&mut agent, &act, denial().path(&key))?;
    // struct open_how: flags, mode, resolve.
    let how = |resolve: u64| {
        let words = [libc::O_RDONLY as u64, 0, resolve];
        Arg::Bytes(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    };
    let open_at2 = |path: &str| {
        let arguments = [
            folder.into(),
            path.into(),
            how(libc::RESOLVE_BENEATH),
            24.into(),
        ];
        call(libc::SYS_openat2, arguments)
    };
    bench.denied(&mut agent, &open_at2("secret/key"), denial().path(&key))?;
    bench.allowed(&mut agent, &open_at2("open/key"))?;
    Ok(())
}

fn received(bench: &mut Bench) -> Result<()> {
    let giver = UnixListener::bind(bench.path("giver"))?;
    let read_only = bench.path("open/read-only");
    fs::write(&read_only, "open\n")?;
    let mut agent = bench.agent()?;
    let way = Act::Sequence(vec![
        socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
        connect(Arg::Step(0), unix(bench.path("giver"))),
        call(libc::SYS_dup, [Arg::Step(0)]),
    ]);
    let way = bench.allowed(&mut agent, &way)?;
    let (giving, _) = giver.accept()?;
    let receive = Act::ReceiveDescriptor { socket: way as i32 };
    let give = |file: &fs::File| -> Result<()> {
        let sent = send_descriptor(giving.as_raw_fd(), file.as_raw_fd());
        ensure!(matches!(sent, Outcome::Done(_)), "cannot send: {sent:?}");
        Ok(())
    };
    let opened = |name: &str, write: bool| {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(write).open(bench.path(name))
    };
    let (key, written) = (opened("secret/key", true)?, opened("open/read-only", true)?);
    let (read, twin) = (opened("open/read-only", false)?, opened("open/key", true)?);
    let (pipe, _writer) = std::io::pipe()?;
    let pipe = fs::File::from(OwnedFd::from(pipe));
    for (file, rule, name) in [
        (&key, "secret", "secret/key"),
        (&written, "no-write", "open/read-only"),
    ] {
        bench.log.skip()?;
        give(file)?;
        // The kernel leaves out of the message what may not be received.
        ensure!(agent.act(&receive)? == Outcome::Failed(libc::EBADMSG));
        let wanted = Wanted::deny("file.open", rule)
            .path(bench.path(name))
            .access(&["read", "write"]);
        bench.log.wait(&wanted)?;
    }
    for (file, name, access) in [
        (&read, "open/read-only", &["read"][..]),
        (&twin, "open/key", &["read", "write"]),
    ] {
        give(file)?;
        let wanted = Wanted::allow("file.open")
            .path(bench.path(name))
            .access(access);
        bench.allowed_and_logged(&mut agent, &receive, wanted)?;
    }
    give(&pipe)?;
    bench.allowed(&mut agent, &receive)?;
    Ok(())
}

fn reopened(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let key = bench.path("secret/key");
    let place = bench.allowed(&mut agent, &open(&key, libc::O_PATH))?;
    for path in [format!("/proc/self/fd/{place}"), format!("/dev/fd/{place}")] {
        let act = open(path, libc::O_RDONLY);
        bench.denied(&mut agent, &act, denial().path(&key))?;
    }
    bench.fails(&mut agent, &read(place), libc::EBADF)?;
    bench.allowed(&mut agent, &close(place))?;
    let twin = open(bench.path("open/key"), libc::O_PATH);
    let twin = bench.allowed(&mut agent, &twin)?;
    let reopened = Act::Sequence(vec![
        open(format!("/proc/self/fd/{twin}"), libc::O_RDWR),
        read(Arg::Step(0)),
    ]);
    bench.allowed(&mut agent, &reopened)?;
    Ok(())
}
