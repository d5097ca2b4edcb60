//! Where systemd is: names as its service answers them, and systemd-resolved, whose stub is asked by this daemon and by no
//! agent, and of which what it offers beside DNS is closed.

use std::fs;

use anyhow::{Result, ensure};

use super::{Dns, POLICY, RESOLVER, WEB, fetches, greet, in_own_network, runs};
use crate::{
    bench::{Bench, run_well},
    daemon::{Daemon, wait_until},
    log::Wanted,
    scene::{Case, Root, Scene},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("hosts::with_systemd_resolved", with_resolved)
            .policy(&format!(
                "{POLICY}\n[default]\nfile = \"allow\"\nexec = \"allow\"\nconnect = \"deny\"\nlisten = \"deny\"\n"
            ))
            .second(OPEN)
            .scene(Scene::OwnBoot {
                append: "",
                root: Root::Systemd,
            })
            .limit(600),
        Case::new("hosts::under_the_service", under_the_service)
            .policy(POLICY)
            .scene(Scene::OwnBoot {
                append: "",
                root: Root::Systemd,
            })
            .limit(300),
    ]
}

/// The unit takes from the daemon what it needs for nothing; this is not that.
fn under_the_service(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let dns = Dns::start(bench)?;
    run_well("systemctl", &["start", "agentguard.service"])?;
    let served = run_under_the_service(bench, &dns);
    run_well("systemctl", &["stop", "agentguard.service"])?;
    served
}

fn run_under_the_service(bench: &mut Bench, dns: &Dns) -> Result<()> {
    let both = |bench: &mut Bench| {
        greet(&format!("{WEB}:80"))?;
        let (agent, said) = fetches(bench, "http://www.example.test/")?;
        said.ends(0)?.prints(&["hello"])?;
        let answered = Wanted::allow("net.resolve").with("/object/name", "www.example.test");
        bench.log.wait(&answered.agent(&agent))?;
        let (agent, said) = fetches(bench, "http://bad.cdn.test/")?;
        said.ends(6)?;
        bench
            .log
            .wait(&Wanted::deny("net.resolve", "bad").agent(&agent))?;
        ensure!(!dns.was_asked("bad.cdn.test")?);
        Ok(())
    };
    both(bench)?;
    in_own_network(|| both(bench))
}

/// Everything but one host.
const OPEN: &str = r#"
[default]
file = "allow"
exec = "allow"
connect = "allow"
[[deny]]
id = "bad"
connect = "bad.cdn.test"
"#;

fn with_resolved(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let dns = Dns::start(bench)?;
    greet(&format!("{WEB}:80"))?;
    // It answers nobody while no device but loopback is up. The other end's name is the kernel's choice.
    run_well("busybox", &["modprobe", "veth"])?;
    for line in [
        "link add near type veth",
        "address add 10.99.0.1/24 dev near",
        "link set near up",
        "link set veth0 up",
    ] {
        run_well("ip", &line.split(' ').collect::<Vec<_>>())?;
    }
    fs::create_dir_all("/etc/systemd/resolved.conf.d")?;
    fs::write(
        "/etc/systemd/resolved.conf.d/test.conf",
        format!("[Resolve]\nDNS={RESOLVER}\nDomains=~.\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n"),
    )?;
    fs::write(
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files resolve [!UNAVAIL=return] dns\n",
    )?;
    fs::remove_file("/etc/resolv.conf")?;
    std::os::unix::fs::symlink("/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")?;
    run_well("systemctl", &["restart", "systemd-resolved"])?;
    wait_until("systemd-resolved answers", || {
        Ok(run_well("resolvectl", &["query", "www.example.test"]).is_ok())
    })?;
    let daemon = Daemon::start()?;
    let script = "import socket; print(socket.gethostbyname('www.example.test')); \
                  s = socket.create_connection(('www.example.test', 80)); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(200)[-6:])";
    let (agent, said) = runs(bench, &["python3", "-c", script])?;
    said.ends(0)?.prints(&[WEB, "hello"])?;
    // nss-resolve asks over its socket first, and then over DNS.
    bench.log.wait(
        &Wanted::action("unix.connect")
            .with("/verdict", "deny")
            .with("/object/path", "/run/systemd/resolve/io.systemd.Resolve")
            .agent(&agent),
    )?;
    bench.log.wait(
        &Wanted::allow("net.resolve")
            .with("/object/name", "www.example.test")
            .agent(&agent),
    )?;
    let refused = "import socket\ntry: print(socket.gethostbyname('bad.cdn.test'))\nexcept OSError as e: print('no', e.errno)";
    let (agent, said) = runs(bench, &["python3", "-c", refused])?;
    said.ends(0)?.prints(&["no -"])?;
    bench
        .log
        .wait(&Wanted::deny("net.resolve", "bad").agent(&agent))?;

    // Where the default would open it.
    let name = bench.name();
    let second = bench.second_profile();
    for (host, wanted) in [("bad.cdn.test", "no -"), ("elsewhere.test", super::OTHER)] {
        let script = refused.replace("bad.cdn.test", host);
        let agent = format!("{name}-{}", host.len());
        let said = crate::said::Said::by(&[
            "run",
            "--profile",
            &second,
            "--name",
            &agent,
            "--",
            "python3",
            "-c",
            &script,
        ])?;
        said.ends(0)?.prints(&[wanted])?;
        bench
            .log
            .wait(&Wanted::deny("unix.connect", "agentguard/name-services").agent(&agent))?;
    }
    ensure!(!dns.was_asked("bad.cdn.test")?);
    daemon.stop()
}
