//! The kernel's own surface (`[system]`): what a root agent may no longer do, what no agent may, and that what a
//! profile names goes through.

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use crate::{
    bench::{Bench, of, run_well},
    log::Wanted,
    remote::{
        Act, Arg, Remote,
        calls::{
            call, close, connect, forked, mkdir, on_path, open, set_option, socket, unix, write,
        },
    },
    said::Said,
    scene::Case,
};

/// What the second profile of each case loosens.
const LOOSE: &str = r#"
[system]
io_uring = "allow"
ipc = "allow"
userfaultfd = "allow"
user_namespaces = "allow"
perf = "allow"
keyrings = "allow"
module_autoload = "allow"
block_devices = "allow"
terminal_input = "allow"
devices = "allow"
capabilities = ["CAP_CHOWN", "CAP_MKNOD", "CAP_SETUID", "CAP_SYS_PTRACE", "CAP_PERFMON", "CAP_NET_RAW", "CAP_SYS_TIME"]
"#;

pub fn cases() -> Vec<Case> {
    let case = |name: &str, play| Case::new(&format!("system::{name}"), play).second(LOOSE);
    vec![
        case("capabilities_of_root", capabilities),
        case("capabilities_are_never_admin", never_admin),
        case("capabilities_in_a_user_namespace", in_namespace),
        case("io_uring", io_uring),
        case("io_uring_from_before_the_tag", ring_before),
        case("userfaultfd", userfaultfd),
        case("user_namespaces", user_namespaces),
        case("bpf", bpf),
        case("perf", perf),
        case("keyrings", keyrings),
        case("module_autoload", module_autoload).policy("[system]\ndevices = \"allow\"\n"),
        case("cgroups_by_another_mount", cgroups),
        case("kernel_files", kernel_files),
        case("block_devices", block_devices),
        case("devices", devices),
        case("other_processes", other_processes),
        case("terminal_input", terminal_input),
        case("shared_by_number", shared_by_number),
        case("message_queues", message_queues),
        Case::new("system::audit", audit).policy("mode = \"audit\"\n"),
    ]
}

fn refused(operation: &str) -> Wanted {
    Wanted::refusal(&format!("system.{operation}"), "system")
}

fn capability(name: &str) -> Wanted {
    refused("capabilities").with("/object/capability", name)
}

/// An agent of the second profile.
fn loose(bench: &mut Bench) -> Result<Remote> {
    let profile = bench.second_profile();
    bench.agent_under(&profile)
}

/// The strict agent is refused, the loose one isn't.
fn loosened(bench: &mut Bench, act: &Act, operation: &str) -> Result<()> {
    let mut agent = bench.agent()?;
    bench.denied(&mut agent, act, refused(operation))?;
    let mut loose = loose(bench)?;
    bench.allowed(&mut loose, act)?;
    // Who is no agent may do what it could do before.
    bench.allowed(&mut Remote::outside()?, act)?;
    Ok(())
}

fn chown(path: &Path) -> Act {
    on_path(libc::SYS_chown, path, [1000, 1000])
}

fn capabilities(bench: &mut Bench) -> Result<()> {
    // A folder of root's own: without CAP_DAC_OVERRIDE it may not write in others'.
    let folder = bench.path("own");
    fs::create_dir_all(&folder)?;
    let (file, device) = (folder.join("file"), folder.join("device"));
    fs::write(&file, "")?;
    let mut agent = bench.agent()?;
    let mut loose = loose(bench)?;
    let settime = || {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let time = [now.to_ne_bytes(), 0_u64.to_ne_bytes()].concat();
        call(libc::SYS_clock_settime, [0.into(), Arg::Bytes(time)])
    };
    let attempts = [
        (chown(&file), "CAP_CHOWN"),
        (
            on_path(
                libc::SYS_mknod,
                &device,
                [i64::from(libc::S_IFCHR | 0o600), 0x103],
            ),
            "CAP_MKNOD",
        ),
        (forked(call(libc::SYS_setuid, [1000.into()])), "CAP_SETUID"),
        (settime(), "CAP_SYS_TIME"),
        (
            Act::Sequence(vec![
                socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
                set_option(Arg::Step(0), libc::SOL_SOCKET, libc::SO_MARK, &[1, 0, 0, 0]),
            ]),
            "CAP_NET_ADMIN",
        ),
    ];
    for (act, name) in &attempts {
        bench.denied(&mut agent, act, capability(name))?;
        bench.allowed(&mut loose, act)?;
    }
    // What takes no capability is left to root: its own files, itself.
    let other = folder.join("other");
    bench.allowed(&mut agent, &open(&other, libc::O_RDWR | libc::O_CREAT))?;
    bench.allowed(&mut agent, &on_path(libc::SYS_chmod, &other, [0o644]))?;
    bench.allowed(&mut agent, &call(libc::SYS_setsid, []))?;
    Ok(())
}

/// What no profile can name: each call fails, for whoever asks and whatever it is called.
fn never_admin(bench: &mut Bench) -> Result<()> {
    const OPEN_TREE_CLONE: i64 = 1;
    const SYS_FSOPEN: i64 = 430;
    let folder = bench.path("mount");
    fs::create_dir_all(&folder)?;
    let mount = |source: &str, kind: Arg, flags: u64| {
        call(
            libc::SYS_mount,
            [
                source.into(),
                folder.as_path().into(),
                kind,
                (flags as i64).into(),
                0.into(),
            ],
        )
    };
    let own_namespace = Act::Sequence(vec![
        open("/proc/self/ns/net", libc::O_RDONLY),
        call(libc::SYS_setns, [Arg::Step(0), libc::CLONE_NEWNET.into()]),
    ]);
    let image = Arg::Bytes(vec![0; 64]);
    let attempts = [
        (mount("none", "tmpfs".into(), 0), "CAP_SYS_ADMIN"),
        (mount("/etc", 0.into(), libc::MS_BIND), "CAP_SYS_ADMIN"),
        (mount("none", 0.into(), libc::MS_REMOUNT), "CAP_SYS_ADMIN"),
        (
            call(libc::SYS_umount2, ["/proc".into(), libc::MNT_DETACH.into()]),
            "CAP_SYS_ADMIN",
        ),
        (
            call(libc::SYS_pivot_root, ["/srv".into(), "/srv".into()]),
            "CAP_SYS_ADMIN",
        ),
        (
            call(SYS_FSOPEN, ["tmpfs".into(), 0.into()]),
            "CAP_SYS_ADMIN",
        ),
        (
            call(
                libc::SYS_open_tree,
                [libc::AT_FDCWD.into(), "/etc".into(), OPEN_TREE_CLONE.into()],
            ),
            "CAP_SYS_ADMIN",
        ),
        (
            forked(call(libc::SYS_unshare, [libc::CLONE_NEWNS.into()])),
            "CAP_SYS_ADMIN",
        ),
        (
            forked(call(libc::SYS_unshare, [libc::CLONE_NEWNET.into()])),
            "CAP_SYS_ADMIN",
        ),
        (own_namespace, "CAP_SYS_ADMIN"),
        (
            forked(on_path(libc::SYS_chroot, &bench.dir, [])),
            "CAP_SYS_CHROOT",
        ),
        (
            call(
                libc::SYS_reboot,
                [
                    0xfee1_dead_u32.cast_signed().into(),
                    672_274_793.into(),
                    // LINUX_REBOOT_CMD_CAD_OFF: harmless where it works.
                    0.into(),
                    0.into(),
                ],
            ),
            "CAP_SYS_BOOT",
        ),
        (
            call(libc::SYS_init_module, [image, 64.into(), "".into()]),
            "CAP_SYS_MODULE",
        ),
        (
            call(
                libc::SYS_kexec_load,
                [0.into(), 0.into(), 0.into(), 0.into()],
            ),
            "CAP_SYS_BOOT",
        ),
        (call(libc::SYS_iopl, [3.into()]), "CAP_SYS_RAWIO"),
        (call(libc::SYS_acct, [0.into()]), "CAP_SYS_PACCT"),
    ];
    let mut agent = bench.agent()?;
    let mut loose = loose(bench)?;
    for (act, name) in &attempts {
        bench.denied(&mut agent, act, capability(name))?;
        bench.denied(&mut loose, act, capability(name))?;
    }
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &attempts[0].0)?;
    let unmount = call(libc::SYS_umount2, [folder.as_path().into(), 0.into()]);
    bench.allowed(&mut outside, &unmount)?;
    Ok(())
}

/// Whoever makes a user namespace has every capability in it, and can use none that isn't named.
fn in_namespace(bench: &mut Bench) -> Result<()> {
    let folder = bench.path("mount");
    fs::create_dir_all(&folder)?;
    let namespace = || call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into()]);
    let inside = |act: Act| forked(Act::Sequence(vec![namespace(), act]));
    let mut loose = loose(bench)?;
    bench.allowed(&mut loose, &forked(namespace()))?;
    let namespaces = call(libc::SYS_unshare, [libc::CLONE_NEWNS.into()]);
    bench.denied(&mut loose, &inside(namespaces), capability("CAP_SYS_ADMIN"))?;
    let raw = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
    let network = call(libc::SYS_unshare, [libc::CLONE_NEWNET.into()]);
    bench.denied(&mut loose, &inside(network), capability("CAP_SYS_ADMIN"))?;
    // Of the namespace that the socket is in, it has none.
    bench.fails(&mut loose, &inside(raw), libc::EPERM)?;
    Ok(())
}

fn ring() -> Act {
    const PARAMS_BYTES: usize = 120;
    call(
        libc::SYS_io_uring_setup,
        [4.into(), Arg::Bytes(vec![0; PARAMS_BYTES])],
    )
}

fn io_uring(bench: &mut Bench) -> Result<()> {
    loosened(bench, &ring(), "io_uring")
}

/// A ring's kernel threads are judged as whoever made it.
fn ring_before(bench: &mut Bench) -> Result<()> {
    let mut outside = Remote::outside()?;
    let cgroup = bench.cgroup()?;
    cgroup.add(outside.pid())?;
    let ring = bench.allowed(&mut outside, &ring())?;
    let path = cgroup.path.display().to_string();
    let pid = outside.pid().to_string();
    let tag = ["tag", &path, bench.profile.as_str()];
    Said::by(&tag)?.ends(1)?.complains(&["io_uring", &pid])?;
    bench.allowed(&mut outside, &close(ring))?;
    bench.tag(&cgroup, &mut outside)?;
    bench.denied(&mut outside, &self::ring(), refused("io_uring"))?;
    Ok(())
}

fn userfaultfd(bench: &mut Bench) -> Result<()> {
    const UFFD_USER_MODE_ONLY: i64 = 1;
    let make = call(libc::SYS_userfaultfd, [UFFD_USER_MODE_ONLY.into()]);
    loosened(bench, &make, "userfaultfd")
}

fn user_namespaces(bench: &mut Bench) -> Result<()> {
    let unshare = forked(call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into()]));
    loosened(bench, &unshare, "user_namespaces")?;
    let mut user = bench.user_agent()?;
    bench.denied(&mut user, &unshare, refused("user_namespaces"))?;
    Ok(())
}

/// Any command, and the BPF file system under any name.
fn bpf(bench: &mut Bench) -> Result<()> {
    const MAP_CREATE: i64 = 0;
    const PROG_GET_NEXT_ID: i64 = 11;
    const OBJ_GET: i64 = 7;
    let command = |number: i64| {
        // An array of one element of four bytes.
        let attribute: Vec<u8> = [2_u32, 4, 4, 1]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .chain([0; 48])
            .collect();
        call(
            libc::SYS_bpf,
            [number.into(), Arg::Bytes(attribute), 64.into()],
        )
    };
    // The kernel's own check of capabilities comes before the hook on 6.1, where it isn't switched off.
    let unprivileged = "/proc/sys/kernel/unprivileged_bpf_disabled";
    fs::write(unprivileged, "0")?;
    let mut agent = bench.agent()?;
    for number in [MAP_CREATE, OBJ_GET, PROG_GET_NEXT_ID] {
        let wanted = refused("bpf").with("/object/command", number);
        bench.denied(&mut agent, &command(number), wanted)?;
    }
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &command(MAP_CREATE))?;
    fs::write(unprivileged, "2")?;

    let other = bench.path("other-name");
    fs::create_dir_all(&other)?;
    let shown = other.display().to_string();
    run_well("mount", &["--bind", "/sys/fs/bpf", &shown])?;
    let pins = fs::read_dir(&other)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.is_dir());
    let result = (|| {
        for path in pins.iter().chain([&other]) {
            let list = open(path, libc::O_RDONLY | libc::O_DIRECTORY);
            bench.fails(&mut agent, &list, libc::EPERM)?;
        }
        bench.fails(&mut agent, &mkdir(other.join("x")), libc::EPERM)?;
        // Another instance of it has another device, and no rule that knows it.
        run_well("umount", &[&shown])?;
        run_well("mount", &["-t", "bpf", "none", &shown])?;
        let folder = other.join("x");
        bench.denied(&mut agent, &mkdir(&folder), refused("bpf").path(&folder))?;
        let list = open(&other, libc::O_RDONLY | libc::O_DIRECTORY);
        bench.denied(&mut agent, &list, refused("bpf").path(&other))?;
        bench.allowed(&mut outside, &mkdir(&folder))?;
        Ok(())
    })();
    run_well("umount", &[&shown])?;
    result
}

fn perf(bench: &mut Bench) -> Result<()> {
    // PERF_TYPE_SOFTWARE, the size of the first version, PERF_COUNT_SW_CPU_CLOCK.
    let mut attributes: Vec<u8> = [1_u32, 64].into_iter().flat_map(u32::to_ne_bytes).collect();
    attributes.resize(64, 0);
    // At Debian's level of paranoia a capability is asked for first.
    let paranoia = "/proc/sys/kernel/perf_event_paranoid";
    let before = fs::read_to_string(paranoia)?;
    fs::write(paranoia, "-1")?;
    let all = || (-1).into();
    let perf_event_open = call(
        libc::SYS_perf_event_open,
        [Arg::Bytes(attributes), 0.into(), all(), all(), 0.into()],
    );
    let result = loosened(bench, &perf_event_open, "perf");
    fs::write(paranoia, before)?;
    result
}

fn keyrings(bench: &mut Bench) -> Result<()> {
    const KEY_SPEC_PROCESS_KEYRING: i64 = -2;
    let add = call(
        libc::SYS_add_key,
        [
            "user".into(),
            "agentguard-test".into(),
            Arg::Bytes(b"x".to_vec()),
            1.into(),
            KEY_SPEC_PROCESS_KEYRING.into(),
        ],
    );
    loosened(bench, &add, "keyrings")
}

/// Opening a device that nobody drives has the kernel ask for a module.
fn module_autoload(bench: &mut Bench) -> Result<()> {
    let device = bench.path("nobodys");
    let node = [i64::from(libc::S_IFCHR | 0o666), 240 << 8];
    let make = on_path(libc::SYS_mknod, &device, node);
    bench.allowed(&mut Remote::outside()?, &make)?;
    let open = open(&device, libc::O_RDONLY);
    let mut agent = bench.agent()?;
    bench.log.skip()?;
    bench.fails(&mut agent, &open, libc::ENXIO)?;
    let wanted = Wanted::refusal("system.module_autoload", "system");
    let name = agent.agent.clone().unwrap_or_default();
    bench.log.wait(&wanted.agent(&name))?;
    let mut loose = loose(bench)?;
    let wanted = Wanted::allow("system.module_autoload");
    let name = loose.agent.clone().unwrap_or_default();
    bench.log.skip()?;
    bench.fails(&mut loose, &open, libc::ENXIO)?;
    bench.log.wait(&wanted.agent(&name))?;
    Ok(())
}

/// A cgroup file system that is mounted where no rule knows it.
fn cgroups(bench: &mut Bench) -> Result<()> {
    let mounted = bench.path("cgroups");
    fs::create_dir_all(&mounted)?;
    let shown = mounted.display().to_string();
    run_well("mount", &["-t", "cgroup2", "none", &shown])?;
    let result = (|| {
        let mut agent = bench.agent()?;
        let mut outside = Remote::outside()?;
        let procs = mounted.join("cgroup.procs");
        let wanted = refused("cgroups").path(&procs);
        bench.denied(&mut agent, &open(&procs, libc::O_WRONLY), wanted)?;
        let folder = mounted.join("made-by-agent");
        bench.denied(
            &mut agent,
            &mkdir(&folder),
            refused("cgroups").path(&folder),
        )?;
        bench.allowed(&mut agent, &open(&procs, libc::O_RDONLY))?;
        bench.allowed(&mut outside, &open(&procs, libc::O_WRONLY))?;
        bench.allowed(&mut outside, &mkdir(&folder))?;
        fs::remove_dir(&folder)?;
        Ok(())
    })();
    run_well("umount", &[&shown])?;
    result
}

fn kernel_files(bench: &mut Bench) -> Result<()> {
    let files = [
        "/proc/sys/vm/swappiness",
        "/proc/sys/kernel/printk",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ];
    let mut agent = bench.agent()?;
    let mut outside = Remote::outside()?;
    for file in files {
        let wanted = refused("kernel_files").path(file);
        bench.denied(&mut agent, &open(file, libc::O_WRONLY), wanted)?;
        let change = Act::Sequence(vec![open(file, libc::O_WRONLY), close(Arg::Step(0))]);
        bench.allowed(&mut outside, &change)?;
        bench.allowed(&mut agent, &open(file, libc::O_RDONLY))?;
    }
    // Its own process's files in /proc are its own.
    let score = Act::Sequence(vec![
        open("/proc/self/oom_score_adj", libc::O_WRONLY),
        write(Arg::Step(0), "500"),
    ]);
    bench.allowed(&mut agent, &score)?;
    Ok(())
}

fn block_devices(bench: &mut Bench) -> Result<()> {
    let device = bench.path("disk");
    let node = |act| {
        on_path(
            libc::SYS_mknod,
            act,
            [i64::from(libc::S_IFBLK | 0o600), 0xfd00],
        )
    };
    let mut outside = Remote::outside()?;
    bench.allowed(&mut outside, &node(&device))?;
    let mut agent = bench.agent()?;
    for flags in [libc::O_RDONLY, libc::O_RDWR] {
        let wanted = refused("block_devices").path(&device);
        bench.denied(&mut agent, &open(&device, flags), wanted)?;
    }
    // Nothing drives it, which is another error.
    let mut loose = loose(bench)?;
    bench.fails(&mut loose, &open(&device, libc::O_RDONLY), libc::ENXIO)?;
    Ok(())
}

fn devices(bench: &mut Bench) -> Result<()> {
    let mut agent = bench.agent()?;
    let mut loose = loose(bench)?;
    let kmsg = open("/dev/kmsg", libc::O_WRONLY);
    let wanted = refused("devices").path("/dev/kmsg");
    bench.denied(&mut agent, &kmsg, wanted)?;
    bench.allowed(&mut loose, &kmsg)?;
    for device in ["null", "zero", "full", "random", "urandom", "ptmx"] {
        let path = Path::new("/dev").join(device);
        bench.allowed(&mut agent, &open(&path, libc::O_RDWR))?;
    }
    Ok(())
}

/// Limits, scheduling, and the writable files in /proc of a process that is somebody else's.
fn other_processes(bench: &mut Bench) -> Result<()> {
    const RLIMIT_CPU: i64 = 0;
    const IOPRIO_WHO_PROCESS: i64 = 1;
    const BEST_EFFORT_LOWEST: i64 = 2 << 13 | 7;
    let limits = || Arg::Bytes([600_u64.to_ne_bytes(), 600_u64.to_ne_bytes()].concat());
    let attempts = |pid: u32| {
        let id = || Arg::Int(pid.into());
        [
            call(
                libc::SYS_prlimit64,
                [id(), RLIMIT_CPU.into(), limits(), 0.into()],
            ),
            call(
                libc::SYS_sched_setscheduler,
                [id(), libc::SCHED_BATCH.into(), Arg::Bytes(vec![0; 4])],
            ),
            call(
                libc::SYS_sched_setaffinity,
                [id(), 8.into(), Arg::Bytes(vec![1, 0, 0, 0, 0, 0, 0, 0])],
            ),
            call(libc::SYS_setpriority, [0.into(), id(), 5.into()]),
            call(
                libc::SYS_ioprio_set,
                [IOPRIO_WHO_PROCESS.into(), id(), BEST_EFFORT_LOWEST.into()],
            ),
            open(format!("/proc/{pid}/oom_score_adj"), libc::O_WRONLY),
        ]
    };
    let mut outside = Remote::outside()?;
    let mut agent = bench.agent()?;
    let wanted = [
        refused("other_processes"),
        Wanted::refusal("system.other_processes", "other-task"),
        Wanted::refusal("system.other_processes", "other-task"),
        Wanted::refusal("system.other_processes", "other-task"),
        Wanted::refusal("system.other_processes", "other-task"),
        refused("other_processes"),
    ];
    for (act, wanted) in attempts(outside.pid()).iter().zip(wanted) {
        bench.denied(&mut agent, act, wanted)?;
    }
    let own = agent.pid();
    for act in attempts(own) {
        bench.allowed(&mut agent, &act)?;
    }
    for act in attempts(own) {
        bench.allowed(&mut outside, &act)?;
    }
    Ok(())
}

/// System V: objects that somebody outside made, by number, and the agent's own.
fn shared_by_number(bench: &mut Bench) -> Result<()> {
    const KEY: i64 = 0x4147;
    let made = libc::IPC_CREAT | 0o666;
    let mut outside = Remote::outside()?;
    let queue = bench.allowed(
        &mut outside,
        &call(libc::SYS_msgget, [KEY.into(), made.into()]),
    )?;
    let memory = bench.allowed(
        &mut outside,
        &call(libc::SYS_shmget, [KEY.into(), 4096.into(), made.into()]),
    )?;
    let semaphores = bench.allowed(
        &mut outside,
        &call(libc::SYS_semget, [KEY.into(), 1.into(), made.into()]),
    )?;
    // struct msgbuf: a type, and text; struct sembuf: number, operation, flags.
    let message = || Arg::Bytes([1_u64.to_ne_bytes(), *b"whatever"].concat());
    let attempts = || {
        [
            call(libc::SYS_msgget, [KEY.into(), 0.into()]),
            call(
                libc::SYS_msgsnd,
                [queue.into(), message(), 8.into(), libc::IPC_NOWAIT.into()],
            ),
            call(
                libc::SYS_msgrcv,
                [
                    queue.into(),
                    message(),
                    8.into(),
                    0.into(),
                    libc::IPC_NOWAIT.into(),
                ],
            ),
            call(libc::SYS_shmat, [memory.into(), 0.into(), 0.into()]),
            call(
                libc::SYS_semop,
                [
                    semaphores.into(),
                    Arg::Bytes(vec![0, 0, 1, 0, 0, 0]),
                    1.into(),
                ],
            ),
            call(
                libc::SYS_shmctl,
                [
                    memory.into(),
                    libc::IPC_STAT.into(),
                    Arg::Bytes(vec![0; 256]),
                ],
            ),
        ]
    };
    for is_root in [true, false] {
        let mut agent = if is_root {
            bench.agent()?
        } else {
            bench.user_agent()?
        };
        // The kernel says EACCES for whatever reason (ipc/util.c, callers of `ipcperms`).
        let mut is_refused = |act: &Act| {
            bench.log.skip()?;
            bench.fails(&mut agent, act, libc::EACCES)?;
            bench.log.wait(&of(&agent, refused("ipc")))
        };
        for act in attempts() {
            is_refused(&act)?;
        }
        // Nor what it makes itself.
        let own = Act::Sequence(vec![
            call(
                libc::SYS_shmget,
                [libc::IPC_PRIVATE.into(), 4096.into(), made.into()],
            ),
            call(libc::SYS_shmat, [Arg::Step(0), 0.into(), 0.into()]),
        ]);
        is_refused(&own)?;
    }
    let mut loose = loose(bench)?;
    for who in [&mut loose, &mut outside] {
        for act in attempts() {
            bench.allowed(who, &act)?;
        }
    }
    let remove = libc::IPC_RMID.into();
    let removals = [
        call(libc::SYS_msgctl, [queue, remove, 0].map(Arg::Int)),
        call(libc::SYS_shmctl, [memory, remove, 0].map(Arg::Int)),
        call(libc::SYS_semctl, [semaphores, 0, remove, 0].map(Arg::Int)),
    ];
    let mut agent = bench.agent()?;
    for act in &removals {
        bench.denied(&mut agent, act, refused("ipc"))?;
    }
    let [queue, memory, semaphores] = removals;
    bench.allowed(&mut loose, &queue)?;
    bench.allowed(&mut outside, &memory)?;
    bench.allowed(&mut outside, &semaphores)?;
    Ok(())
}

/// POSIX message queues: by their call, whose files are on a mount of the kernel's own and have no path that could allow
/// anything, and as files.
fn message_queues(bench: &mut Bench) -> Result<()> {
    let queue = |name: &str, flags: i32| {
        call(
            libc::SYS_mq_open,
            [name.into(), flags.into(), 0o666.into(), 0.into()],
        )
    };
    let mounted = bench.path("queues");
    fs::create_dir_all(&mounted)?;
    let shown = mounted.display().to_string();
    run_well("mount", &["-t", "mqueue", "none", &shown])?;
    let mut outside = Remote::outside()?;
    let create = libc::O_RDWR | libc::O_CREAT;
    bench.allowed(&mut outside, &queue("agentguard-test", create))?;
    let file = open(mounted.join("agentguard-test"), libc::O_RDONLY);
    let mut loose = loose(bench)?;
    let mut agents = [bench.agent()?, bench.user_agent()?];
    for (number, agent) in agents.iter_mut().enumerate() {
        let own = queue(&format!("agentguard-own-{number}"), create);
        for act in [queue("agentguard-test", libc::O_RDONLY), own] {
            // KERNEL: the mount that the call goes by counts as one that is nowhere before 6.18.
            let denied = bench.denied(agent, &act, Wanted::default().with("/verdict", "deny"))?;
            let reason = denied["reason"].as_str().unwrap_or_default();
            ensure!(matches!(reason, "detached" | "system"), "{denied}");
        }
        bench.denied(agent, &file, refused("ipc"))?;
    }
    let file = Act::Sequence(vec![file, close(Arg::Step(0))]);
    bench.allowed(&mut loose, &file)?;
    let unlink = call(libc::SYS_mq_unlink, ["agentguard-test".into()]);
    // Another user's are nobody's to remove, whatever AgentGuard says.
    let [root, _] = &mut agents;
    bench.denied(root, &unlink, refused("ipc"))?;
    bench.allowed(&mut outside, &unlink)?;
    run_well("umount", &[&shown])?;
    Ok(())
}

/// Typing into a terminal that is shared with a person.
fn terminal_input(bench: &mut Bench) -> Result<()> {
    const TIOCSTI: i64 = 0x5412;
    const TIOCLINUX: i64 = 0x541c;
    const TIOCGPTN: i64 = 0x8004_5430;
    let control = |command: i64| {
        Act::Sequence(vec![
            open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY),
            call(
                libc::SYS_ioctl,
                [Arg::Step(0), command.into(), Arg::Bytes(vec![b'x'; 8])],
            ),
        ])
    };
    let mut agent = bench.agent()?;
    for command in [TIOCSTI, TIOCLINUX] {
        bench.denied(&mut agent, &control(command), refused("terminal_input"))?;
    }
    bench.allowed(&mut agent, &control(TIOCGPTN))?;
    // What the kernel itself thinks of it is another matter.
    let mut loose = loose(bench)?;
    let name = loose.agent.clone().unwrap_or_default();
    bench.log.skip()?;
    loose.act(&control(TIOCSTI))?;
    let wanted = Wanted::allow("system.terminal_input");
    bench.log.wait(&wanted.agent(&name))?;
    Ok(())
}

fn audit(bench: &mut Bench) -> Result<()> {
    let file = bench.path("file");
    fs::write(&file, "")?;
    let mut agent = bench.agent()?;
    let wanted = Wanted::action("system.capabilities")
        .with("/verdict", "audit")
        .with("/would", "deny")
        .with("/object/capability", "CAP_CHOWN");
    bench.allowed_and_logged(&mut agent, &chown(&file), wanted)?;
    // What no profile can allow, audit mode doesn't either.
    let image = Arg::Bytes(vec![0; 64]);
    for (act, wanted) in [
        (
            call(libc::SYS_init_module, [image, 64.into(), "".into()]),
            capability("CAP_SYS_MODULE"),
        ),
        (
            call(
                libc::SYS_kexec_load,
                [0.into(), 0.into(), 0.into(), 0.into()],
            ),
            capability("CAP_SYS_BOOT"),
        ),
        (
            open("/proc/sys/vm/swappiness", libc::O_WRONLY),
            refused("kernel_files"),
        ),
        (
            open("/sys/fs/cgroup/cgroup.procs", libc::O_WRONLY),
            refused("cgroups"),
        ),
        (
            call(
                libc::SYS_prlimit64,
                [1.into(), 0.into(), Arg::Bytes(vec![0; 16]), 0.into()],
            ),
            refused("other_processes"),
        ),
        (
            open("/etc/agentguard/policies", libc::O_RDONLY),
            Wanted::deny("file.open", "agentguard/self"),
        ),
        (
            mkdir("/sys/fs/bpf/agentguard/x"),
            Wanted::deny("file.create", "agentguard/self"),
        ),
        (
            open("/proc/sys/kernel/core_pattern", libc::O_WRONLY),
            Wanted::deny("file.open", "agentguard/kernel-helpers"),
        ),
        (
            Act::Sequence(vec![
                socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
                connect(Arg::Step(0), unix("/run/agentguard/agentguard.sock")),
            ]),
            Wanted::deny("unix.connect", "agentguard/socket"),
        ),
    ] {
        bench.denied(&mut agent, &act, wanted)?;
    }
    Ok(())
}
