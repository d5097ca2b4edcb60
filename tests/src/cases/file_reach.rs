//! Protected files by ways around their names: layers of an overlay, handles, what /proc shows of processes, and
//! renames that leave something behind.

use std::{fs, os::unix::fs::FileTypeExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{Bench, run_well},
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{call, chdir, forked, on_path, on_paths, open, unlink},
    },
    scene::Case,
};

const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"

[[deny]]
id = "no-write"
file = "{dir}/no-write/**"
access = "write"
"#;

fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "no-write", "open", "merged"] {
        fs::create_dir_all(dir.join(folder))?;
        for file in ["key", "other", "third"] {
            fs::write(dir.join(folder).join(file), "content\n")?;
        }
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name, play| Case::new(name, play).policy(SECRET).prepare(files);
    vec![
        case("reach::overlay_made_outside", overlay),
        case("reach::handles", handles).policy(&format!(
            "{SECRET}\n[system]\ncapabilities = \"CAP_DAC_READ_SEARCH\"\n"
        )),
        case("reach::what_proc_shows_of_processes", proc_links),
        case("reach::rename_that_leaves_a_whiteout", whiteout),
    ]
}

/// An overlay of the case's folder, and what is changed in it.
struct Overlay(String);

impl Overlay {
    fn new(bench: &Bench) -> Result<Self> {
        let dir = bench.dir.display();
        let upper = format!("/dev/shm/{}", bench.profile);
        for folder in ["upper", "work"] {
            fs::create_dir_all(format!("{upper}/{folder}"))?;
        }
        let layers = format!("lowerdir={dir},upperdir={upper}/upper,workdir={upper}/work");
        let at = format!("{dir}/merged");
        run_well("mount", &["-t", "overlay", "-o", &layers, "overlay", &at])?;
        Ok(Self(at))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = run_well("umount", &[&self.0]);
    }
}

/// Every file has another name there, and another inode; what is read and copied up is the one below.
fn overlay(bench: &mut Bench) -> Result<()> {
    let overlay = Overlay::new(bench)?;
    let merged = |name: &str| Path::new(&overlay.0).join(name);
    let mut agent = bench.agent()?;
    for folder in ["secret", "open"] {
        // The folder of everybody's in the overlay is as writable as below.
        let fits = fs::read_to_string(merged(folder).join("key"))? == "content\n";
        ensure!(fits, "the overlay doesn't show {folder}");
    }
    let key = merged("secret/key");
    let chmod = |path: &Path| on_path(libc::SYS_chmod, path, [0o755]);
    let truncate = |path: &Path| on_path(libc::SYS_truncate, path, [0]);
    let wanted = || Wanted::deny("file.open", "secret");
    for act in [
        open(&key, libc::O_RDONLY),
        open(&key, libc::O_RDWR),
        truncate(&key),
        on_paths(libc::SYS_rename, &key, merged("moved")),
        on_paths(libc::SYS_link, &key, merged("linked")),
    ] {
        bench.denied(&mut agent, &act, wanted())?;
    }
    // A copy up that its first write begins, of what may be read.
    let key = merged("no-write/key");
    bench.allowed(&mut agent, &open(&key, libc::O_RDONLY))?;
    let written = Path::new("/dev/shm").join(&bench.profile).join("upper");
    for name in ["secret/key", "moved", "linked"] {
        ensure!(!written.join(name).exists(), "{name} was copied up");
    }
    // What no rule closes is copied up, and is the agent's to change.
    let key = merged("open/key");
    for act in [
        open(&key, libc::O_RDWR),
        chmod(&key),
        truncate(&key),
        on_paths(libc::SYS_link, &key, merged("open/linked")),
        unlink(&key),
        on_paths(libc::SYS_rename, merged("open/other"), &key),
    ] {
        bench.allowed(&mut agent, &act)?;
    }
    ensure!(
        written.join("open/linked").exists(),
        "nothing was copied up"
    );
    let below = fs::read_to_string(bench.path("open/key"))?;
    ensure!(below == "content\n", "below the overlay is {below:?}");
    Ok(())
}

/// `struct file_handle` of a path.
fn handle(path: &Path) -> Result<Vec<u8>> {
    const ROOM: usize = 128;
    let mut bytes = vec![0; 8 + ROOM];
    bytes[..4].copy_from_slice(&(ROOM as u32).to_ne_bytes());
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut mount = 0_i32;
    // SAFETY: a string, room for a handle that says how much it is, and an int.
    let made = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            name.as_ptr(),
            bytes.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    };
    if made == -1 {
        let error = std::io::Error::last_os_error();
        return Err(error).with_context(|| format!("no handle of {}", path.display()));
    }
    Ok(bytes)
}

/// `open_by_handle_at` below the mount of a folder.
fn by_handle(folder: &Path, handle: &[u8], flags: i32) -> Act {
    Act::Sequence(vec![
        open(folder, libc::O_RDONLY | libc::O_DIRECTORY),
        call(
            libc::SYS_open_by_handle_at,
            [Arg::Step(0), Arg::Bytes(handle.to_vec()), flags.into()],
        ),
    ])
}

fn handles(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let folder = bench.path("open");
    let of = |name: &str| handle(&bench.path(name));
    let (key, whole, read_only, twin) = (
        of("secret/key")?,
        of("secret")?,
        of("no-write/key")?,
        of("open/key")?,
    );
    let wanted = Wanted::deny("file.open", "secret").path(bench.path("secret/key"));
    for flags in [libc::O_RDONLY, libc::O_RDWR] {
        bench.denied(&mut agent, &by_handle(&folder, &key, flags), wanted.clone())?;
    }
    let act = by_handle(&folder, &whole, libc::O_RDONLY | libc::O_DIRECTORY);
    bench.denied(&mut agent, &act, Wanted::deny("file.open", "secret"))?;
    let act = by_handle(&folder, &read_only, libc::O_WRONLY);
    bench.denied(&mut agent, &act, Wanted::deny("file.open", "no-write"))?;
    bench.allowed(&mut agent, &by_handle(&folder, &read_only, libc::O_RDONLY))?;
    let wanted = Wanted::allow("file.open").path(bench.path("open/key"));
    bench.allowed_and_logged(&mut agent, &by_handle(&folder, &twin, libc::O_RDWR), wanted)?;
    // A handle by which a file is only pointed to is opened through /proc like any other.
    let pointed = Act::Sequence(vec![by_handle(&folder, &key, libc::O_PATH)]);
    let fd = bench.allowed(&mut agent, &pointed)?;
    let act = open(format!("/proc/self/fd/{fd}"), libc::O_RDONLY);
    bench.denied(&mut agent, &act, Wanted::deny("file.open", "secret"))?;
    Ok(())
}

/// The links of a process to its root, its folder and its files lead to what they lead to.
fn proc_links(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let dir = bench.dir.display().to_string();
    let secret = bench.path("secret");
    bench.allowed(&mut agent, &chdir(&secret))?;
    let pointed = bench.allowed(&mut agent, &open(&secret, libc::O_PATH))?;
    let wanted = Wanted::deny("file.open", "secret").path(bench.path("secret/key"));
    for way in [
        format!("/proc/self/root{dir}/secret/key"),
        format!("/proc/thread-self/root{dir}/secret/key"),
        "/proc/self/cwd/key".to_owned(),
        "/proc/self/task/../cwd/key".to_owned(),
        format!("/proc/self/fd/{pointed}/key"),
        format!("/dev/fd/{pointed}/key"),
    ] {
        let act = open(&way, libc::O_RDONLY);
        bench
            .denied(&mut agent, &act, wanted.clone())
            .context(way)?;
    }
    // Those of a child's parent, which is of the same agent, may be followed.
    let pid = bench.allowed(&mut agent, &call(libc::SYS_getpid, []))?;
    for way in [
        format!("/proc/{pid}/root{dir}/secret/key"),
        format!("/proc/{pid}/cwd/key"),
        format!("/proc/{pid}/fd/{pointed}/key"),
    ] {
        let act = forked(open(&way, libc::O_RDONLY));
        bench
            .denied(&mut agent, &act, wanted.clone())
            .context(way)?;
    }
    // Another process's lead nowhere: they aren't even followed.
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &chdir(&secret))?;
    let pid = outside.pid();
    for way in [
        format!("/proc/{pid}/cwd/key"),
        format!("/proc/{pid}/root{dir}/secret/key"),
        format!("/proc/{pid}/root{dir}/open/key"),
        format!("/proc/1/root{dir}/open/key"),
    ] {
        bench.fails(&mut agent, &open(&way, libc::O_RDONLY), libc::EACCES)?;
    }
    for way in [
        format!("/proc/self/root{dir}/open/key"),
        "/proc/self/cwd/../open/key".to_owned(),
    ] {
        bench.allowed(&mut agent, &open(&way, libc::O_RDWR))?;
    }
    Ok(())
}

fn whiteout(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let leaving = |from: &Path, to: &Path| {
        let here = || Arg::Int(libc::AT_FDCWD.into());
        let flags = libc::RENAME_WHITEOUT as i32;
        call(
            libc::SYS_renameat2,
            [here(), from.into(), here(), to.into(), flags.into()],
        )
    };
    let dir = bench.dir.clone();
    let path = |name: &str| dir.join(name);
    for (from, to, rule) in [
        ("secret/key", "open/new", "secret"),
        ("open/key", "secret/new", "secret"),
    ] {
        let (from, to) = (path(from), path(to));
        let wanted = Wanted::deny("file.rename", rule);
        bench.denied(&mut agent, &leaving(&from, &to), wanted)?;
        ensure!(
            fs::metadata(&from)?.is_file() && !to.exists(),
            "{}",
            from.display()
        );
    }
    let (from, to) = (path("open/key"), path("open/new"));
    bench.allowed(&mut agent, &leaving(&from, &to))?;
    ensure!(fs::metadata(&to)?.is_file(), "it wasn't moved");
    let left = fs::symlink_metadata(&from)?.file_type();
    ensure!(left.is_char_device(), "no whiteout was left");
    Ok(())
}
