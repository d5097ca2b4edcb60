//! What is looked up, by every way that programs have, and what becomes of it.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Dns, HOSTILE, OTHER, POLICY, RESOLVER, WEB, fetches, greet, in_both, runs};
use crate::{bench::Bench, log::Wanted, remote::calls::at, scene::Case};

pub fn cases() -> Vec<Case> {
    let case = |name, play| in_both(name, play).map(|case| case.policy(POLICY).limit(240));
    [
        case("hosts::a_name_opens_what_it_is_answered_with", opens),
        case("hosts::a_refused_name_is_refused_at_once", refused),
        case("hosts::every_way_to_ask", ways),
        case("hosts::another_resolver_gains_nothing", another_resolver),
        case("hosts::what_is_inside_stays_closed", inside),
        case("hosts::malformed_questions", malformed),
        case("hosts::more_questions_than_one_may_ask", too_many),
        case("hosts::names_that_are_searched_for", searched),
        case("hosts::the_machines_own_file_opens_nothing", own_file),
        case("hosts::audit_only_tells", audit).map(|case| case.policy(AUDIT)),
    ]
    .into_iter()
    .flatten()
    // Where nothing stands between, the host's resolver must be in reach.
    .chain([Case::new(
        "hosts::without_rules_about_them_lookups_are_ordinary",
        ordinary,
    )
    .policy(ORDINARY)
    .limit(240)])
    .collect()
}

const AUDIT: &str = r#"
mode = "audit"
[[deny]]
id = "bad"
connect = "bad.cdn.test"
"#;

const ORDINARY: &str = r#"
[[allow]]
id = "resolver"
connect = "udp://192.0.2.53:53"
"#;

fn resolved(name: &str) -> Wanted {
    Wanted::allow("net.resolve").with("/object/name", name)
}

fn opens(bench: &mut Bench, _: &Dns) -> Result<()> {
    greet(&format!("{WEB}:80"))?;
    greet(&format!("{WEB}:81"))?;
    // Nobody knows it yet.
    let (agent, said) = fetches(bench, &format!("http://{WEB}/"))?;
    said.ends(7)?;
    let default = format!("{}/default", bench.profile);
    let denied = Wanted::deny("net.connect", &default).address("tcp", at(&format!("{WEB}:80")));
    bench.log.wait(&denied.agent(&agent))?;

    let (agent, said) = fetches(bench, "http://www.example.test/")?;
    said.ends(0)?.prints(&["hello"])?;
    let event = bench.log.wait(
        &resolved("www.example.test")
            .with("/rule", "web")
            .with("/object/type", "A")
            .agent(&agent),
    )?;
    ensure!(event["object"]["addresses"] == json!([WEB]), "{event}");
    ensure!(event["process"]["exe"] == "/usr/bin/curl", "{event}");
    bench.log.wait(
        &Wanted::allow("net.connect")
            .with("/rule", "web")
            .with("/object/name", "www.example.test")
            .address("tcp", at(&format!("{WEB}:80")))
            .agent(&agent),
    )?;

    // What one agent was answered is not the next one's.
    let (agent, said) = fetches(bench, &format!("http://{WEB}/"))?;
    said.ends(7)?;
    bench.log.wait(
        &Wanted::deny("net.connect", &default)
            .address("tcp", at(&format!("{WEB}:80")))
            .agent(&agent),
    )?;
    // Another port, another host at the same address, an alias, a name with a dot, letters of either case.
    let (agent, said) = fetches(bench, "http://www.example.test:81/")?;
    said.ends(7)?;
    bench.log.wait(
        &Wanted::deny("net.connect", &default)
            .with("/object/name", "www.example.test")
            .address("tcp", at(&format!("{WEB}:81")))
            .agent(&agent),
    )?;
    greet(&format!("{OTHER}:80"))?;
    for url in [
        "http://a.cdn.test/",
        "http://alias.cdn.test/",
        "http://www.example.test./",
        "http://WWW.Example.TEST/",
    ] {
        let (_, said) = fetches(bench, url)?;
        said.ends(0)?.prints(&["hello"])?;
    }
    // The same address by another name, after it was opened by one.
    let both = format!(
        "curl -sS http://a.cdn.test/ && curl -sS --resolve bad.cdn.test:80:{WEB} http://bad.cdn.test/"
    );
    let (_, said) = runs(bench, &["sh", "-c", &both])?;
    said.ends(0)?;
    Ok(())
}

fn refused(bench: &mut Bench, dns: &Dns) -> Result<()> {
    for (name, rule, because) in [
        ("bad.cdn.test", "bad".to_owned(), true),
        (
            "secret-0123456789.attacker.test",
            format!("{}/default", bench.profile),
            false,
        ),
        (
            "x.www.example.test",
            format!("{}/default", bench.profile),
            false,
        ),
        (
            "80.113.0.203.in-addr.arpa",
            format!("{}/default", bench.profile),
            false,
        ),
    ] {
        let script = format!(
            "import socket\ntry:\n  socket.getaddrinfo('{name}', 80)\nexcept socket.gaierror as e:\n  print(e.errno)"
        );
        let (agent, said) = runs(bench, &["python3", "-c", &script])?;
        // EAI_AGAIN: a resolver that refuses is not one that knows of no such name.
        said.ends(0)?.prints(&["-3"])?;
        let event = bench.log.wait(
            &Wanted::deny("net.resolve", &rule)
                .with("/object/name", name)
                .with("/object/response", "REFUSED")
                .agent(&agent),
        )?;
        ensure!(event["because"].is_string() == because, "{event}");
        ensure!(!dns.was_asked(name)?, "{name} was asked for outside");
    }
    // The permitted twin.
    let script = "import socket; print(socket.gethostbyname('www.example.test'))";
    let (_, said) = runs(bench, &["python3", "-c", script])?;
    said.ends(0)?.prints(&[WEB])?;
    ensure!(dns.was_asked("www.example.test")?);
    Ok(())
}

/// What asks, in Python: prints for each way who is said to have answered, and whether the answer is right.
const ASK: &str = r#"
import json, socket, struct, sys
S, name = sys.argv[1], sys.argv[2]
def question(name, kind=1, edns=False):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.'))
    opt = b'\0\0\x29\x04\xd0\0\0\0\0\0\0' if edns else b''
    return struct.pack('>HHHHHH', 0x4711, 0x100, 1, 0, 0, 1 if edns else 0) + labels + b'\0' + struct.pack('>HH', kind, 1) + opt
Q = question(name)
def right(answer):
    return answer[:2] == Q[:2] and answer[3] & 15 == 0 and socket.inet_aton('203.0.113.80') in answer
def udp(family, server, connect):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(15)
    if connect:
        s.connect((server, 53)); s.send(Q)
        answer, source = s.recvfrom(2000)
        assert s.getpeername()[0] == source[0] == server, (s.getpeername(), source)
    else:
        s.sendto(Q, (server, 53))
        answer, source = s.recvfrom(2000)
    return [source[0], source[1], right(answer)]
def exactly(s, n):
    data = b''
    while len(data) < n:
        more = s.recv(n - len(data))
        assert more, 'closed'
        data += more
    return data
def tcp(family, server, fast):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(15)
    framed = struct.pack('>H', len(Q)) + Q
    if fast:
        s.settimeout(None); s.sendto(framed, 0x20000000, (server, 53)); s.settimeout(15)
    else:
        s.connect((server, 53)); s.sendall(framed)
    peer = s.getpeername()
    answer = exactly(s, struct.unpack('>H', exactly(s, 2))[0])
    return [peer[0], peer[1], right(answer)]
V4, V6, mapped = socket.AF_INET, socket.AF_INET6, '::ffff:' + S
ways = {
    'udp': lambda: udp(V4, S, False), 'udp-connected': lambda: udp(V4, S, True),
    'tcp': lambda: tcp(V4, S, False), 'tcp-fast-open': lambda: tcp(V4, S, True),
    'mapped-udp': lambda: udp(V6, mapped, False), 'mapped-udp-connected': lambda: udp(V6, mapped, True),
    'mapped-tcp': lambda: tcp(V6, mapped, False),
    'v6-udp': lambda: udp(V6, '2001:db8::53', False), 'v6-udp-connected': lambda: udp(V6, '2001:db8::53', True),
    'v6-tcp': lambda: tcp(V6, '2001:db8::53', False),
}
said = {}
for way, ask in ways.items():
    try: said[way] = ask()
    except Exception as e: said[way] = repr(e)
s = socket.socket(V4, socket.SOCK_DGRAM); s.settimeout(15)
for q in (Q, question('www.example.test', 28)):
    s.sendto(q, (S, 53))
said['two-at-once'] = sorted(len(s.recvfrom(2000)[0]) > 0 for _ in range(2))
s.sendto(question('long.cdn.test', 16), (S, 53))
said['cut'] = s.recvfrom(4000)[0][2] & 2
s.sendto(question('www.example.test', 65), (S, 53))
answer = s.recvfrom(4000)[0]
said['https'] = [answer[3] & 15, answer[7]]
print(json.dumps(said))
"#;

fn ways(bench: &mut Bench, _: &Dns) -> Result<()> {
    let (agent, said) = runs(bench, &["python3", "-c", ASK, RESOLVER, "www.example.test"])?;
    let said = said.ends(0)?.json()?;
    let mapped = format!("::ffff:{RESOLVER}");
    for way in ["udp", "udp-connected", "tcp", "tcp-fast-open"] {
        ensure!(said[way] == json!([RESOLVER, 53, true]), "{way}: {said}");
    }
    for way in ["mapped-udp", "mapped-udp-connected", "mapped-tcp"] {
        ensure!(said[way] == json!([mapped, 53, true]), "{way}: {said}");
    }
    // Nobody is at that address: whoever is asked, it is the host's resolver that answers.
    for way in ["v6-udp", "v6-udp-connected", "v6-tcp"] {
        ensure!(
            said[way] == json!(["2001:db8::53", 53, true]),
            "{way}: {said}"
        );
    }
    ensure!(said["two-at-once"] == json!([true, true]), "{said}");
    ensure!(said["cut"] == 2, "{said}");
    ensure!(said["https"] == json!([0, 0]), "{said}");
    bench
        .log
        .wait(&resolved("www.example.test").agent(&agent))?;
    Ok(())
}

fn another_resolver(bench: &mut Bench, _: &Dns) -> Result<()> {
    greet(&format!("{OTHER}:80"))?;
    greet(&format!("{WEB}:80"))?;
    // One that says what the agent would like to hear, on the port of lookups and on others.
    let hostile = UdpSocket::bind(at(&format!("{HOSTILE}:53")))?;
    hostile.set_nonblocking(true)?;
    let (_, said) = runs(bench, &["python3", "-c", ASK, HOSTILE, "www.example.test"])?;
    let said = said.ends(0)?.json()?;
    ensure!(said["udp"] == json!([HOSTILE, 53, true]), "{said}");
    ensure!(
        hostile.recv(&mut [0; 512]).is_err(),
        "a question got to another resolver"
    );
    // Its own resolver, on loopback, and what it believes: the kernel believes none of it.
    let script = format!(
        "
import socket, sys
sys.path.insert(0, '/')
for host in ('{OTHER}', '{WEB}'):
    s = socket.socket(); s.settimeout(10)
    try: s.connect((host, 80)); print(host, 'open')
    except OSError as e: print(host, e.errno)
socket.gethostbyname('www.example.test')
for host in ('{OTHER}', '{WEB}'):
    s = socket.socket(); s.settimeout(10)
    try: s.connect((host, 80)); print(host, 'open')
    except OSError as e: print(host, e.errno)
for port, kind in ((853, socket.SOCK_STREAM), (853, socket.SOCK_DGRAM), (5353, socket.SOCK_DGRAM), (5355, socket.SOCK_DGRAM)):
    s = socket.socket(socket.AF_INET, kind)
    try: s.connect(('{RESOLVER}', port)); print(port, 'open')
    except OSError as e: print(port, e.errno)
"
    );
    let (agent, said) = runs(bench, &["python3", "-c", &script])?;
    let said = said.ends(0)?;
    ensure!(
        said.out
            == format!("{OTHER} 1\n{WEB} 1\n{OTHER} 1\n{WEB} open\n853 1\n853 1\n5353 1\n5355 1\n"),
        "{}",
        said.out
    );
    let default = format!("{}/default", bench.profile);
    bench.log.wait(
        &Wanted::deny("net.connect", &default)
            .address("tcp", at(&format!("{RESOLVER}:853")))
            .agent(&agent),
    )?;
    Ok(())
}

fn inside(bench: &mut Bench, _: &Dns) -> Result<()> {
    greet(&format!("{}:80", super::INSIDE))?;
    greet(&format!("{}:80", super::METADATA))?;
    let default = format!("{}/default", bench.profile);
    for (name, address) in [
        ("trap.cdn.test", super::INSIDE),
        ("metadata.cdn.test", super::METADATA),
    ] {
        let (agent, said) = fetches(bench, &format!("http://{name}/"))?;
        said.ends(7)?;
        let event = bench
            .log
            .wait(&resolved(name).with("/object/type", "A").agent(&agent))?;
        ensure!(event["object"]["private"] == json!([address]), "{event}");
        ensure!(event["object"]["addresses"] == Value::Null, "{event}");
        bench.log.wait(
            &Wanted::deny("net.connect", &default)
                .with("/object/name", name)
                .address("tcp", at(&format!("{address}:80")))
                .agent(&agent),
        )?;
    }
    // The rule that says so.
    let (agent, said) = fetches(bench, "http://inside.example.test/")?;
    said.ends(0)?.prints(&["hello"])?;
    bench.log.wait(
        &Wanted::allow("net.connect")
            .with("/rule", "inside")
            .agent(&agent),
    )?;
    Ok(())
}

/// A short name and a list of domains: all are tried, and only what a rule names is asked for outside.
fn searched(bench: &mut Bench, dns: &Dns) -> Result<()> {
    let script = "import socket; print(socket.gethostbyname('www.example.test'))";
    let name = bench.name();
    let said = crate::said::Said::by_command(
        std::process::Command::new("agentguard")
            .args(["run", "--profile", &bench.profile, "--name", &name, "--"])
            .args(["python3", "-c", script])
            .env("LOCALDOMAIN", "svc.cluster.local corp.test")
            .env("RES_OPTIONS", "ndots:5"),
    )?;
    said.ends(0)?.prints(&[WEB])?;
    for domain in ["svc.cluster.local", "corp.test"] {
        let made = format!("www.example.test.{domain}");
        bench.log.wait(
            &Wanted::action("net.resolve")
                .with("/verdict", "deny")
                .with("/object/name", made.as_str())
                .with("/object/response", "NXDOMAIN")
                .agent(&name),
        )?;
        ensure!(!dns.was_asked(&made)?, "{made} was asked for outside");
    }
    Ok(())
}

/// What a file says is what somebody wrote there: the kernel believes answers alone.
fn own_file(bench: &mut Bench, _: &Dns) -> Result<()> {
    greet(&format!("{OTHER}:80"))?;
    let before = std::fs::read_to_string("/etc/hosts")?;
    std::fs::write("/etc/hosts", format!("{before}{OTHER} www.example.test\n"))?;
    let fetched = fetches(bench, "http://www.example.test/");
    std::fs::write("/etc/hosts", before)?;
    let (agent, said) = fetched?;
    said.ends(7)?;
    let default = format!("{}/default", bench.profile);
    bench.log.wait(
        &Wanted::deny("net.connect", &default)
            .address("tcp", at(&format!("{OTHER}:80")))
            .agent(&agent),
    )?;
    Ok(())
}

fn malformed(bench: &mut Bench, _: &Dns) -> Result<()> {
    let script = format!(
        "
import os, socket, struct
def ask(s, data):
    s.send(data)
    try: return s.recv(2000)
    except TimeoutError: return b''
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10); s.connect(('{RESOLVER}', 53))
head = lambda n, flags=0x100: struct.pack('>HHHHHH', 0x4711, flags, n, 0, 0, 0)
q = b'\\3www\\7example\\4test\\0\\0\\1\\0\\1'
print(ask(s, head(1) + b'\\xc0\\x0c' * 4)[3] & 15)
print(ask(s, head(2) + q + q)[3] & 15)
print(ask(s, head(1, 0x2800) + q)[3] & 15)
print(ask(s, head(1) + b'\\4a/b\\0\\4test\\0\\0\\1\\0\\1')[3] & 15)
print(ask(s, head(1) + q[:-4] + b'\\0\\xff\\0\\1')[3] & 15)
s.settimeout(0.5)
s.send(head(1, 0x8100) + q)
for n in range(100):
    s.send(os.urandom(n))
t = socket.socket(); t.settimeout(10); t.connect(('{RESOLVER}', 53)); t.send(b'\\xff\\xff' + os.urandom(100)); t.close()
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.settimeout(15); d.connect(('{RESOLVER}', 53))
print(ask(d, head(1) + q)[3] & 15)
"
    );
    let (agent, said) = runs(bench, &["python3", "-c", &script])?;
    let said = said.ends(0)?;
    // FORMERR twice, NOTIMP, REFUSED twice; then all is as before.
    ensure!(said.out == "1\n1\n4\n5\n5\n0\n", "{}", said.out);
    bench
        .log
        .wait(&Wanted::refusal("net.resolve", "malformed-question").agent(&agent))?;
    bench
        .log
        .wait(&Wanted::refusal("net.resolve", "no-host-name").agent(&agent))?;
    bench
        .log
        .wait(&Wanted::refusal("net.resolve", "unsupported-question").agent(&agent))?;
    Ok(())
}

/// Names carry data out of a machine, one question after the other.
fn too_many(bench: &mut Bench, _: &Dns) -> Result<()> {
    let script = format!(
        "
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(15); s.connect(('{RESOLVER}', 53))
def ask(number):
    s.send(struct.pack('>HHHHHH', number, 0x100, 1, 0, 0, 0) + b'\\3www\\7example\\4test\\0\\0\\1\\0\\1')
    while True:
        answer = s.recv(2000)
        if answer[:2] == struct.pack('>H', number): return answer[3] & 15
answers = [ask(0)]
while 5 not in answers and len(answers) < 60000: answers.append(ask(len(answers)))
print(answers[0], answers[-1], len(answers) >= 200)
"
    );
    let (agent, said) = runs(bench, &["python3", "-c", &script])?;
    said.ends(0)?.prints(&["0 5 True"])?;
    bench
        .log
        .wait(&Wanted::refusal("net.resolve", "too-many-questions").agent(&agent))?;
    // Another agent has what it had.
    let script = "import socket; print(socket.gethostbyname('www.example.test'))";
    let (_, said) = runs(bench, &["python3", "-c", script])?;
    said.ends(0)?.prints(&[WEB])?;
    Ok(())
}

fn audit(bench: &mut Bench, _: &Dns) -> Result<()> {
    greet(&format!("{WEB}:80"))?;
    let (agent, said) = fetches(bench, "http://bad.cdn.test/")?;
    said.ends(0)?.prints(&["hello"])?;
    for action in ["net.resolve", "net.connect"] {
        bench.log.wait(
            &Wanted::action(action)
                .with("/verdict", "audit")
                .with("/would", "deny")
                .with("/rule", "bad")
                .agent(&agent),
        )?;
    }
    Ok(())
}

fn ordinary(bench: &mut Bench) -> Result<()> {
    let dns = Dns::start(bench)?;
    let script = "import socket; print(socket.gethostbyname('elsewhere.test'))";
    let (agent, said) = runs(bench, &["python3", "-c", script])?;
    said.ends(0)?.prints(&[OTHER])?;
    ensure!(dns.was_asked("elsewhere.test")?);
    bench.log.wait(
        &Wanted::allow("net.connect")
            .address("udp", at(&format!("{RESOLVER}:53")))
            .agent(&agent),
    )?;
    Ok(())
}
