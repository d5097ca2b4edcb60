//! What is done in an io_uring with rights that were put aside earlier: nothing, also where rings are allowed.
//! The ring is driven as a library would.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{Bench, of},
    log::Wanted,
    remote::{
        Arg, Remote,
        calls::{call, open},
    },
    scene::Case,
};

pub fn cases() -> Vec<Case> {
    vec![Case::new("system::io_uring_personality", personality).policy(POLICY)]
}

const POLICY: &str = r#"
[system]
io_uring = "allow"
[[ask]]
id = "asked"
file = "{dir}/asked"
"#;

const PAGE: i64 = 4096;

// include/uapi/linux/io_uring.h.
const PARAMS_BYTES: usize = 120;
/// Of `sq_off.tail` in the parameters.
const TAIL_AT: usize = 44;
const REQUESTS: i64 = 0x1000_0000;
const REGISTER_PERSONALITY: i64 = 9;
const MKDIRAT: u8 = 37;
const GETEVENTS: i64 = 1;

/// A page of memory. KERNEL: a ring's can't be had at an address of one's own choice.
fn map(bench: &Bench, agent: &mut Remote, flags: i32, fd: i64, offset: i64) -> Result<i64> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let arguments: [Arg; 6] = [
        0.into(),
        PAGE.into(),
        protection.into(),
        flags.into(),
        fd.into(),
        offset.into(),
    ];
    bench.allowed(agent, &call(libc::SYS_mmap, arguments))
}

/// Has the agent put bytes into its memory: it reads them from a file.
fn put(bench: &Bench, agent: &mut Remote, at: i64, bytes: &[u8]) -> Result<()> {
    let path = bench.path("bytes");
    fs::write(&path, bytes)?;
    let fd = bench.allowed(agent, &open(&path, libc::O_RDONLY))?;
    let read = call(libc::SYS_read, [fd.into(), at.into(), bytes.len().into()]);
    let count = bench.allowed(agent, &read)?;
    ensure!(count == bytes.len() as i64, "only {count} bytes were read");
    bench
        .allowed(agent, &crate::remote::calls::close(fd))
        .map(drop)
}

/// `mkdirat` of the path at this address as a request.
fn request(path: i64, personality: u16) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[0] = MKDIRAT;
    bytes[4..8].copy_from_slice(&libc::AT_FDCWD.to_ne_bytes());
    bytes[16..24].copy_from_slice(&path.to_ne_bytes());
    bytes[24..28].copy_from_slice(&0o700_u32.to_ne_bytes());
    bytes[42..44].copy_from_slice(&personality.to_ne_bytes());
    bytes
}

fn personality(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let memory = map(bench, &mut agent, anonymous, -1, 0)?;
    // Behind the ring's parameters.
    let path = memory + PAGE / 2;
    let setup = call(libc::SYS_io_uring_setup, [4.into(), memory.into()]);
    let ring = bench.allowed(&mut agent, &setup)?;
    // Where the tail is, the kernel says.
    let params = bench.path("params");
    let flags = libc::O_WRONLY | libc::O_CREAT;
    let fd = bench.allowed(&mut agent, &open(&params, flags))?;
    let arguments = [fd.into(), memory.into(), PARAMS_BYTES.into()];
    bench.allowed(&mut agent, &call(libc::SYS_write, arguments))?;
    let params = fs::read(&params)?;
    let tail = params
        .get(TAIL_AT..TAIL_AT + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .context("the ring's parameters")?;
    let heads = map(bench, &mut agent, libc::MAP_SHARED, ring, 0)?;
    let tail = heads + i64::from(u32::from_ne_bytes(tail));
    let requests = map(bench, &mut agent, libc::MAP_SHARED, ring, REQUESTS)?;
    let register = call(
        libc::SYS_io_uring_register,
        [ring.into(), REGISTER_PERSONALITY.into(), 0.into(), 0.into()],
    );
    let personality = bench.allowed(&mut agent, &register)?;

    let made = bench.path("made");
    let mut name = made.as_os_str().as_encoded_bytes().to_vec();
    name.push(0);
    put(bench, &mut agent, path, &name)?;
    let enter = call(
        libc::SYS_io_uring_enter,
        [
            ring.into(),
            1.into(),
            1.into(),
            GETEVENTS.into(),
            0.into(),
            0.into(),
        ],
    );
    put(
        bench,
        &mut agent,
        requests,
        &request(path, personality as u16),
    )?;
    put(bench, &mut agent, tail, &1_u32.to_ne_bytes())?;
    bench.log.skip()?;
    bench.allowed(&mut agent, &enter)?;
    let wanted = Wanted::refusal("system.io_uring", "system");
    bench.log.wait(&of(&agent, wanted))?;
    ensure!(!made.exists(), "{} was made", made.display());

    put(bench, &mut agent, requests, &request(path, 0))?;
    put(bench, &mut agent, tail, &2_u32.to_ne_bytes())?;
    bench.log.skip()?;
    bench.allowed(&mut agent, &enter)?;
    let wanted = Wanted::allow("file.create").path(&made);
    bench.log.wait(&of(&agent, wanted))?;

    // What is done in a ring can't wait for an answer: the call that put it there goes on.
    let asked = bench.path("asked");
    let mut name = asked.as_os_str().as_encoded_bytes().to_vec();
    name.push(0);
    put(bench, &mut agent, path, &name)?;
    put(bench, &mut agent, requests, &request(path, 0))?;
    put(bench, &mut agent, tail, &3_u32.to_ne_bytes())?;
    bench.allowed(&mut agent, &enter)?;
    let wanted = Wanted::deny("file.create", "asked").with("/reason", "cant-be-held");
    bench.log.wait(&of(&agent, wanted))?;
    ensure!(!asked.exists(), "{} was made", asked.display());
    Ok(())
}
