# What a coding agent does with an index of packages on this machine ($2: its address) and with servers of its
# own, as an ordinary user, in its home ($1).
PS4='+ ${SECONDS} s: '
set -eux
cd "$1"
index=$2
export HOME="$PWD"

# pip: a virtual environment, a wheel with a dependency, a package that is built here.
python3 -m venv --without-pip venv
pip="python3 -m pip --python venv/bin/python --disable-pip-version-check --quiet"
$pip install --index-url "$index/simple/" wheel-of-work source-of-work
venv/bin/wheel-of-work | grep -qx 'a wheel and its part'
venv/bin/python -c 'import source_of_work; assert source_of_work.word == "built"'
$pip uninstall -y source-of-work

# pip: a package whose builder pip gets for it, with a program of its own, and which compiles and loads a library.
$pip install --index-url "$index/simple/" compiled-of-work
venv/bin/python -c 'import compiled_of_work; assert compiled_of_work.answer() == 42'
# What a user installs for all of their work.
python3 -m pip install --user --break-system-packages --disable-pip-version-check --quiet --index-url "$index/simple/" wheel-of-work
.local/bin/wheel-of-work | grep -qx 'a wheel and its part'

# npm: a package with a dependency, a program and a script of its own.
mkdir site
cd site
npm install --no-audit --no-fund --registry "$index/npm/" tool-of-work
node_modules/.bin/tool-of-work | grep -qx 'a tool and its part'
test -f node_modules/tool-of-work/installed
cd ..

# A test run with sockets on loopback.
cargo new -q --lib echo
cat >echo/src/lib.rs <<'END'
/// ```
/// assert_eq!(echo::echo("hello"), "hello");
/// ```
pub fn echo(text: &str) -> &str {
    text
}

#[cfg(test)]
mod tests {
    use std::{io::{Read, Write}, net::{TcpListener, TcpStream, UdpSocket}, os::unix::net::UnixStream, thread};

    #[test]
    fn streams() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = TcpListener::bind(address).unwrap();
            let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let echo = thread::spawn(move || {
                let (mut peer, _) = server.accept().unwrap();
                let mut text = [0; 5];
                peer.read_exact(&mut text).unwrap();
                peer.write_all(&text).unwrap();
            });
            client.write_all(b"hello").unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
            echo.join().unwrap();
        }
    }

    #[test]
    fn datagrams() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
        assert_eq!(server.recv_from(&mut [0; 8]).unwrap().0, 5);
    }

    #[test]
    fn pairs() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        one.write_all(b"hello").unwrap();
        other.read_exact(&mut [0; 5]).unwrap();
    }
}
END
(cd echo && cargo test -q --offline)

# A headless tool: fetches a page from the agent's own server, reads it and draws it, without a terminal.
cat >render.js <<'END'
const fs = require("fs"), http = require("http"), zlib = require("zlib");
const server = http.createServer((_, answer) => answer.end("<h1>work</h1>")).listen(0, "127.0.0.1", () =>
    http.get(server.address(), page => {
        let text = "";
        page.on("data", part => text += part);
        page.on("end", () => {
            fs.writeFileSync("page.gz.tmp", zlib.gzipSync(text.replace(/<[^>]*>/g, "")));
            fs.renameSync("page.gz.tmp", "page.gz");
            server.close();
        });
    }));
END
setsid -w node render.js </dev/null
zcat page.gz | grep -qx work
python3 -m http.server --bind 127.0.0.1 38400 2>/dev/null & server=$!
curl -s --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:38400/page.gz | zcat | grep -qx work
kill "$server"

# A test run of node's with a server wherever there is room, and one for datagrams.
cat >listen.js <<'END'
const assert = require("assert"), dgram = require("dgram"), http = require("http");
const server = http.createServer((_, answer) => answer.end("work")).listen(0, async () => {
    for (const host of ["127.0.0.1", "[::1]", "localhost"]) {
        const answer = await fetch(`http://${host}:${server.address().port}/`);
        assert.equal(await answer.text(), "work");
    }
    server.close();
    server.closeAllConnections();
});
const datagrams = dgram.createSocket("udp4").on("message", text => {
    assert.equal(text.toString(), "work");
    datagrams.close();
});
const sender = dgram.createSocket("udp4");
datagrams.bind(15353, "127.0.0.1", () => sender.send("work", 15353, "127.0.0.1", () => sender.close()));
END
node listen.js
