//! Rules about hosts, with a real resolver (dnsmasq) and real clients (curl, Python).

mod connections;
mod lookups;
mod network;
mod resolved;
mod tls;

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{Bench, run_well},
    daemon::wait_until,
    remote::calls::at,
    said::Said,
    scene::Case,
};

/// Where the host's resolver is.
const RESOLVER: &str = "192.0.2.53";
/// Hosts, whose names lead here as the resolver is told.
const WEB: &str = "203.0.113.80";
const OTHER: &str = "203.0.113.81";
const INSIDE: &str = "10.20.0.80";
const METADATA: &str = "169.254.169.254";
const WEB_V6: &str = "2001:db8::80";
/// Where somebody else's resolver is.
const HOSTILE: &str = "203.0.113.1";

/// What nearly every case's profile says.
const POLICY: &str = r#"
[[allow]]
id = "web"
connect = ["tcp://www.example.test:80", "tcp://*.cdn.test:80", "udp://www.example.test:5000"]

[[allow]]
id = "inside"
connect = "tcp://inside.example.test:80"
private = true

[[deny]]
id = "bad"
connect = "bad.cdn.test"
because = "It is known for what it does."
"#;

/// What the resolver says, as dnsmasq is told.
const RECORDS: &str = "
host-record=www.example.test,203.0.113.80
host-record=a.cdn.test,203.0.113.80
host-record=bad.cdn.test,203.0.113.80
host-record=other.cdn.test,203.0.113.81
host-record=inside.example.test,10.20.0.80
host-record=trap.cdn.test,10.20.0.80
host-record=metadata.cdn.test,169.254.169.254
host-record=both.cdn.test,203.0.113.80,2001:db8::80
host-record=elsewhere.test,203.0.113.81
cname=alias.cdn.test,elsewhere.test
txt-record=long.cdn.test,XXXX
";

pub fn cases() -> Vec<Case> {
    let mut cases = lookups::cases();
    cases.extend(connections::cases());
    cases.extend(network::cases());
    cases.extend(resolved::cases());
    cases.extend(tls::cases());
    cases
}

/// A case in the host's network namespace, and the same in one of its own. The resolver and daemons are
/// in the host's.
fn in_both(name: &str, play: fn(&mut Bench, &Dns) -> Result<()>) -> [Case; 2] {
    let host = Case::closure(name, move |bench| {
        let dns = Dns::start(bench)?;
        play(bench, &dns)
    });
    let own = Case::closure(&format!("{name}_in_own_network"), move |bench| {
        let dns = Dns::start(bench)?;
        in_own_network(|| play(bench, &dns))
    });
    [host, own]
}

/// Does something in a new network, where only loopback is, with the addresses of hosts; what it
/// starts stays there.
fn in_own_network(act: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let entered = || {
        // SAFETY: no memory is involved; only this thread goes there.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        ensure!(result == 0, "{}", std::io::Error::last_os_error());
        run_well("ip", &["link", "set", "lo", "up"])?;
        for address in [WEB, OTHER, INSIDE, METADATA, HOSTILE] {
            run_well(
                "ip",
                &["address", "add", &format!("{address}/32"), "dev", "lo"],
            )?;
        }
        run_well(
            "ip",
            &["address", "add", &format!("{WEB_V6}/128"), "dev", "lo"],
        )?;
        act()
    };
    thread::scope(|scope| scope.spawn(entered).join())
        .map_err(|_| anyhow::anyhow!("the thread in the other network failed"))?
}

/// The host's resolver, until it is dropped.
struct Dns {
    child: Child,
    log: PathBuf,
}

impl Dns {
    /// One that knows [`RECORDS`], at [`RESOLVER`], as the host's configuration says.
    fn start(bench: &Bench) -> Result<Self> {
        for address in [RESOLVER, WEB, OTHER, INSIDE, METADATA] {
            // It is there already after another case.
            Said::by_shell(&format!("ip address add {address}/32 dev lo 2>/dev/null"))?;
        }
        Said::by_shell(&format!(
            "ip address add {WEB_V6}/128 dev lo nodad 2>/dev/null || ip address add {WEB_V6}/128 dev lo 2>/dev/null"
        ))?;
        fs::write(
            "/etc/resolv.conf",
            format!("nameserver {RESOLVER}\noptions timeout:5 attempts:2\n"),
        )?;
        Self::at(bench, RESOLVER, RECORDS)
    }

    /// One at another address, which knows other things.
    fn at(bench: &Bench, address: &str, records: &str) -> Result<Self> {
        let name = address.replace([':', '.'], "-");
        let configuration = bench.path(&format!("dns-{name}.conf"));
        let log = bench.path(&format!("dns-{name}.log"));
        fs::create_dir_all(&bench.dir)?;
        // An answer of more than 512 bytes.
        let records = records.replace("XXXX", &[["x"; 200].concat().as_str(); 3].join(","));
        fs::write(
            &configuration,
            format!(
                "no-resolv\nno-hosts\nno-daemon\nuser=root\nlisten-address={address}\nbind-interfaces\nlocal=/test/\n\
                 log-queries\nlog-facility={}\nmin-cache-ttl=0\nlocal-ttl=1\n{records}",
                log.display()
            ),
        )?;
        let child = Command::new("dnsmasq")
            .arg("--keep-in-foreground")
            .arg(format!("--conf-file={}", configuration.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start dnsmasq")?;
        let dns = Self { child, log };
        let there: SocketAddr = at(&format!("{address}:53"));
        wait_until("the resolver is there", || {
            Ok(std::net::TcpStream::connect(there).is_ok())
        })?;
        Ok(dns)
    }

    /// Whether it was asked for this name.
    fn was_asked(&self, name: &str) -> Result<bool> {
        let text = fs::read_to_string(&self.log)?;
        Ok(text
            .lines()
            .any(|line| line.contains("query[") && line.contains(&format!(" {name} "))))
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says "hello" to everybody who connects, for as long as the guest runs.
fn greet(address: &str) -> Result<()> {
    let address = at(address);
    let listener = match TcpListener::bind(address) {
        // An earlier case's, which goes on.
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => return Ok(()),
        listener => listener?,
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                use std::io::Read as _;
                let mut stream = stream;
                let mut buffer = [0; 1024];
                // As HTTP has it, and for whoever says something again.
                while let Ok(1..) = stream.read(&mut buffer) {
                    let said = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
                    if stream.write_all(said).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(())
}

/// Runs a command as a new agent, whose name comes with what it said.
fn runs(bench: &mut Bench, command: &[&str]) -> Result<(String, Said)> {
    let name = bench.name();
    let profile = bench.profile.clone();
    let mut arguments = vec!["run", "--profile", &profile, "--name", &name, "--"];
    arguments.extend(command);
    let said = Said::by(&arguments)?;
    Ok((name, said))
}

/// The same with curl, for what is at an address.
fn fetches(bench: &mut Bench, url: &str) -> Result<(String, Said)> {
    runs(bench, &["curl", "-sS", "--max-time", "20", url])
}
