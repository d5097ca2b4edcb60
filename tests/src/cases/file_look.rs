//! What shows of a protected file without opening it: where a link leads, and what happens in a folder.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::Result;

use crate::{
    bench::{Bench, run_well},
    log::Wanted,
    remote::{Act, Arg, calls::call},
    scene::Case,
};

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
access = "read"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open", "mounted"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    for folder in ["secret", "open"] {
        symlink("somewhere", dir.join(folder).join("link"))?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(SECRET).prepare(files);
    vec![
        case("look::where_links_lead", links),
        case("look::what_happens_in_folders", watches),
    ]
}

fn read_link(path: &Path) -> Act {
    let buffer = Arg::Bytes(vec![0; 64]);
    let path = Arg::Bytes([path.as_os_str().as_encoded_bytes(), b"\0"].concat());
    call(libc::SYS_readlink, [path, buffer, 64.into()])
}

fn links(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let secret = bench.path("secret/link");
    let wanted = |path: &Path| {
        Wanted::deny("file.open", "secret")
            .path(path)
            .with("/object/access", vec!["read"])
    };
    bench.denied(&mut agent, &read_link(&secret), wanted(&secret))?;
    bench.allowed(&mut agent, &read_link(&bench.path("open/link")))?;
    // By another name of the folder.
    let mounted = bench.path("mounted");
    let (from, to) = (
        bench.path("secret").display().to_string(),
        mounted.display().to_string(),
    );
    run_well("mount", &["--bind", &from, &to])?;
    let denied = bench.denied(
        &mut agent,
        &read_link(&mounted.join("link")),
        Wanted::deny("file.open", "secret"),
    );
    run_well("umount", &[&to])?;
    denied?;
    // What programs find out about themselves.
    bench.allowed(&mut agent, &read_link(Path::new("/proc/self/exe")))?;
    Ok(())
}

fn watches(bench: &mut Bench) -> Result<()> {
    let watch = |path: &Path| {
        let path = Arg::Bytes([path.as_os_str().as_encoded_bytes(), b"\0"].concat());
        Act::Sequence(vec![
            call(libc::SYS_inotify_init1, [0.into()]),
            call(
                libc::SYS_inotify_add_watch,
                [Arg::Step(0), path, i64::from(libc::IN_CREATE).into()],
            ),
        ])
    };
    let mut agent = bench.agent()?;
    let secret = bench.path("secret");
    let wanted = Wanted::deny("file.open", "secret").path(&secret);
    bench.denied(&mut agent, &watch(&secret), wanted)?;
    bench.allowed(&mut agent, &watch(&bench.path("open")))?;
    Ok(())
}
