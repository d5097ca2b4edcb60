//! Other ways into the kernel than the 64-bit system call: what is asked by a 32-bit or an x32 call is judged the same.

use std::{fs, net::TcpListener, path::Path};

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, of, shown},
    log::Wanted,
    remote::{
        Act, Arg, Outcome, Remote,
        calls::{at, call, call_32, exec_32, forked, internet, number_32},
    },
    scene::Case,
};

const POLICY: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "deny"
listen = "deny"

[[deny]]
id = "secret"
file = "{dir}/secret"

[[deny]]
id = "never"
exec = "{dir}/never"

[[allow]]
connect = ["tcp://127.0.0.1:5100", "udp://127.0.0.1:5100"]

[[allow]]
listen = "udp://127.0.0.1:5102"
"#;

fn files(dir: &Path) -> Result<()> {
    for name in ["secret", "open"] {
        fs::write(dir.join(name), "")?;
    }
    for name in ["never", "true"] {
        fs::copy("/bin/busybox", dir.join(name))?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(POLICY).prepare(files);
    vec![
        case("entry::by_32_bit_calls", by_32_bit_calls),
        case("entry::by_x32_calls", by_x32_calls),
    ]
}

/// Skips the rest when the kernel has no calls of this kind and says so itself.
fn has(outcome: Outcome, functions: &str) -> Result<bool> {
    if outcome != Outcome::Failed(libc::ENOSYS) && outcome != Outcome::Killed(libc::SIGSEGV) {
        return Ok(true);
    }
    // What the kernel's own functions for these calls begin with (arch/x86/include/asm/syscall_wrapper.h).
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    ensure!(
        symbols.contains(" __x64_sys_open") && !symbols.contains(functions),
        "no such calls, and no proof that this kernel has none: {}",
        shown(outcome)
    );
    println!("skipped: this kernel has nothing called {functions}");
    Ok(false)
}

fn open_32(path: &Path) -> Act {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    call_32(number_32::OPEN, [path.into(), flags.into(), 0.into()])
}

/// A new socket, and a call with it and an address.
fn on_socket(kind: i32, number: i64, address: &str) -> Act {
    let address = internet(at(address));
    Act::Sequence(vec![
        call_32(
            number_32::SOCKET,
            [libc::AF_INET.into(), kind.into(), 0.into()],
        ),
        call_32(number, [Arg::Step(0), Arg::Bytes(address), 16.into()]),
    ])
}

/// The same by the one call that all of these were once: number, and a list of 4-byte arguments.
fn by_socketcall(kind: i32, number: i64, address: &str) -> Act {
    let list = |numbers: [u32; 3]| numbers.map(u32::to_ne_bytes).concat();
    let (family, kind) = (libc::AF_INET as u32, kind as u32);
    Act::Sequence(vec![
        call_32(
            number_32::SOCKETCALL,
            [1.into(), Arg::Bytes(list([family, kind, 0]))],
        ),
        call_32(
            number_32::SOCKETCALL,
            [
                number.into(),
                Arg::Struct {
                    bytes: list([0, 0, 16]),
                    pointers: vec![(0, Arg::Step(0)), (4, Arg::Bytes(internet(at(address))))],
                },
            ],
        ),
    ])
}

fn by_32_bit_calls(bench: &mut Bench) -> Result<()> {
    const TIOCSTI: i64 = 0x5412;
    const TIOCGPTN: i64 = 0x8004_5430;
    const SYS_BIND: i64 = 2;
    const SYS_CONNECT: i64 = 3;
    let mut agent = bench.agent()?;
    let (secret, open) = (bench.path("secret"), bench.path("open"));
    let first = agent.act(&forked(open_32(&open)))?;
    if !has(first, " __ia32_compat_sys_")? {
        return Ok(());
    }
    ensure!(matches!(first, Outcome::Done(_)), "{}", shown(first));
    let _server = TcpListener::bind("127.0.0.1:5100")?;
    let default = format!("{}/default", bench.profile);
    let to = |action: &str, protocol: &str, address: &str| {
        Wanted::deny(action, &default).address(protocol, at(address))
    };
    let (stream, datagram) = (libc::SOCK_STREAM, libc::SOCK_DGRAM);
    let unlink = |path: &Path| call_32(number_32::UNLINK, [path.into()]);
    let send = |address: &str| {
        // `sendto` has six arguments, and the sixth register can't be had here.
        let list = [0, 0, 4, 0, 0, 16_u32].map(u32::to_ne_bytes).concat();
        Act::Sequence(vec![
            call_32(
                number_32::SOCKET,
                [libc::AF_INET.into(), datagram.into(), 0.into()],
            ),
            call_32(
                number_32::SOCKETCALL,
                [
                    11.into(),
                    Arg::Struct {
                        bytes: list,
                        pointers: vec![
                            (0, Arg::Step(0)),
                            (4, Arg::Bytes(b"ping".to_vec())),
                            (16, Arg::Bytes(internet(at(address)))),
                        ],
                    },
                ],
            ),
        ])
    };
    let listen = Act::Sequence(vec![
        call_32(
            number_32::SOCKET,
            [libc::AF_INET.into(), stream.into(), 0.into()],
        ),
        call_32(number_32::LISTEN, [Arg::Step(0), 1.into()]),
    ]);
    let type_ = |command: i64| {
        Act::Sequence(vec![
            open_32(Path::new("/dev/ptmx")),
            call_32(
                number_32::IOCTL,
                [Arg::Step(0), command.into(), Arg::Bytes(vec![b'x'; 8])],
            ),
        ])
    };
    for (act, wanted) in [
        (
            open_32(&secret),
            Wanted::deny("file.open", "secret").path(&secret),
        ),
        (unlink(&secret), Wanted::deny("file.delete", "secret")),
        (
            on_socket(stream, number_32::CONNECT, "127.0.0.1:5101"),
            to("net.connect", "tcp", "127.0.0.1:5101"),
        ),
        (
            by_socketcall(stream, SYS_CONNECT, "127.0.0.1:5101"),
            to("net.connect", "tcp", "127.0.0.1:5101"),
        ),
        (
            on_socket(datagram, number_32::BIND, "127.0.0.1:5103"),
            to("net.listen", "udp", "127.0.0.1:5103"),
        ),
        (
            by_socketcall(datagram, SYS_BIND, "127.0.0.1:5103"),
            to("net.listen", "udp", "127.0.0.1:5103"),
        ),
        (listen, Wanted::deny("net.listen", &default)),
        (
            send("127.0.0.1:5101"),
            to("net.send", "udp", "127.0.0.1:5101"),
        ),
        (
            type_(TIOCSTI),
            Wanted::refusal("system.terminal_input", "system"),
        ),
    ] {
        bench.denied(&mut agent, &forked(act), wanted)?;
    }
    let never = exec_32(bench.path("never"), &[]);
    bench.denied(&mut agent, &never, Wanted::deny("exec", "never"))?;
    for act in [
        forked(on_socket(stream, number_32::CONNECT, "127.0.0.1:5100")),
        forked(by_socketcall(stream, SYS_CONNECT, "127.0.0.1:5100")),
        forked(on_socket(datagram, number_32::BIND, "127.0.0.1:5102")),
        forked(send("127.0.0.1:5100")),
        forked(type_(TIOCGPTN)),
        exec_32(bench.path("true"), &[]),
        forked(unlink(&open)),
    ] {
        bench.allowed(&mut agent, &act)?;
    }
    Ok(())
}

/// `__X32_SYSCALL_BIT` (arch/x86/include/uapi/asm/unistd.h): 64-bit registers, 4-byte addresses in memory.
fn by_x32_calls(bench: &mut Bench) -> Result<()> {
    const X32: i64 = 0x4000_0000;
    /// `ioctl` has a number of its own there.
    const X32_IOCTL: i64 = X32 | 514;
    const TIOCSTI: i64 = 0x5412;
    let open = |path: &Path| {
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        call(X32 | libc::SYS_open, [path.into(), flags.into(), 0.into()])
    };
    let on_socket = |kind: i32, number: i64, address: &str| {
        Act::Sequence(vec![
            call(
                X32 | libc::SYS_socket,
                [libc::AF_INET.into(), kind.into(), 0.into()],
            ),
            call(
                X32 | number,
                [Arg::Step(0), Arg::Bytes(internet(at(address))), 16.into()],
            ),
        ])
    };
    let mut agent = bench.agent()?;
    let first = agent.act(&forked(open(&bench.path("open"))))?;
    if !has(first, " __x64_compat_sys_")? {
        return refused_as_unknown(bench, &mut agent, &forked(open(&bench.path("secret"))));
    }
    ensure!(matches!(first, Outcome::Done(_)), "{}", shown(first));
    let default = format!("{}/default", bench.profile);
    let secret = bench.path("secret");
    let typing = Act::Sequence(vec![
        open(Path::new("/dev/ptmx")),
        call(
            X32_IOCTL,
            [Arg::Step(0), TIOCSTI.into(), Arg::Bytes(vec![b'x'; 8])],
        ),
    ]);
    for (act, wanted) in [
        (open(&secret), Wanted::deny("file.open", "secret")),
        (
            on_socket(libc::SOCK_STREAM, libc::SYS_connect, "127.0.0.1:5101"),
            Wanted::deny("net.connect", &default),
        ),
        (
            on_socket(libc::SOCK_DGRAM, libc::SYS_bind, "127.0.0.1:5103"),
            Wanted::deny("net.listen", &default),
        ),
        (typing, Wanted::refusal("system.terminal_input", "system")),
    ] {
        bench.denied(&mut agent, &forked(act), wanted)?;
    }
    Ok(())
}

/// There is nobody to ask, so nothing is done and nothing is logged.
fn refused_as_unknown(bench: &mut Bench, agent: &mut Remote, act: &Act) -> Result<()> {
    bench.fails(agent, act, libc::ENOSYS)?;
    bench
        .log
        .lacks(&of(agent, Wanted::deny("file.open", "secret")))
}
