//! What the host must have before anything can be enforced, as data: the daemon refuses to start by
//! it and `agentguard doctor` prints it. It only looks; it changes nothing.

use std::{fs, io, path::Path};

use agentguard_common::{counter::Hook, offsets::KernelOffsets};
use btf_rs::{Btf, Type};
use serde::Serialize;

use super::{offsets, sequences};
use crate::{bpf, enforcement, exit::Code};

/// Where the cgroup v2 hierarchy is.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Where the BPF file system is.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The active LSMs, comma-separated.
pub const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// `CGROUP2_SUPER_MAGIC`, include/uapi/linux/magic.h.
const CGROUP2_MAGIC: libc::c_long = 0x6367_7270;
/// `BPF_FS_MAGIC`, likewise.
const BPFFS_MAGIC: libc::c_long = 0xcafe_4a11;
/// The oldest kernel that is tested.
const OLDEST: (u32, u32) = (6, 1);

/// One requirement and how the host meets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// A few words; stable.
    pub name: &'static str,
    pub found: bool,
    /// What was found, or what is wrong.
    pub detail: String,
    /// What to do when it isn't found.
    pub remedy: &'static str,
    /// Without it nothing can be enforced.
    pub fatal: bool,
    /// The exit code of a refusal for want of it.
    #[serde(skip)]
    pub code: Code,
}

/// What this host has.
#[derive(Debug)]
pub struct Host {
    /// Every requirement, in the order in which they matter.
    pub requirements: Vec<Requirement>,
    /// The hooks that the kernel lacks; none when its BTF can't be read.
    pub absent: Vec<Hook>,
    /// Where the kernel keeps what programs read.
    pub offsets: Result<KernelOffsets, offsets::Error>,
}

/// Looks at the host. Never fails: what can't be found out is not found, and the detail says why.
pub fn host() -> Host {
    let btf = kernel_btf();
    let absent = btf.as_ref().map(absent).unwrap_or_default();
    let offsets = btf.as_ref().map(offsets::resolve);
    Host {
        requirements: requirements(&btf, &absent, offsets.as_ref().ok()),
        offsets: offsets.unwrap_or_else(|error| {
            Err(offsets::Error::Read {
                path: offsets::KERNEL_BTF.to_owned(),
                detail: error.to_string(),
            })
        }),
        absent,
    }
}

/// The running kernel's own description of its types.
fn kernel_btf() -> Result<Btf, btf_rs::Error> {
    // At once: its parser reads a file in thousands of small pieces.
    Btf::from_bytes(&fs::read(offsets::KERNEL_BTF)?)
}

fn requirements(
    btf: &Result<Btf, btf_rs::Error>,
    absent: &[Hook],
    offsets: Option<&Result<KernelOffsets, offsets::Error>>,
) -> Vec<Requirement> {
    let mut list = vec![root(), kernel_version(), lsm_list(), readable_btf(btf)];
    if let Some(offsets) = offsets {
        list.push(hooks(absent));
        list.extend(other_hooks(absent));
        list.push(members(offsets));
    }
    list.push(cgroup2());
    list.push(bpffs());
    if let Ok(btf) = btf {
        list.push(loading(btf));
    }
    list.extend([jit(), sequences(), preemption(), unprivileged_bpf()]);
    list
}

/// The active LSMs, in order; empty when the list can't be read.
pub fn active_lsms() -> Vec<String> {
    fs::read_to_string(LSM_LIST)
        .map(|text| text.trim().split(',').map(str::to_owned).collect())
        .unwrap_or_default()
}

/// `uname -r`.
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn root() -> Requirement {
    let root = rustix::process::geteuid().is_root();
    Requirement {
        name: "root",
        found: root,
        detail: if root {
            "runs as root".to_owned()
        } else {
            format!("runs as user {}", rustix::process::geteuid().as_raw())
        },
        remedy: "run it as root",
        fatal: true,
        code: Code::NotRoot,
    }
}

fn kernel_version() -> Requirement {
    let release = kernel_release();
    let found = parse_version(&release).is_some_and(|version| version >= OLDEST);
    Requirement {
        name: "kernel 6.1 or newer",
        found,
        detail: format!("kernel {release}"),
        remedy: "boot a kernel of the 6.1 series or newer",
        fatal: true,
        code: Code::KernelUnsupported,
    }
}

/// Major and minor number of a release such as `6.12.117+deb12-cloud-amd64`.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn lsm_list() -> Requirement {
    let (found, detail) = match fs::read_to_string(LSM_LIST) {
        Ok(text) => {
            let text = text.trim();
            (
                text.split(',').any(|name| name == "bpf"),
                format!("{LSM_LIST} says {text}"),
            )
        }
        Err(error) => (false, format!("cannot read {LSM_LIST}: {error}")),
    };
    Requirement {
        name: "bpf in the list of LSMs",
        found,
        detail,
        remedy: "add bpf to the kernel's lsm= parameter (keep the others, for example lsm=landlock,lockdown,yama,integrity,apparmor,bpf) and reboot; mount securityfs at /sys/kernel/security if the list can't be read",
        fatal: true,
        code: Code::NoBpfLsm,
    }
}

fn readable_btf(btf: &Result<Btf, btf_rs::Error>) -> Requirement {
    Requirement {
        name: "BTF of the kernel",
        found: btf.is_ok(),
        detail: match btf {
            Ok(_) => format!("{} can be read", offsets::KERNEL_BTF),
            Err(error) => format!("cannot read {}: {error}", offsets::KERNEL_BTF),
        },
        remedy: "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        fatal: true,
        code: Code::NoBtf,
    }
}

/// The hooks that the running kernel lacks; none when its BTF can't be read, which is a requirement of its own.
pub fn absent_hooks() -> Vec<Hook> {
    kernel_btf().as_ref().map(absent).unwrap_or_default()
}

fn absent(btf: &Btf) -> Vec<Hook> {
    let is_absent = |hook: Hook| {
        lsm_function(btf, hook.name()).is_none()
            // The hook is older than the question that it is there for.
            || hook == Hook::BprmCredsForExec && !offsets::has_check(btf)
    };
    Hook::ALL
        .into_iter()
        .filter(|hook| !hook.is_of_cgroups() && is_absent(*hook))
        .collect()
}

const HOOKS_REMEDY: &str =
    "boot a kernel with CONFIG_BPF_LSM=y, CONFIG_SECURITY_NETWORK=y and CONFIG_SECURITY_PATH=y";

/// The hooks without which nothing can be enforced.
fn hooks(absent: &[Hook]) -> Requirement {
    let fatal: Vec<&str> = enforcement::fatal(absent).map(Hook::name).collect();
    let instead: Vec<String> = absent
        .iter()
        .filter_map(|hook| {
            let instead = enforcement::instead(*hook)?;
            Some(format!(
                "{} sees what {} would",
                instead.name(),
                hook.name()
            ))
        })
        .collect();
    Requirement {
        name: "LSM hooks",
        found: fatal.is_empty(),
        detail: if !fatal.is_empty() {
            format!("missing: {}", fatal.join(", "))
        } else if absent.is_empty() {
            format!("all {} hooks are there", Hook::ALL.len())
        } else {
            let there = Hook::ALL.len() - absent.len();
            format!("{there} hooks are there; {}", instead.join(", "))
        },
        remedy: HOOKS_REMEDY,
        fatal: true,
        code: Code::KernelUnsupported,
    }
}

/// The hooks that only some profiles need; those profiles are refused.
fn other_hooks(absent: &[Hook]) -> Option<Requirement> {
    let missing: Vec<String> = enforcement::lost(absent)
        .filter(|hook| enforcement::fatal(absent).all(|fatal| fatal != *hook))
        .map(|hook| {
            let verbs: Vec<String> = enforcement::serves(hook)
                .iter()
                .map(ToString::to_string)
                .collect();
            format!("{} ({})", hook.name(), verbs.join(", "))
        })
        .collect();
    (!missing.is_empty()).then(|| Requirement {
        name: "LSM hooks that not every profile needs",
        found: false,
        detail: format!(
            "missing: {}; profiles that restrict what needs them are refused",
            missing.join(", ")
        ),
        remedy: HOOKS_REMEDY,
        fatal: false,
        code: Code::Success,
    })
}

/// BTF id of the function that LSM programs for this hook attach to.
fn lsm_function(btf: &Btf, hook: &str) -> Option<u32> {
    let ids = btf.resolve_ids_by_name(&format!("bpf_lsm_{hook}")).ok()?;
    ids.into_iter()
        .find(|id| matches!(btf.resolve_type_by_id(*id), Ok(Type::Func(_))))
}

fn members(offsets: &Result<KernelOffsets, offsets::Error>) -> Requirement {
    Requirement {
        name: "kernel structures",
        found: offsets.is_ok(),
        detail: match offsets {
            Ok(_) => "every member that the programs read is there".to_owned(),
            Err(error) => error.to_string(),
        },
        remedy: "report it with the output of `uname -a`: this kernel's structures are new to AgentGuard",
        fatal: true,
        code: Code::KernelUnsupported,
    }
}

/// Without them nothing that was allowed is remembered.
fn sequences() -> Requirement {
    let found = sequences::find();
    Requirement {
        name: "addresses of the kernel's counters",
        found: found.is_ok(),
        detail: match found {
            Ok(_) => "it can be seen whether anything was renamed or mounted".to_owned(),
            Err(error) => format!(
                "{error}: what agents were allowed to open is looked at anew each time, which costs more"
            ),
        },
        remedy: "let the daemon have CAP_SYSLOG, and set kernel.kptr_restrict to 1 or 0",
        fatal: false,
        code: Code::Success,
    }
}

/// The magic number of the file system at `path`.
fn magic(path: &str) -> io::Result<libc::c_long> {
    Ok(rustix::fs::statfs(path)?.f_type as libc::c_long)
}

fn cgroup2() -> Requirement {
    let (found, detail) = match magic(CGROUP_ROOT) {
        Ok(CGROUP2_MAGIC) => (true, format!("mounted at {CGROUP_ROOT}")),
        Ok(_) => (
            false,
            format!("{CGROUP_ROOT} is not a cgroup v2 hierarchy (version 1 or hybrid)"),
        ),
        Err(error) => (false, format!("cannot look at {CGROUP_ROOT}: {error}")),
    };
    Requirement {
        name: "cgroup v2",
        found,
        detail,
        remedy: "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup",
        fatal: true,
        code: Code::NoCgroup2,
    }
}

/// Whether the BPF file system is mounted where it belongs.
pub fn bpffs_mounted() -> bool {
    matches!(magic(BPFFS), Ok(BPFFS_MAGIC))
}

fn bpffs() -> Requirement {
    let mounted = bpffs_mounted();
    let possible = mounted || Path::new(BPFFS).is_dir();
    Requirement {
        name: "BPF file system",
        found: possible,
        detail: if mounted {
            format!("mounted at {BPFFS}")
        } else if possible {
            format!("not mounted at {BPFFS}; the daemon will mount it")
        } else {
            format!("{BPFFS} does not exist")
        },
        remedy: "mount -t bpf bpf /sys/fs/bpf (needs CONFIG_BPF_SYSCALL=y and a mounted sysfs)",
        fatal: true,
        code: Code::NoBpffs,
    }
}

fn loading(btf: &Btf) -> Requirement {
    let tried = match lsm_function(btf, Hook::FileOpen.name()) {
        None => Err("the hook file_open is missing".to_owned()),
        Some(function) => {
            bpf::try_lsm_program(function).map_err(|error| match error.raw_os_error() {
                Some(libc::EPERM) if rustix::process::geteuid().is_root() => {
                    "this host refuses to load LSM programs, even to root (EPERM)".to_owned()
                }
                _ => format!("cannot load a trial LSM program: {error}"),
            })
        }
    };
    Requirement {
        name: "LSM programs may be loaded",
        found: tried.is_ok(),
        detail: tried
            .err()
            .unwrap_or_else(|| "a trial program was loaded".to_owned()),
        remedy: "run on the host itself, not in a container or a sandbox that filters bpf(); turn kernel lockdown off; give CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN",
        fatal: true,
        code: Code::LoadingForbidden,
    }
}

fn jit() -> Requirement {
    const PATH: &str = "/proc/sys/net/core/bpf_jit_enable";
    let value = fs::read_to_string(PATH);
    let (found, detail) = match value {
        Ok(text) => (text.trim() != "0", format!("{PATH} is {}", text.trim())),
        Err(error) => (false, format!("cannot read {PATH}: {error}")),
    };
    Requirement {
        name: "BPF just-in-time compiler",
        found,
        detail,
        remedy: "sysctl -w net.core.bpf_jit_enable=1 (LSM programs run through a trampoline, which needs it)",
        fatal: true,
        code: Code::KernelUnsupported,
    }
}

/// KERNEL: on 6.1 task storage answers NULL for a labelled task when another task of the same CPU was preempted,
/// or sleeps, inside a lookup (`bpf_task_storage_trylock`); 6.12 and 6.18 don't.
pub(super) fn task_storage_can_be_busy() -> bool {
    parse_version(&kernel_release()).is_some_and(|version| version < (6, 2))
}

fn preemption() -> Requirement {
    let full = fully_preemptible();
    let old = task_storage_can_be_busy();
    Requirement {
        name: "preemption",
        found: !(full && old),
        detail: match (full, old) {
            (true, true) => {
                "a fully preemptible kernel 6.1: the label of a task can't always be read; tasks inside their cgroup are judged all the same, tasks that left it may not be".to_owned()
            }
            (true, false) => "fully preemptible; labels can be read".to_owned(),
            (false, _) => "not fully preemptible".to_owned(),
        },
        remedy: "boot with preempt=voluntary, or a newer kernel",
        fatal: false,
        code: Code::Success,
    }
}

fn fully_preemptible() -> bool {
    if let Ok(mode) = fs::read_to_string("/sys/kernel/debug/sched/preempt") {
        return mode.contains("(full)");
    }
    let version = rustix::system::uname()
        .version()
        .to_string_lossy()
        .into_owned();
    if version.contains("PREEMPT_DYNAMIC") {
        return fs::read_to_string("/proc/cmdline")
            .is_ok_and(|line| line.split_whitespace().any(|word| word == "preempt=full"));
    }
    version
        .split_whitespace()
        .any(|word| word == "PREEMPT" || word == "PREEMPT_RT")
}

fn unprivileged_bpf() -> Requirement {
    const PATH: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
    let value = fs::read_to_string(PATH).unwrap_or_default();
    Requirement {
        name: "bpf() closed to ordinary users",
        found: value.trim() != "0",
        detail: format!("{PATH} is {}", value.trim()),
        remedy: "sysctl -w kernel.unprivileged_bpf_disabled=2",
        fatal: false,
        code: Code::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(parse_version("6.1.0-50-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse_version("6.12.117+deb12-cloud-amd64"), Some((6, 12)));
        assert_eq!(parse_version("7.0-rc1"), Some((7, 0)));
        assert_eq!(parse_version("linux"), None);
    }

    #[test]
    fn a_missing_hook_is_named_with_what_it_is_for() {
        let fatal = hooks(&[Hook::FileOpen, Hook::InodeSetAcl]);
        assert!(!fatal.found && fatal.fatal);
        assert_eq!(fatal.detail, "missing: file_open");
        let absent = [Hook::InodeSetAcl, Hook::SctpBindConnect];
        let fine = hooks(&absent);
        assert!(fine.found, "{}", fine.detail);
        assert!(
            fine.detail
                .ends_with("inode_setxattr sees what inode_set_acl would")
        );
        let other = other_hooks(&absent).expect("one is missing");
        assert!(!other.found && !other.fatal);
        assert!(
            other
                .detail
                .starts_with("missing: sctp_bind_connect (connect);")
        );
        assert_eq!(other_hooks(&[Hook::InodeSetAcl]), None);
    }

    #[test]
    fn what_is_missing_says_what_to_do() {
        for requirement in host().requirements {
            assert!(!requirement.remedy.is_empty(), "{}", requirement.name);
            assert!(!requirement.detail.is_empty(), "{}", requirement.name);
            if requirement.fatal {
                assert_ne!(requirement.code, Code::Success, "{}", requirement.name);
            }
        }
    }
}
