//! Held processes under the programs that agents start them with: whoever waits for a child gets what came of it, after
//! a yes as after a no.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::approve::api;
use crate::{
    bench::Bench,
    daemon::{Daemon, wait_until},
    scene::{Case, Root, Scene},
};

const POLICY: &str = r#"
[[ask]]
id = "file"
file = "{dir}/asked/key"
[[ask]]
id = "program"
exec = "{dir}/asked/tool"
"#;

/// What runs, and what it prints after a yes and after a no to all that it asks. `{dir}` stands for the case's folder.
struct Program {
    name: &'static str,
    command: &'static [&'static str],
    yes: &'static str,
    no: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "a pipeline of bash",
        command: &[
            "bash",
            "-c",
            "cat {dir}/asked/key 2>/dev/null | tr a-z A-Z | cat; echo ${PIPESTATUS[*]}; \
             {dir}/asked/tool 2>/dev/null; echo $?; \
             x=$({dir}/asked/tool 2>/dev/null | tr o 0); echo $x; sleep 0 & {dir}/asked/tool 2>/dev/null & wait %2; echo $?",
        ],
        yes: "KEY\n0 0 0\ntool\n0\nt00l\ntool\n0\n",
        no: "1 0 0\n126\n\n126\n",
    },
    Program {
        name: "subprocess and posix_spawn of Python",
        command: &[
            "python3",
            "-c",
            "
import os, subprocess
def tried(function):
    try:
        return function()
    except PermissionError as error:
        return error.errno
d = '{dir}/asked'
quiet = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
print(subprocess.run(['cat', d + '/key'], **quiet).returncode)
print(tried(lambda: subprocess.run([d + '/tool'], **quiet).stdout))
nothing = [(os.POSIX_SPAWN_OPEN, fd, '/dev/null', os.O_WRONLY, 0) for fd in (1, 2)]
def spawned(*arguments):
    pid = os.posix_spawn(arguments[0], arguments, {}, file_actions=nothing)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(tried(lambda: spawned('/bin/cp', d + '/key', '/dev/null')))
print(tried(lambda: spawned(d + '/tool')))
print(tried(lambda: open(d + '/key').read()))
",
        ],
        yes: "0\nb'tool\\n'\n0\n0\nkey\n\n",
        no: "1\n1\n1\n1\n1\n",
    },
    Program {
        name: "child_process of Node",
        command: &[
            "node",
            "-e",
            "
const { execFile, spawnSync } = require('child_process');
const d = '{dir}/asked';
let ticks = 0;
const timer = setInterval(() => ticks++, 10);
execFile('cat', [d + '/key'], (error, out) => {
    clearInterval(timer);
    console.log(error ? error.code : out.trim(), ticks > 0);
    const tool = spawnSync(d + '/tool');
    console.log(tool.error ? tool.error.code : tool.stdout.toString().trim());
    const done = spawnSync('sh', ['-c', 'cat ' + d + '/key 2>/dev/null | cat; echo end']);
    console.log(done.status, done.stdout.toString().trim());
    try { console.log(require('fs').readFileSync(d + '/key', 'utf8').trim()); } catch (e) { console.log(e.code); }
});
",
        ],
        yes: "key true\ntool\n0 key\nend\nkey\n",
        no: "1 true\nEPERM\n0 end\nEPERM\n",
    },
    Program {
        name: "make -j",
        command: &[
            "sh",
            "-c",
            "make -kj4 -s -f {dir}/Makefile >/dev/null 2>&1; echo $?; cat /tmp/made-* 2>/dev/null; ls /tmp/free-*; rm -f /tmp/made-* /tmp/free-*",
        ],
        yes: "0\nkey\nkey\nkey\ntool\n/tmp/free-1\n/tmp/free-2\n",
        no: "2\n/tmp/free-1\n/tmp/free-2\n",
    },
];

const MAKEFILE: &str = "
all: 1 2 3 tool free-1 free-2
1 2 3:
\tcp {dir}/asked/key /tmp/made-$@
tool:
\t{dir}/asked/tool >/tmp/held-tool && mv /tmp/held-tool /tmp/made-tool
free-1 free-2:
\ttouch /tmp/$@
";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("hold::under_other_programs", under)
            .policy(POLICY)
            .prepare(prepare)
            .scene(Scene::OwnBoot {
                append: "",
                root: Root::Systemd,
            })
            .limit(600),
    ]
}

fn prepare(dir: &Path) -> Result<()> {
    let folder = dir.join("asked");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("key"), "key\n")?;
    let tool = folder.join("tool");
    fs::write(&tool, "#!/bin/sh\necho tool\n")?;
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755))?;
    let makefile = MAKEFILE.replace("{dir}", &dir.display().to_string());
    Ok(fs::write(dir.join("Makefile"), makefile)?)
}

fn under(bench: &mut Bench) -> Result<()> {
    bench.fresh()?;
    let daemon = Daemon::start()?;
    for program in PROGRAMS {
        for (approve, wanted) in [(true, program.yes), (false, program.no)] {
            let answer = if approve { "a yes" } else { "a no" };
            let said = played(bench, program, approve)
                .with_context(|| format!("{} after {answer}", program.name))?;
            ensure!(
                said == wanted,
                "{} after {answer} said\n{said}wanted\n{wanted}",
                program.name
            );
        }
    }
    daemon.stop()
}

/// Runs it as a new agent, and answers whatever it asks. What it printed.
fn played(bench: &mut Bench, program: &Program, approve: bool) -> Result<String> {
    let name = bench.name();
    let dir = bench.dir.display().to_string();
    let out = bench.path("out");
    let mut run = Command::new("agentguard");
    run.args(["run", "--profile", &bench.profile, "--name", &name, "--"])
        .args(program.command.iter().map(|one| one.replace("{dir}", &dir)))
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out)?);
    let mut child = run.spawn()?;
    let mut answers = 0;
    wait_until("it ends", || {
        let (_, pending) = api("GET", "/v1/approvals", None)?;
        for one in pending.as_array().context("no list")? {
            ensure!(one["agent"] == *name, "{one}");
            let path = format!("/v1/approvals/{}", one["id"]);
            let (status, said) = api("POST", &path, Some(&json!({ "approve": approve })))?;
            // Who asked may have been killed meanwhile, and nobody else.
            ensure!(status == 200, "{status}: {said}");
            answers += 1;
        }
        thread::sleep(Duration::from_millis(50));
        Ok(child.try_wait()?.is_some())
    })?;
    ensure!(answers > 0, "nothing was asked");
    Ok(fs::read_to_string(out)?)
}
