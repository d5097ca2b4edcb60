//! `cargo xtask bench`, the half of it in a guest: what actions cost under AgentGuard, in guest instructions. The guest's
//! clock counts them, one nanosecond each, on its only processor, so that differences of that clock are the figures.

mod held;
mod operations;
mod others;
#[path = "../../agentguard/benches/compile/rules.rs"]
mod rules;
mod supervisor;
mod waits;
mod weights;

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

pub use self::{
    held::moments, operations::run, others::landlocked, supervisor::supervised, waits::acts,
};
use crate::{
    bench::{POLICIES, run_well},
    daemon::{Daemon, wait_until},
    remote::PROGRAM,
};

/// The files that are opened; rules ask about the second folder.
const FOLDER: &str = "/srv/measured";
/// Where is connected to: somebody listens there, in both families of sockets.
const TCP: &str = "203.0.113.81:443";
const TCP_BY_NAME: &str = "www.example.test:443";
const UNIX: &str = "/srv/measured/socket";
/// Where datagrams go, which nobody reads.
const UDP: &str = "203.0.113.81:4443";
const UDP_BY_NAME: &str = "www.example.test:4443";
/// A repository, and a program that is made of a few files.
const REPOSITORY: &str = "/srv/repository";

/// Makes it.
const PREPARE: &str = r##"
mkdir -p /srv/repository/src
cd /srv/repository
git init -q .
git config user.email a@example.test
git config user.name a
for i in $(seq 200); do mkdir -p d$((i % 20)); echo $i >d$((i % 20))/f$i; done
for i in $(seq 5); do
    printf '#include <stdio.h>\nint f%s(void) { return printf("%%d", %s); }\n' $i $i >src/f$i.c
done
printf 'all:\n\trm -f *.o all.a\n\tfor f in *.c; do TMPDIR=. cc -c $$f; done\n\tar rc all.a *.o\n' >src/Makefile
# A file as young as the index that lists it would be read every time.
find . -name .git -prune -o -type f -exec touch -d '2026-01-01' {} +
git add -A
git commit -qm all
git status
"##;

/// As deep as agents' cgroups are: for what the scheduler and memory cost nobody is to blame.
const IN_CGROUP: [&str; 4] = [
    "sh",
    "-ec",
    "echo $$ >/sys/fs/cgroup/measured/here/cgroup.procs; exec \"$@\"",
    "sh",
];

/// What every measured profile says besides its rules, the first of which is about a file that is opened.
const COMMON: &str = r#"
[log]
allow = "none"

[[allow]]
id = "hit"
file = "/srv/measured/hit/**"

[[allow]]
id = "address"
connect = ["tcp://203.0.113.81:443", "udp://203.0.113.81:4443", "unix:/srv/measured/socket"]

[[allow]]
id = "name"
connect = ["tcp://www.example.test:443", "udp://www.example.test:4443"]
"#;

const ASKS: &str = r#"
[[ask]]
id = "files"
file = "/srv/measured/asked/**"
[[ask]]
id = "push"
exec = "/usr/bin/git"
args = ["push", "**"]
[[ask]]
id = "servers"
connect = "tcp://192.0.2.0/24:443"
"#;

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What is done.
    pub what: String,
    /// By whom, under what.
    pub under: String,
    /// What it is counted in, unless that is guest instructions.
    pub unit: Option<String>,
    /// The median, which is the only one where rounds are averages already; else what 90 and 99 of 100 don't exceed.
    pub median: u64,
    pub p90: Option<u64>,
    pub p99: Option<u64>,
    /// The most that was seen, where that is asked for.
    pub max: Option<u64>,
}

impl Figure {
    fn of_one(what: &str, under: &str, value: u64) -> Self {
        Self {
            what: what.to_owned(),
            under: under.to_owned(),
            unit: None,
            median: value,
            p90: None,
            p99: None,
            max: None,
        }
    }

    /// What half, 90 and 99 of 100 of these don't exceed.
    fn of_many(what: &str, under: &str, mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |part: usize| values[(values.len() - 1) * part / 100];
        Self {
            p90: Some(at(90)),
            p99: Some(at(99)),
            ..Self::of_one(what, under, at(50))
        }
    }
}

/// Which figures are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// What is compared with the figures in the tree: quick.
    Few,
    All,
    /// Whole programs, in a guest that has them.
    Programs,
}

/// Whom an operation is measured under.
#[derive(Debug, Clone, Copy)]
enum Under<'a> {
    Nobody,
    /// A profile of AgentGuard.
    Agent(&'a str),
    /// So many rules of Landlock's.
    Landlock(usize),
    /// A profile of AppArmor's.
    AppArmor(&'a str),
}

/// Measures, and prints a line of JSON for each figure.
///
/// # Errors
/// When something can't be measured.
pub fn everything(wanted: Wanted) -> Result<()> {
    prepare()?;
    if wanted == Wanted::Programs {
        return programs();
    }
    let _dns = resolver()?;
    listen()?;
    for profile in [
        profile("measured-10", 10, ""),
        profile("measured-asks", 10, ASKS),
    ] {
        write(&profile)?;
    }
    operations("nothing loaded", Under::Nobody, wanted)?;
    if wanted == Wanted::All {
        let empty = others::empty_programs()?;
        operations("empty programs", Under::Nobody, wanted)?;
        drop(empty);
        kernels_own(|under, who| operations(under, who, wanted))?;
        supervisor::told()?;
    }
    let begin = operations::now();
    let daemon = Daemon::start()?;
    tell(
        "loading everything",
        "the daemon",
        operations::now() - begin,
    )?;
    operations("no agent", Under::Nobody, wanted)?;
    operations("an agent, 10 rules", Under::Agent("measured-10"), wanted)?;
    if wanted == Wanted::All {
        write(&logging())?;
        for count in [100, 1_000, 10_000] {
            write(&profile(&format!("measured-{count}"), count, ""))?;
            let begin = operations::now();
            run_well("agentguard", &["reload"])?;
            let what = "reload, with everything that is known anew";
            tell(what, &format!("{count} rules"), operations::now() - begin)?;
            operations(
                &format!("an agent, {count} rules"),
                Under::Agent(&format!("measured-{count}")),
                wanted,
            )?;
        }
        waits::waits("measured-10000")?;
        operations("an agent, everything logged", Under::Agent(LOGGING), wanted)?;
        operations(
            "an agent, with ask rules",
            Under::Agent("measured-asks"),
            wanted,
        )?;
        operations("an agent, coding", Under::Agent("coding"), wanted)?;
        held::held()?;
        weights::all(daemon.pid())?;
    }
    daemon.stop()
}

/// The files, and what the network needs.
fn prepare() -> Result<()> {
    for name in [
        "two",
        "asked/key",
        "free/one/two/five",
        "hit/one/two/five",
        "1/2/3/4/5/6/7/8/9/twelve",
        "new/keep",
    ] {
        let path = Path::new(FOLDER).join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(path, "key\n")?;
    }
    fs::create_dir_all(POLICIES)?;
    fs::create_dir_all("/sys/fs/cgroup/measured/here")?;
    // Whoever watches anything has every access to its file system looked at once more. The daemon watches its policies;
    // no machine's root is without somebody who does.
    let folder = std::ffi::CString::new(POLICIES)?;
    // SAFETY: the path is a string that ends, and lives as long as the call.
    let watch = unsafe {
        let watcher = libc::inotify_init1(libc::IN_CLOEXEC);
        libc::inotify_add_watch(watcher, folder.as_ptr(), libc::IN_CREATE)
    };
    ensure!(watch >= 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

/// A profile with so many rules about files, and those of every one: its name and its text.
fn profile(name: &str, count: usize, more: &str) -> (String, String) {
    let text = rules::policy(count, &rules::KINDS)
        .replace("\"made-up\"", &format!("\"{name}\""))
        .replace("[default]\n", "[default]\nexec = \"allow\"\n");
    (name.to_owned(), text + COMMON + more)
}

fn write((name, text): &(String, String)) -> Result<()> {
    Ok(fs::write(
        Path::new(POLICIES).join(format!("{name}.toml")),
        text,
    )?)
}

/// Takes every connection, and lets it go.
fn listen() -> Result<()> {
    for to in [TCP, "203.0.113.80:443"] {
        let listener = TcpListener::bind(to)?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // Until the other end is gone.
                let _ = stream.read(&mut [0]);
            }
        });
    }
    for to in [UDP, "203.0.113.80:4443"] {
        // Nobody reads, and nobody is told that nobody is there.
        std::mem::forget(UdpSocket::bind(to)?);
    }
    let listener = UnixListener::bind(UNIX)?;
    thread::spawn(move || listener.incoming().flatten().for_each(drop));
    Ok(())
}

/// Every operation under somebody.
fn operations(under: &str, who: Under<'_>, wanted: Wanted) -> Result<()> {
    let in_folder = |name: &str| format!("{FOLDER}/{name}");
    let connects = !matches!(who, Under::Agent("coding"));
    let few = [
        ("open and close, 5 deep", vec!["open", "free/one/two/five"]),
        ("create and unlink", vec!["create", "new"]),
        ("UDP connect, by address", vec!["udp-connect", UDP]),
        ("UDP connect, by name", vec!["udp-connect", UDP_BY_NAME]),
        ("fork and exec", vec!["exec", "/bin/true"]),
    ];
    let more = [
        ("open and close, 2 deep", vec!["open", "two"]),
        (
            "open and close, 12 deep",
            vec!["open", "1/2/3/4/5/6/7/8/9/twelve"],
        ),
        (
            "open and close, by a rule",
            vec!["open", "hit/one/two/five"],
        ),
        ("rename", vec!["rename", "new"]),
        ("stat", vec!["stat", "free/one/two/five"]),
        ("read 16 bytes", vec!["read", "free/one/two/five"]),
        ("write 16 bytes", vec!["write", "new"]),
        ("TCP connect, by address", vec!["tcp-connect", TCP]),
        ("TCP connect, by name", vec!["tcp-connect", TCP_BY_NAME]),
        ("UDP send, by address", vec!["udp-send", UDP]),
        ("UDP send, connected", vec!["udp-send-connected", UDP]),
        ("Unix connect", vec!["unix-connect", UNIX]),
        ("fork", vec!["fork"]),
        ("pipe, to and fro", vec!["pipe"]),
    ];
    let more = more.iter().filter(|_| wanted == Wanted::All);
    for (what, operation) in few.iter().chain(more) {
        if !connects && (what.contains("connect") || what.contains("send")) {
            continue;
        }
        let mut arguments: Vec<String> = operation.iter().map(|word| (*word).to_owned()).collect();
        if matches!(
            operation[0],
            "open" | "create" | "rename" | "stat" | "read" | "write"
        ) {
            arguments[1] = in_folder(operation[1]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let cost = measure(who, &arguments).with_context(|| format!("{what}, {under}"))?;
        tell(what, under, cost)?;
    }
    Ok(())
}

/// What a process of this program says that something costs.
fn measure(who: Under<'_>, operation: &[&str]) -> Result<u64> {
    let program = [&[PROGRAM, "operation"], operation].concat();
    let (count, name);
    let command: Vec<&str> = match who {
        Under::Nobody => [&IN_CGROUP, program.as_slice()].concat(),
        Under::Landlock(rules) => {
            count = rules.to_string();
            let landlocked = [PROGRAM, "landlocked", &count];
            [&IN_CGROUP, landlocked.as_slice(), &program].concat()
        }
        Under::AppArmor(profile) => {
            let confined = ["aa-exec", "--profile", profile, "--"];
            [&IN_CGROUP, confined.as_slice(), &program].concat()
        }
        Under::Agent(profile) => {
            // The last one's agent may not have ended yet.
            name = format!("{profile}-{}", operations::now());
            let run = [
                "agentguard",
                "run",
                "--profile",
                profile,
                "--name",
                &name,
                "--",
            ];
            [&run, program.as_slice()].concat()
        }
    };
    Ok(run_well(command[0], &command[1..])?.trim().parse()?)
}

/// Whole programs: a repository of some hundred files, and a build of some.
fn programs() -> Result<()> {
    run_well("sh", &["-ec", PREPARE])?;
    let counts = [10, 100, 1_000, 10_000];
    for count in counts {
        write(&profile(&format!("measured-{count}"), count, ""))?;
    }
    write(&logging())?;
    both("nothing loaded", Under::Nobody)?;
    let empty = others::empty_programs()?;
    both("empty programs", Under::Nobody)?;
    drop(empty);
    kernels_own(both)?;
    let daemon = Daemon::start()?;
    both("no agent", Under::Nobody)?;
    for count in counts {
        let who = format!("measured-{count}");
        both(&format!("an agent, {count} rules"), Under::Agent(&who))?;
    }
    both("an agent, everything logged", Under::Agent(LOGGING))?;
    both("an agent, coding", Under::Agent("coding"))?;
    daemon.stop()
}

/// `git status` and a build under somebody.
fn both(under: &str, who: Under<'_>) -> Result<()> {
    let git = ["command", REPOSITORY, "git", "status", "--short"];
    tell("git status", under, measure(who, &git)?)?;
    let source = format!("{REPOSITORY}/src");
    tell(
        "make, 5 files of C",
        under,
        measure(who, &["command", &source, "make", "-s"])?,
    )
}

/// Measures under what the kernel itself has.
fn kernels_own(measured: impl Fn(&str, Under<'_>) -> Result<()>) -> Result<()> {
    for count in [5, 300] {
        measured(&format!("Landlock, {count} rules"), Under::Landlock(count))?;
    }
    for count in [10, 100] {
        let name = others::apparmor_profile(count)?;
        measured(&format!("AppArmor, {count} rules"), Under::AppArmor(&name))?;
    }
    Ok(())
}

/// The profile that logs everything.
const LOGGING: &str = "measured-logging";

fn logging() -> (String, String) {
    let text = profile(LOGGING, 10, "").1;
    (
        LOGGING.to_owned(),
        text.replace("allow = \"none\"", "allow = \"all\""),
    )
}

/// A resolver that is ended with this.
struct Resolver(Child);

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The host's resolver, which knows one name.
fn resolver() -> Result<Resolver> {
    for address in ["192.0.2.53", "203.0.113.80", "203.0.113.81"] {
        run_well(
            "ip",
            &["address", "add", &format!("{address}/32"), "dev", "lo"],
        )?;
    }
    fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n")?;
    let child = Command::new("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ])
        .args([
            "--listen-address=192.0.2.53",
            "--bind-interfaces",
            "--local=/test/",
        ])
        .arg("--host-record=www.example.test,203.0.113.80")
        .stderr(Stdio::null())
        .spawn()?;
    let resolver = Resolver(child);
    wait_until("the resolver is there", || {
        Ok(TcpStream::connect("192.0.2.53:53").is_ok())
    })?;
    Ok(resolver)
}

fn tell(what: &str, under: &str, cost: u64) -> Result<()> {
    print(&Figure::of_one(what, under, cost))
}

fn print(figure: &Figure) -> Result<()> {
    println!("{}", serde_json::to_string(figure)?);
    Ok(())
}
