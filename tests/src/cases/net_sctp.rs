//! SCTP: the ways to connect that other protocols don't have, and addresses that come with a message.

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, run, run_well},
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{
            accept, at, bind, call, connect, internet, listen, read, send_to, send_with_control,
            set_option, socket,
        },
    },
    scene::Case,
};

const NAMED: &str = r#"
[[allow]]
id = "named"
connect = ["sctp://192.0.2.1:7000", "sctp://10.78.0.2:7000"]
"#;

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(NAMED);
    vec![
        case("net::sctp_where_a_rule_says", sctp),
        case("net::sctp_addresses_per_message", per_message),
    ]
}

const STREAM: i32 = libc::SOCK_STREAM;
const PACKETS: i32 = libc::SOCK_SEQPACKET;
const V4: i32 = libc::AF_INET;

fn sctp(bench: &mut Bench) -> Result<()> {
    const SOL_SCTP: i32 = 132;
    const SCTP_SOCKOPT_BINDX_ADD: i32 = 100;
    const SCTP_SOCKOPT_CONNECTX: i32 = 110;
    const SCTP_SOCKOPT_CONNECTX3: i64 = 111;
    run_well("modprobe", &["sctp"])?;
    let (allowed, denied) = (at("192.0.2.1:7000"), at("192.0.2.1:7001"));
    let mut outside = Remote::outside()?;
    for address in [allowed, denied] {
        let serving = Act::Sequence(vec![
            socket(V4, PACKETS, libc::IPPROTO_SCTP),
            bind(Arg::Step(0), internet(address)),
            listen(Arg::Step(0)),
        ]);
        bench.allowed(&mut outside, &serving)?;
    }
    let mut agent = bench.user_agent()?;
    let rule = format!("{}/default", bench.profile);
    for kind in [STREAM, PACKETS] {
        let with = |act: Act| Act::Sequence(vec![socket(V4, kind, libc::IPPROTO_SCTP), act]);
        let wanted = Wanted::deny("net.connect", &rule).address("sctp", denied);
        let act = with(connect(Arg::Step(0), internet(denied)));
        bench.denied(&mut agent, &act, wanted)?;
        // Connects without `connect`.
        let wanted = Wanted::deny("net.send", &rule).address("sctp", denied);
        let act = with(send_to(Arg::Step(0), internet(denied), 0));
        bench.denied(&mut agent, &act, wanted)?;
        let many = Wanted::refusal("net.connect", "address-unreadable");
        for option in [SCTP_SOCKOPT_CONNECTX, SCTP_SOCKOPT_BINDX_ADD] {
            let act = with(set_option(
                Arg::Step(0),
                SOL_SCTP,
                option,
                &internet(denied),
            ));
            bench.denied(&mut agent, &act, many.clone())?;
        }
        // struct sctp_getaddrs_old: association, length, and where the addresses are.
        let addresses = Arg::Struct {
            bytes: [[0, 0, 0, 0, 16, 0, 0, 0], [0; 8]].concat(),
            pointers: vec![(8, Arg::Bytes(internet(denied)))],
        };
        let connectx = call(
            libc::SYS_getsockopt,
            [
                Arg::Step(0),
                SOL_SCTP.into(),
                SCTP_SOCKOPT_CONNECTX3.into(),
                addresses,
                Arg::Bytes(16_u32.to_ne_bytes().to_vec()),
            ],
        );
        bench.denied(&mut agent, &with(connectx), many)?;
        let wanted = Wanted::allow("net.connect").address("sctp", allowed);
        let act = Act::Sequence(vec![
            socket(V4, kind, libc::IPPROTO_SCTP),
            connect(Arg::Step(0), internet(allowed)),
        ]);
        bench.allowed_and_logged(&mut agent, &act, wanted)?;
        bench.allowed(
            &mut agent,
            &with(send_to(Arg::Step(0), internet(allowed), 0)),
        )?;
    }
    // To listen, nothing was said.
    let serving = Act::Sequence(vec![
        socket(V4, PACKETS, libc::IPPROTO_SCTP),
        bind(Arg::Step(0), internet(at("192.0.2.1:7002"))),
        listen(Arg::Step(0)),
    ]);
    let wanted = Wanted::deny("net.listen", &rule).address("sctp", at("192.0.2.1:7002"));
    bench.denied(&mut agent, &serving, wanted)?;
    Ok(())
}

/// More addresses of a peer, which it is tried by when the first doesn't answer.
fn per_message(bench: &mut Bench) -> Result<()> {
    const SCTP_DSTADDRV4: i32 = 7;
    run_well("modprobe", &["-a", "sctp", "dummy"])?;
    // Behind this device is nobody.
    run_well("ip", &["link", "add", "hole", "type", "dummy"])?;
    let result = (|| {
        run_well("ip", &["address", "add", "10.78.0.1/24", "dev", "hole"])?;
        run_well("ip", &["link", "set", "hole", "up"])?;
        let mut outside = Remote::outside()?;
        let mut serving = |bench: &Bench, address| -> Result<i64> {
            let act = Act::Sequence(vec![
                socket(V4, STREAM, libc::IPPROTO_SCTP),
                bind(Arg::Step(0), internet(address)),
                listen(Arg::Step(0)),
                call(libc::SYS_dup, [Arg::Step(0)]),
            ]);
            bench.allowed(&mut outside, &act)
        };
        let (allowed, denied) = (at("192.0.2.1:7000"), at("198.51.100.1:7000"));
        let servers = [serving(bench, allowed)?, serving(bench, denied)?];
        let mut agent = bench.user_agent()?;
        let nobody = internet(at("10.78.0.2:7000"));
        let sending = |other: [u8; 4]| {
            let what = (libc::IPPROTO_SCTP, SCTP_DSTADDRV4);
            Act::Sequence(vec![
                // Or it would wait for an answer.
                socket(V4, PACKETS | libc::SOCK_NONBLOCK, libc::IPPROTO_SCTP),
                send_with_control(Arg::Step(0), nobody.clone(), what, &other),
            ])
        };
        bench.log.skip()?;
        bench.allowed(&mut agent, &sending([198, 51, 100, 1]))?;
        bench.allowed(&mut agent, &sending([192, 0, 2, 1]))?;
        let rule = format!("{}/default", bench.profile);
        let wanted = Wanted::deny("net.send", &rule).address("sctp", denied);
        bench.log.wait(&crate::bench::of(&agent, wanted))?;
        // The twin gets through, and by then the other would have.
        let accepted = bench.allowed(&mut outside, &accept(servers[0]))?;
        ensure!(bench.allowed(&mut outside, &read(accepted))? == 4);
        let nobody_came = call(
            libc::SYS_accept4,
            [
                servers[1].into(),
                0.into(),
                0.into(),
                libc::SOCK_CLOEXEC.into(),
            ],
        );
        const O_NONBLOCK: i64 = libc::O_NONBLOCK as i64;
        let unblock = call(
            libc::SYS_fcntl,
            [servers[1].into(), libc::F_SETFL.into(), O_NONBLOCK.into()],
        );
        bench.allowed(&mut outside, &unblock)?;
        bench.fails(&mut outside, &nobody_came, libc::EAGAIN)
    })();
    run("ip", &["link", "delete", "hole"])?;
    result
}
