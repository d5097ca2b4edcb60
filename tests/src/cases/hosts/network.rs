//! Agents in a network namespace of their own, as in a container.

use std::{fs::File, os::fd::AsRawFd as _, thread};

use anyhow::{Result, ensure};

use super::{Dns, POLICY, WEB, connections::look_up, greet};
use crate::{
    bench::{Bench, Cgroup, run_well},
    daemon::wait_until,
    log::Wanted,
    remote::{
        Act, Arg, Outcome, Remote,
        calls::{at, call, connect, internet, socket_for},
    },
    scene::Case,
};

/// As Docker has it: a resolver that is only there inside, and knows others inside.
const EMBEDDED: &str = r#"
[hosts]
resolvers = "127.0.0.11"
[[allow]]
id = "web"
connect = "tcp://db:5432"
private = true
"#;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("hosts::in_a_network_namespace", own_network)
            .policy(POLICY)
            .limit(240),
        Case::new("hosts::a_resolver_of_the_profiles", own_resolver)
            .policy(EMBEDDED)
            .limit(240),
    ]
}

/// An agent in a network of its own, where only loopback is.
struct Inside {
    agent: Remote,
    _cgroup: Cgroup,
}

impl Inside {
    fn new(bench: &mut Bench) -> Result<Self> {
        let unshare = call(libc::SYS_unshare, [libc::CLONE_NEWNET.into()]);
        let (agent, cgroup) = bench.tagged_after(&[unshare])?;
        let inside = Self {
            agent,
            _cgroup: cgroup,
        };
        inside.there(|| {
            run_well("ip", &["link", "set", "lo", "up"])?;
            run_well("ip", &["address", "add", &format!("{WEB}/32"), "dev", "lo"])?;
            Ok(())
        })?;
        Ok(inside)
    }

    /// Does something there; what it starts stays there.
    fn there<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(format!("/proc/{}/ns/net", self.agent.pid()))?;
        let entered = || {
            // SAFETY: no memory is involved; only this thread goes there.
            let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            ensure!(result == 0, "{}", std::io::Error::last_os_error());
            act()
        };
        thread::scope(|scope| scope.spawn(entered).join())
            .map_err(|_| anyhow::anyhow!("the thread in the other network failed"))?
    }
}

fn connecting(address: &str) -> Act {
    let there = at(address);
    Act::Sequence(vec![
        socket_for(there, libc::SOCK_STREAM),
        connect(Arg::Step(0), internet(there)),
    ])
}

/// Asks until there is a resolver, which the daemon makes when it has seen that somebody is there.
fn looks_up(bench: &Bench, inside: &mut Inside, name: &str) -> Result<()> {
    let resolver = at(&format!("{}:53", super::RESOLVER));
    let act = Act::Sequence(vec![
        socket_for(resolver, libc::SOCK_DGRAM),
        connect(Arg::Step(0), internet(resolver)),
    ]);
    wait_until("there is a resolver", || {
        Ok(matches!(inside.agent.act(&act)?, Outcome::Done(_)))
    })?;
    look_up(bench, &mut inside.agent, name)?;
    Ok(())
}

fn own_network(bench: &mut Bench) -> Result<()> {
    let _dns = Dns::start(bench)?;
    let web = format!("{WEB}:80");
    let mut inside = Inside::new(bench)?;
    inside.there(|| greet(&web))?;
    bench.fails(&mut inside.agent, &connecting(&web), libc::EPERM)?;
    looks_up(bench, &mut inside, "www.example.test")?;
    bench.log.skip()?;
    bench.allowed(&mut inside.agent, &connecting(&web))?;
    bench.log.wait(
        &Wanted::allow("net.connect")
            .with("/object/name", "www.example.test")
            .address("tcp", at(&web)),
    )?;
    // Outside nobody was let go by it.
    let mut outside = bench.agent()?;
    bench.fails(&mut outside, &connecting(&web), libc::EPERM)
}

fn own_resolver(bench: &mut Bench) -> Result<()> {
    let _host = Dns::start(bench)?;
    let mut inside = Inside::new(bench)?;
    let embedded = inside.there(|| {
        greet(&format!("{WEB}:5432"))?;
        Dns::at(bench, "127.0.0.11", &format!("host-record=db,{WEB}\n"))
    })?;
    looks_up(bench, &mut inside, "db")?;
    ensure!(embedded.was_asked("db")?);
    bench.allowed(&mut inside.agent, &connecting(&format!("{WEB}:5432")))?;
    Ok(())
}
