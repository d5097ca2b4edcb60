//! `sni = "require"`: several hosts at one address, of which rules open some.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Dns, WEB, WEB_V6, in_both, runs};
use crate::{bench::Bench, daemon::wait_until, log::Wanted, remote::calls::at, scene::Case};

const POLICY: &str = r#"
[[allow]]
id = "hosts"
connect = ["tcp://www.example.test:443", "tcp://*.cdn.test:443"]
sni = "require"

[[allow]]
id = "free"
connect = "tcp://www.example.test:444"

[[deny]]
id = "bad"
connect = "bad.cdn.test"
"#;

pub fn cases() -> Vec<Case> {
    in_both("hosts::tls_must_name_a_host_that_is_open", names)
        .map(|case| case.policy(POLICY).limit(300))
        .into()
}

/// A key and its certificate, made for this server alone.
const KEY: &str = include_str!("server.pem");

/// Answers with the name that was asked for, and anybody who speaks no TLS not at all.
const SERVER: &str = r#"
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
names = {}
def named(connection, name, _):
    names[connection] = name
context.sni_callback = named
def serve(stream):
    try:
        with context.wrap_socket(stream, server_side=True) as tls:
            tls.recv(4096)
            body = f'hello {names.pop(tls, None)}\n'.encode()
            tls.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
    except OSError:
        pass
def listen(family, host, port):
    server = socket.socket(family); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port)); server.listen()
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
for family, host, port in ((socket.AF_INET, sys.argv[2], 443), (socket.AF_INET, sys.argv[2], 444), (socket.AF_INET6, sys.argv[3], 443)):
    threading.Thread(target=listen, args=(family, host, port), daemon=True).start()
threading.Event().wait()
"#;

struct Server(Child);

impl Server {
    fn start(bench: &Bench) -> Result<Self> {
        fs::create_dir_all(&bench.dir)?;
        let key = bench.path("server.pem");
        fs::write(&key, KEY)?;
        let child = Command::new("python3")
            .args(["-c", SERVER])
            .arg(&key)
            .args([WEB, WEB_V6])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the server")?;
        let server = Self(child);
        for address in [
            format!("{WEB}:443"),
            format!("{WEB}:444"),
            format!("[{WEB_V6}]:443"),
        ] {
            wait_until("the server is there", || {
                Ok(std::net::TcpStream::connect(at(&address)).is_ok())
            })?;
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What says hello in every way: prints which ways the server answered.
const HELLOS: &str = r#"
import json, socket, ssl, struct, sys
host, host6 = sys.argv[1:]
socket.getaddrinfo('www.example.test', 443); socket.getaddrinfo('both.cdn.test', 443)
def hello(name, **change):
    context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try: tls.do_handshake()
    except ssl.SSLWantReadError: pass
    return out.read()
def extended(data, extension):
    # Another extension behind the others, with all lengths around it.
    at = 5 + 4 + 34; at += 1 + data[at]; at += 2 + struct.unpack_from('>H', data, at)[0]; at += 1 + data[at]
    total = struct.unpack_from('>H', data, at)[0]
    body = data[5 + 4:at] + struct.pack('>H', total + len(extension)) + data[at + 2:] + extension
    return data[:3] + struct.pack('>H', len(body) + 4) + b'\x01' + len(body).to_bytes(3, 'big') + body
def answered(pieces, family=socket.AF_INET, to=(host, 443)):
    s = socket.socket(family); s.settimeout(20); s.connect(to)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.settimeout(2)
    try:
        for piece in pieces:
            s.sendall(piece)
        return s.recv(5)[:1] == b'\x16'
    except OSError:
        return False
    finally:
        s.close()
right = hello('www.example.test')
other = hello('a.cdn.test')
ways = {
    'right': [right], 'other right': [other], 'upper': [hello('WWW.Example.TEST')],
    'bad': [hello('bad.cdn.test')], 'another': [hello('evil.test')], 'below': [hello('x.www.example.test')],
    'none': [hello(None)], 'no TLS': [b'GET / HTTP/1.0\r\n\r\n'],
    # What was dropped is sent again, in one piece.
    'split': [right[:60], right[60:]], 'split another': [(evil := hello('evil.test'))[:60], evil[60:]], 'a byte': [evil[:1], evil[1:]],
    'two names': [extended(right, b'\0\0\0\x0e\0\x0c\0\0\x09evil.test')],
    'hidden': [extended(right, b'\xfe\x0d\0\x04abcd')],
    'long': [extended(right, struct.pack('>HH', 0x1234, 1200) + bytes(1200))],
    'longer': [extended(right, struct.pack('>HH', 0x1234, 8000) + bytes(8000))],
    'cut': [right[:-20]],
}
said = {way: answered(pieces) for way, pieces in ways.items()}
said['v6'] = answered([other], socket.AF_INET6, (host6, 443))
said['v6 another'] = answered([hello('evil.test')], socket.AF_INET6, (host6, 443))
said['another port'] = answered([hello('evil.test')], to=(host, 444))
print(json.dumps(said))
"#;

fn names(bench: &mut Bench, _: &Dns) -> Result<()> {
    let _server = Server::start(bench)?;
    // Programs as they are.
    for name in ["www.example.test", "a.cdn.test", "both.cdn.test"] {
        let (_, said) = runs(
            bench,
            &[
                "curl",
                "-sSk",
                "--max-time",
                "30",
                &format!("https://{name}/"),
            ],
        )?;
        said.ends(0)?.prints(&[&format!("hello {name}")])?;
    }
    let script = format!(
        "curl -sSk https://www.example.test/ && curl -sSk --max-time 5 --resolve evil.test:443:{WEB} https://evil.test/"
    );
    let (agent, said) = runs(bench, &["sh", "-c", &script])?;
    ensure!(said.status.code() == Some(28), "{}", said.all());
    said.prints(&["hello www.example.test"])?;
    bench.log.wait(
        &Wanted::refusal("net.send", "server-name")
            .with("/object/name", "www.example.test")
            .address("tcp", at(&format!("{WEB}:443")))
            .agent(&agent),
    )?;

    let (_, said) = runs(bench, &["python3", "-c", HELLOS, WEB, WEB_V6])?;
    let said = said.ends(0)?.json()?;
    for way in [
        "right",
        "other right",
        "upper",
        "long",
        "longer",
        "v6",
        "another port",
    ] {
        ensure!(said[way] == json!(true), "{way}: {said}");
    }
    for way in [
        "bad",
        "another",
        "below",
        "none",
        "no TLS",
        "split another",
        "a byte",
        "two names",
        "hidden",
        "cut",
        "v6 another",
    ] {
        ensure!(said[way] == json!(false), "{way}: {said}");
    }
    Ok(())
}
