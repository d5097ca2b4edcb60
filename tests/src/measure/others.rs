//! What AgentGuard is compared with, in the same boot: programs that do nothing on the same hooks, and what the kernel
//! itself has for the same purpose.

use std::{
    fs,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use agentguard_common::counter::Hook;
use anyhow::{Context as _, Result, bail, ensure};
use aya_obj::btf::{Btf, BtfKind};
use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus,
};

use super::rules;
use crate::bench::run_well;

/// What a program of the floor consists of: `r0 = 0; exit`.
const EMPTY: [u64; 2] = [0xb7, 0x95];

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: i32 = 5;
const BPF_RAW_TRACEPOINT_OPEN: i32 = 17;
const BPF_PROG_TYPE_LSM: u32 = 29;
const BPF_LSM_MAC: u32 = 27;

/// `union bpf_attr` of `BPF_PROG_LOAD`, up to the last field that is set.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u32; 4],
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u64; 2],
    prog_ifindex: u32,
    expected_attach_type: u32,
    btf_and_its_infos: [u32; 9],
    attach_btf_id: u32,
    attach_prog_fd: u32,
}

/// `union bpf_attr` of `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
struct Attach {
    name: u64,
    program: u32,
    padding: u32,
}

fn bpf<T>(command: i32, attributes: &T) -> std::io::Result<OwnedFd> {
    // SAFETY: the attributes live as long as the call, and what they point to does as well.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A program that allows everything, on each hook that AgentGuard has one on. They are there as long as what is returned.
pub fn empty_programs() -> Result<Vec<OwnedFd>> {
    let btf = Btf::from_sys_fs()?;
    let mut links = Vec::new();
    for hook in Hook::ALL {
        if hook.is_of_cgroups() {
            continue;
        }
        let function = format!("bpf_lsm_{}", hook.name());
        let Ok(id) = btf.id_by_type_name_kind(&function, BtfKind::Func) else {
            // Not on this kernel.
            continue;
        };
        let load = Load {
            prog_type: BPF_PROG_TYPE_LSM,
            insn_cnt: EMPTY.len() as u32,
            insns: EMPTY.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            expected_attach_type: BPF_LSM_MAC,
            attach_btf_id: id,
            ..Load::default()
        };
        let program =
            bpf(BPF_PROG_LOAD, &load).with_context(|| format!("cannot load {function}"))?;
        let attach = Attach {
            name: 0,
            program: program.as_raw_fd() as u32,
            padding: 0,
        };
        let link = bpf(BPF_RAW_TRACEPOINT_OPEN, &attach)
            .with_context(|| format!("cannot attach {function}"))?;
        links.push(link);
    }
    ensure!(links.len() > 50, "only {} hooks were found", links.len());
    Ok(links)
}

/// Runs a command under Landlock with `count` rules: five that open what the command needs, and folders.
///
/// # Errors
/// When it can't be had. Else this process becomes the command.
pub fn landlocked(count: usize, command: &[&str]) -> Result<()> {
    let all = AccessFs::from_all(ABI::V1);
    let mut paths: Vec<PathBuf> = ["/srv", "/usr", "/proc", "/dev", "/etc"]
        .map(PathBuf::from)
        .into();
    for number in paths.len()..count {
        let path = Path::new("/run/landlock").join(number.to_string());
        fs::create_dir_all(&path)?;
        paths.push(path);
    }
    let mut ruleset = Ruleset::default().handle_access(all)?.create()?;
    for path in paths {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(&path)?, all))?;
    }
    let status = ruleset.restrict_self()?;
    ensure!(
        status.ruleset == RulesetStatus::FullyEnforced,
        "Landlock is not enforced: {:?}",
        status.ruleset
    );
    let [program, arguments @ ..] = command else {
        bail!("no command");
    };
    Err(Command::new(program).args(arguments).exec().into())
}

/// Loads an AppArmor profile with so many rules of the kinds that AgentGuard's policies are made of here, and says what
/// it is called. It denies them and allows the rest.
pub fn apparmor_profile(count: usize) -> Result<String> {
    if !Path::new("/sys/kernel/security/apparmor").exists() {
        run_well(
            "mount",
            &["-t", "securityfs", "none", "/sys/kernel/security"],
        )?;
    }
    let name = format!("measured-{count}");
    let mut text = format!(
        "profile {name} {{\n/** rwmklix,\nnetwork,\nunix,\ncapability,\nsignal,\nptrace,\n"
    );
    for pattern in rules::patterns(count, &rules::KINDS) {
        // A pattern with `**` in front is about every folder.
        let pattern = match pattern.strip_prefix("**") {
            Some(rest) => format!("/**{rest}"),
            None => pattern,
        };
        text += &format!("deny {pattern} rw,\n");
    }
    text += "}\n";
    let path = format!("/run/{name}.apparmor");
    fs::write(&path, text)?;
    // Without its configuration, what it assumes of the kernel is what the kernel says.
    run_well(
        "apparmor_parser",
        &[
            "--config-file=/dev/null",
            "--replace",
            "--skip-cache",
            &path,
        ],
    )?;
    Ok(name)
}
