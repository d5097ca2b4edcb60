//! Finds the kernel's structure members in its BTF, by name and type, for the programs' frozen
//! offset table. It knows nothing of programs; it refuses what is missing, ambiguous or of another
//! type than the programs were written for.

use agentguard_common::offsets::{ABSENT, KernelOffsets};
use btf_rs::{Btf, BtfType, Member, Struct, Type};

/// The BTF of the running kernel.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Anonymous structs and unions that are descended into at most, one in another.
const MAX_NESTING: usize = 8;
/// Qualifiers and typedefs followed at most on the way to a type.
const MAX_CHAIN: usize = 32;

/// Why an offset can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the kernel's BTF from {path}: {detail}")]
    Read { path: String, detail: String },
    #[error("the kernel's BTF has no struct {structure}; this kernel is not supported")]
    NoStruct { structure: &'static str },
    #[error("the kernel's struct {structure} has no member {member}; this kernel is not supported")]
    NoMember {
        structure: &'static str,
        member: &'static str,
    },
    #[error(
        "the kernel's BTF has several structs {structure} that disagree about {member} (offsets {first} and {second})"
    )]
    Ambiguous {
        structure: &'static str,
        member: &'static str,
        first: u32,
        second: u32,
    },
    #[error(
        "the kernel's {structure}.{member} is {found}, but the programs read {expected}; this kernel is not supported"
    )]
    WrongType {
        structure: &'static str,
        member: &'static str,
        expected: String,
        found: String,
    },
    #[error("the kernel's {structure}.{member} is a bit field; this kernel is not supported")]
    BitField {
        structure: &'static str,
        member: &'static str,
    },
    #[error("cannot follow the types of {structure}.{member} in the kernel's BTF: {source}")]
    Broken {
        structure: &'static str,
        member: &'static str,
        source: btf_rs::Error,
    },
    #[error("the offset table of the programs has the field {0}, which the loader doesn't know")]
    UnknownField(&'static str),
}

/// What the programs take a member for.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// An integer of so many bytes, of either sign.
    Int(usize),
    /// A pointer to this struct.
    PointerTo(&'static str),
    /// A pointer to anything.
    Pointer,
    /// This struct itself.
    Struct(&'static str),
    /// An array of this struct.
    ArrayOf(&'static str),
    /// An array of pointers to this struct.
    ArrayOfPointersTo(&'static str),
    /// An array of bytes.
    Bytes,
    /// A list of this struct: a `list_head`, or a pointer to the first.
    ListOf(&'static str),
    /// Any union.
    Union,
    /// A bit field of one bit; its offset is told in bits.
    Bit,
    /// A struct without a name around an integer of 4 bytes: `kuid_t`, `atomic_t`.
    Wrapped,
}

impl Shape {
    fn text(self) -> String {
        match self {
            Self::Int(bytes) => format!("an integer of {bytes} bytes"),
            Self::PointerTo(name) => format!("a pointer to struct {name}"),
            Self::Pointer => "a pointer".to_owned(),
            Self::Union => "a union".to_owned(),
            Self::Bit => "a bit".to_owned(),
            Self::Wrapped => "a struct around an integer of 4 bytes".to_owned(),
            Self::Struct(name) => format!("a struct {name}"),
            Self::ArrayOf(name) => format!("an array of struct {name}"),
            Self::ArrayOfPointersTo(name) => format!("an array of pointers to struct {name}"),
            Self::Bytes => "an array of bytes".to_owned(),
            Self::ListOf(name) => format!("a list of struct {name}"),
        }
    }
}

/// One line of the table: the field of [`KernelOffsets`], where it is found, and as what.
struct Wanted {
    field: &'static str,
    structure: &'static str,
    member: &'static str,
    shape: Shape,
}

const fn wanted(
    field: &'static str,
    structure: &'static str,
    member: &'static str,
    shape: Shape,
) -> Wanted {
    Wanted {
        field,
        structure,
        member,
        shape,
    }
}

/// Sources: include/linux/{fs,path,dcache,mount,sched,nsproxy,binfmts,net,socket}.h, fs/mount.h,
/// include/net/{sock,af_unix}.h, arch/x86/include/asm/ptrace.h of 6.1, 6.12 and 6.18.
const WANTED: &[Wanted] = &[
    wanted("file_f_path", "file", "f_path", Shape::Struct("path")),
    wanted("file_f_flags", "file", "f_flags", Shape::Int(4)),
    wanted("file_f_mode", "file", "f_mode", Shape::Int(4)),
    wanted("file_f_inode", "file", "f_inode", Shape::PointerTo("inode")),
    wanted("path_mnt", "path", "mnt", Shape::PointerTo("vfsmount")),
    wanted("path_dentry", "path", "dentry", Shape::PointerTo("dentry")),
    wanted(
        "dentry_d_parent",
        "dentry",
        "d_parent",
        Shape::PointerTo("dentry"),
    ),
    wanted(
        "dentry_d_seq",
        "dentry",
        "d_seq",
        Shape::Struct("seqcount_spinlock"),
    ),
    wanted("dentry_d_name", "dentry", "d_name", Shape::Struct("qstr")),
    wanted(
        "dentry_d_inode",
        "dentry",
        "d_inode",
        Shape::PointerTo("inode"),
    ),
    wanted("qstr_len", "qstr", "len", Shape::Int(4)),
    wanted("qstr_name", "qstr", "name", Shape::Pointer),
    wanted("inode_i_generation", "inode", "i_generation", Shape::Int(4)),
    wanted("inode_i_ino", "inode", "i_ino", Shape::Int(8)),
    wanted(
        "inode_i_sb",
        "inode",
        "i_sb",
        Shape::PointerTo("super_block"),
    ),
    wanted("inode_i_nlink", "inode", "i_nlink", Shape::Int(4)),
    wanted("inode_i_mode", "inode", "i_mode", Shape::Int(2)),
    wanted("inode_i_rdev", "inode", "i_rdev", Shape::Int(4)),
    wanted("super_block_s_dev", "super_block", "s_dev", Shape::Int(4)),
    wanted(
        "super_block_s_magic",
        "super_block",
        "s_magic",
        Shape::Int(8),
    ),
    wanted(
        "vfsmount_mnt_root",
        "vfsmount",
        "mnt_root",
        Shape::PointerTo("dentry"),
    ),
    wanted(
        "vfsmount_mnt_sb",
        "vfsmount",
        "mnt_sb",
        Shape::PointerTo("super_block"),
    ),
    wanted("vfsmount_mnt_flags", "vfsmount", "mnt_flags", Shape::Int(4)),
    wanted("mount_mnt", "mount", "mnt", Shape::Struct("vfsmount")),
    wanted(
        "mount_mnt_parent",
        "mount",
        "mnt_parent",
        Shape::PointerTo("mount"),
    ),
    wanted(
        "mount_mnt_mountpoint",
        "mount",
        "mnt_mountpoint",
        Shape::PointerTo("dentry"),
    ),
    wanted(
        "mount_mnt_ns",
        "mount",
        "mnt_ns",
        Shape::PointerTo("mnt_namespace"),
    ),
    wanted(
        "task_struct_bpf_storage",
        "task_struct",
        "bpf_storage",
        Shape::PointerTo("bpf_local_storage"),
    ),
    wanted(
        "task_struct_nsproxy",
        "task_struct",
        "nsproxy",
        Shape::PointerTo("nsproxy"),
    ),
    wanted(
        "task_struct_real_parent",
        "task_struct",
        "real_parent",
        Shape::PointerTo("task_struct"),
    ),
    wanted(
        "task_struct_group_leader",
        "task_struct",
        "group_leader",
        Shape::PointerTo("task_struct"),
    ),
    wanted("task_struct_tgid", "task_struct", "tgid", Shape::Int(4)),
    wanted(
        "task_struct_start_boottime",
        "task_struct",
        "start_boottime",
        Shape::Int(8),
    ),
    wanted("task_struct_pid", "task_struct", "pid", Shape::Int(4)),
    wanted("task_struct_comm", "task_struct", "comm", Shape::Bytes),
    wanted(
        "task_struct_cgroups",
        "task_struct",
        "cgroups",
        Shape::PointerTo("css_set"),
    ),
    wanted(
        "css_set_dfl_cgrp",
        "css_set",
        "dfl_cgrp",
        Shape::PointerTo("cgroup"),
    ),
    wanted("cgroup_level", "cgroup", "level", Shape::Int(4)),
    wanted(
        "cgroup_ancestors",
        "cgroup",
        "ancestors",
        Shape::ArrayOfPointersTo("cgroup"),
    ),
    wanted("cgroup_kn", "cgroup", "kn", Shape::PointerTo("kernfs_node")),
    wanted("kernfs_node_id", "kernfs_node", "id", Shape::Int(8)),
    wanted(
        "nsproxy_mnt_ns",
        "nsproxy",
        "mnt_ns",
        Shape::PointerTo("mnt_namespace"),
    ),
    wanted(
        "linux_binprm_file",
        "linux_binprm",
        "file",
        Shape::PointerTo("file"),
    ),
    wanted("linux_binprm_argc", "linux_binprm", "argc", Shape::Int(4)),
    wanted("linux_binprm_p", "linux_binprm", "p", Shape::Int(8)),
    wanted("linux_binprm_exec", "linux_binprm", "exec", Shape::Int(8)),
    wanted(
        "linux_binprm_filename",
        "linux_binprm",
        "filename",
        Shape::Pointer,
    ),
    wanted(
        "linux_binprm_interp",
        "linux_binprm",
        "interp",
        Shape::Pointer,
    ),
    wanted(
        "linux_binprm_is_check",
        "linux_binprm",
        IS_CHECK,
        Shape::Bit,
    ),
    wanted("pt_regs_si", "pt_regs", "si", Shape::Int(8)),
    wanted("pt_regs_dx", "pt_regs", "dx", Shape::Int(8)),
    wanted("pt_regs_orig_ax", "pt_regs", "orig_ax", Shape::Int(8)),
    wanted("socket_sk", "socket", "sk", Shape::PointerTo("sock")),
    wanted("socket_type", "socket", "type", Shape::Int(2)),
    wanted(
        "sock_common_skc_state",
        "sock_common",
        "skc_state",
        Shape::Int(1),
    ),
    wanted(
        "sock_common_skc_family",
        "sock_common",
        "skc_family",
        Shape::Int(2),
    ),
    wanted(
        "sock_common_skc_num",
        "sock_common",
        "skc_num",
        Shape::Int(2),
    ),
    wanted(
        "sock_common_skc_dport",
        "sock_common",
        "skc_dport",
        Shape::Int(2),
    ),
    wanted(
        "sock_common_skc_daddr",
        "sock_common",
        "skc_daddr",
        Shape::Int(4),
    ),
    wanted(
        "sock_common_skc_v6_daddr",
        "sock_common",
        "skc_v6_daddr",
        Shape::Struct("in6_addr"),
    ),
    wanted(
        "sock_common_skc_rcv_saddr",
        "sock_common",
        "skc_rcv_saddr",
        Shape::Int(4),
    ),
    wanted(
        "sock_common_skc_v6_rcv_saddr",
        "sock_common",
        "skc_v6_rcv_saddr",
        Shape::Struct("in6_addr"),
    ),
    wanted("sock_sk_type", "sock", "sk_type", Shape::Int(2)),
    wanted("sock_sk_protocol", "sock", "sk_protocol", Shape::Int(2)),
    wanted("msghdr_msg_name", "msghdr", "msg_name", Shape::Pointer),
    wanted("msghdr_msg_namelen", "msghdr", "msg_namelen", Shape::Int(4)),
    wanted("msghdr_msg_flags", "msghdr", "msg_flags", Shape::Int(4)),
    wanted(
        "unix_sock_addr",
        "unix_sock",
        "addr",
        Shape::PointerTo("unix_address"),
    ),
    wanted("unix_sock_path", "unix_sock", "path", Shape::Struct("path")),
    wanted("unix_address_len", "unix_address", "len", Shape::Int(4)),
    wanted(
        "unix_address_name",
        "unix_address",
        "name",
        Shape::ArrayOf("sockaddr_un"),
    ),
    wanted(
        "proc_inode_vfs_inode",
        "proc_inode",
        "vfs_inode",
        Shape::Struct("inode"),
    ),
    wanted(
        "proc_inode_pid",
        "proc_inode",
        "pid",
        Shape::PointerTo("pid"),
    ),
    wanted("pid_tasks", "pid", "tasks", Shape::ArrayOf("hlist_head")),
    wanted("inode_i_private", "inode", "i_private", Shape::Pointer),
    wanted("kernfs_node_priv", "kernfs_node", "priv", Shape::Pointer),
    wanted(
        "task_struct_pid_links",
        "task_struct",
        "pid_links",
        Shape::ArrayOf("hlist_node"),
    ),
    wanted(
        "mptcp_sock_sk",
        "mptcp_sock",
        "sk",
        Shape::Struct("inet_connection_sock"),
    ),
    wanted(
        "task_struct_mm",
        "task_struct",
        "mm",
        Shape::PointerTo("mm_struct"),
    ),
    wanted(
        "mm_struct_exe_file",
        "mm_struct",
        "exe_file",
        Shape::PointerTo("file"),
    ),
    wanted(
        "vm_area_struct_vm_file",
        "vm_area_struct",
        "vm_file",
        Shape::PointerTo("file"),
    ),
    wanted(
        "backing_file_user_path",
        "backing_file",
        "user_path",
        Shape::Struct("path"),
    ),
    wanted(
        "super_block_s_mounts",
        "super_block",
        "s_mounts",
        Shape::ListOf("mount"),
    ),
    wanted(
        "mount_mnt_instance",
        "mount",
        "mnt_instance",
        Shape::Struct("list_head"),
    ),
    wanted(
        "mount_mnt_next_for_sb",
        "mount",
        "mnt_next_for_sb",
        Shape::PointerTo("mount"),
    ),
    wanted(
        "task_struct_cred",
        "task_struct",
        "cred",
        Shape::PointerTo("cred"),
    ),
    wanted(
        "task_struct_real_cred",
        "task_struct",
        "real_cred",
        Shape::PointerTo("cred"),
    ),
    wanted("task_struct_flags", "task_struct", "flags", Shape::Int(4)),
    wanted("iattr_ia_valid", "iattr", "ia_valid", Shape::Int(4)),
    wanted(
        "inode_i_dentry",
        "inode",
        "i_dentry",
        Shape::Struct("hlist_head"),
    ),
    wanted("dentry_d_u", "dentry", "d_u", Shape::Union),
    wanted("inode_i_uid", "inode", "i_uid", Shape::Wrapped),
    wanted("cred_fsuid", "cred", "fsuid", Shape::Wrapped),
    wanted("socket_file", "socket", "file", Shape::PointerTo("file")),
    wanted(
        "task_struct_thread_pid",
        "task_struct",
        "thread_pid",
        Shape::PointerTo("pid"),
    ),
    wanted("pid_level", "pid", "level", Shape::Int(4)),
    wanted("pid_numbers", "pid", "numbers", Shape::ArrayOf("upid")),
    wanted("upid_nr", "upid", "nr", Shape::Int(4)),
    wanted("inode_i_size", "inode", "i_size", Shape::Int(8)),
    wanted(
        "inode_i_writecount",
        "inode",
        "i_writecount",
        Shape::Wrapped,
    ),
];

/// The second and the nanosecond of an inode's last change, as kernels have had them: a `timespec64` begins with the
/// second, and 8 bytes on is the nanosecond.
const CHANGED: [(Wanted, Option<Wanted>); 3] = [
    (
        wanted("inode_changed_sec", "inode", "i_ctime_sec", Shape::Int(8)),
        Some(wanted(
            "inode_changed_nsec",
            "inode",
            "i_ctime_nsec",
            Shape::Int(4),
        )),
    ),
    (
        wanted(
            "inode_changed_sec",
            "inode",
            "__i_ctime",
            Shape::Struct("timespec64"),
        ),
        None,
    ),
    (
        wanted(
            "inode_changed_sec",
            "inode",
            "i_ctime",
            Shape::Struct("timespec64"),
        ),
        None,
    ),
];
const CHANGED_SEC: &str = "inode_changed_sec";
const CHANGED_NSEC: &str = "inode_changed_nsec";

/// Structures that some kernels don't have, or not with that member: of parts that can be left out when a kernel
/// is built, and newer ones.
const OPTIONAL: &[&str] = &["mptcp_sock", "backing_file"];
/// Members of which every kernel has one.
const EITHER: [&str; 2] = ["mnt_instance", "mnt_next_for_sb"];
/// A member that came later, and without which there is nothing to be read.
const IS_CHECK: &str = "is_check";
/// The field that is not an offset but the number of an argument.
const SETATTR: &str = "inode_setattr_dentry";

/// Looks every field of the table up.
pub fn resolve(btf: &Btf) -> Result<KernelOffsets, Error> {
    let mut values = [0; KernelOffsets::NAMES.len()];
    for (value, field) in values.iter_mut().zip(KernelOffsets::NAMES) {
        if *field == SETATTR {
            *value = argument(btf, "bpf_lsm_inode_setattr", "dentry");
            continue;
        }
        if [CHANGED_SEC, CHANGED_NSEC].contains(field) {
            let (sec, nsec) = changed(btf)?;
            *value = if *field == CHANGED_SEC { sec } else { nsec };
            continue;
        }
        let wanted = WANTED
            .iter()
            .find(|wanted| wanted.field == *field)
            .ok_or(Error::UnknownField(field))?;
        *value = match find(btf, wanted.structure, wanted.member, wanted.shape) {
            Err(Error::NoStruct { structure } | Error::NoMember { structure, .. })
                if OPTIONAL.contains(&structure) =>
            {
                ABSENT
            }
            Err(Error::NoMember { member, .. })
                if EITHER.contains(&member) || member == IS_CHECK =>
            {
                ABSENT
            }
            found => found?,
        };
    }
    let offsets = KernelOffsets::from_array(&values);
    if offsets.mount_mnt_instance == ABSENT && offsets.mount_mnt_next_for_sb == ABSENT {
        return Err(Error::NoMember {
            structure: "mount",
            member: EITHER[1],
        });
    }
    Ok(offsets)
}

/// Whether this kernel can be asked if a file could be run, without running it.
pub fn has_check(btf: &Btf) -> bool {
    find(btf, "linux_binprm", IS_CHECK, Shape::Bit).is_ok()
}

/// Where the second and the nanosecond of an inode's last change are.
fn changed(btf: &Btf) -> Result<(u32, u32), Error> {
    let mut missing = None;
    for (sec, nsec) in &CHANGED {
        let look = |wanted: &Wanted| find(btf, wanted.structure, wanted.member, wanted.shape);
        match look(sec) {
            Ok(at) => {
                return Ok((at, nsec.as_ref().map_or(Ok(at + 8), look)?));
            }
            Err(error @ Error::NoMember { .. }) => missing.get_or_insert(error),
            Err(error) => return Err(error),
        };
    }
    Err(missing.unwrap_or(Error::UnknownField(CHANGED_SEC)))
}

/// The number of the argument with this name, [`ABSENT`] when there is no such function or argument: then there is
/// no such hook either, or the program on it is refused by the verifier.
fn argument(btf: &Btf, function: &str, name: &str) -> u32 {
    let find = || {
        let types = btf.resolve_types_by_name(function).ok()?;
        let function = types.into_iter().find_map(|found| match found {
            Type::Func(function) => Some(function),
            _ => None,
        })?;
        let Type::FuncProto(prototype) = btf.resolve_chained_type(&function).ok()? else {
            return None;
        };
        prototype
            .parameters
            .iter()
            .position(|parameter| btf.resolve_name(parameter).is_ok_and(|own| own == name))
    };
    find().map_or(ABSENT, |position| position as u32)
}

/// The offset in bytes (of a bit: in bits) of a member, the same in every struct of that name.
fn find(
    btf: &Btf,
    structure: &'static str,
    member: &'static str,
    shape: Shape,
) -> Result<u32, Error> {
    let types = btf
        .resolve_types_by_name(structure)
        .map_err(|_| Error::NoStruct { structure })?;
    let mut structs = 0;
    let mut answer = None;
    for found in types {
        let Type::Struct(found) = found else { continue };
        structs += 1;
        let broken = |source| Error::Broken {
            structure,
            member,
            source,
        };
        let Some((bits, found)) = descend(btf, &found, member, MAX_NESTING).map_err(broken)? else {
            continue;
        };
        let in_bits = matches!(shape, Shape::Bit);
        if !in_bits && (bits % 8 != 0 || found.bitfield_size().is_some_and(|size| size != 0)) {
            return Err(Error::BitField { structure, member });
        }
        let seen = describe(btf, &found, shape).map_err(broken)?;
        if let Err(found) = seen {
            return Err(Error::WrongType {
                structure,
                member,
                expected: shape.text(),
                found,
            });
        }
        let offset = if in_bits { bits } else { bits / 8 };
        match answer {
            Some(first) if first != offset => {
                return Err(Error::Ambiguous {
                    structure,
                    member,
                    first,
                    second: offset,
                });
            }
            _ => answer = Some(offset),
        }
    }
    if structs == 0 {
        return Err(Error::NoStruct { structure });
    }
    answer.ok_or(Error::NoMember { structure, member })
}

/// The member and its offset in bits, looking into anonymous structs and unions.
fn descend(
    btf: &Btf,
    structure: &Struct,
    name: &str,
    nesting: usize,
) -> Result<Option<(u32, Member)>, btf_rs::Error> {
    for member in &structure.members {
        let own = btf.resolve_name(member)?;
        if own == name {
            return Ok(Some((member.bit_offset(), member.clone())));
        }
        if !own.is_empty() || nesting == 0 {
            continue;
        }
        if let Type::Struct(inner) | Type::Union(inner) = strip(btf, member)?
            && let Some((bits, found)) = descend(btf, &inner, name, nesting - 1)?
        {
            return Ok(Some((member.bit_offset() + bits, found)));
        }
    }
    Ok(None)
}

/// Whether the member has the shape; if not, what it is.
fn describe(btf: &Btf, member: &Member, shape: Shape) -> Result<Result<(), String>, btf_rs::Error> {
    let found = strip(btf, member)?;
    let fits = match (&found, shape) {
        (Type::Int(int), Shape::Int(bytes)) => int.size() == bytes,
        (Type::Int(_), Shape::Bit) => member.bitfield_size() == Some(1),
        (Type::Ptr(_), Shape::Pointer) => true,
        (Type::Ptr(pointer), Shape::PointerTo(name)) => is_struct(btf, pointer, name)?,
        (Type::Union(_), Shape::Union) => true,
        (Type::Struct(inner), Shape::Struct(name)) => btf.resolve_name(inner)? == name,
        (Type::Struct(inner), Shape::Wrapped) => match inner.members.as_slice() {
            [number] => matches!(strip(btf, number)?, Type::Int(int) if int.size() == 4),
            _ => false,
        },
        (Type::Array(array), Shape::ArrayOf(name)) => is_struct(btf, array, name)?,
        (Type::Array(array), Shape::ArrayOfPointersTo(name)) => match strip(btf, array)? {
            Type::Ptr(pointer) => is_struct(btf, &pointer, name)?,
            _ => false,
        },
        (Type::Array(array), Shape::Bytes) => {
            matches!(strip(btf, array)?, Type::Int(int) if int.size() == 1)
        }
        (Type::Struct(inner), Shape::ListOf(_)) => btf.resolve_name(inner)? == "list_head",
        (Type::Ptr(pointer), Shape::ListOf(name)) => is_struct(btf, pointer, name)?,
        _ => false,
    };
    if fits {
        return Ok(Ok(()));
    }
    Ok(Err(match &found {
        Type::Int(int) => format!("an integer of {} bytes", int.size()),
        Type::Struct(inner) => format!("a struct {}", btf.resolve_name(inner)?),
        Type::Ptr(pointer) => match strip(btf, pointer) {
            Ok(Type::Struct(inner)) => {
                format!("a pointer to struct {}", btf.resolve_name(&inner)?)
            }
            _ => "a pointer to something else".to_owned(),
        },
        other => format!("of kind {}", other.name()),
    }))
}

/// Whether the type refers to the struct with this name.
fn is_struct<T: BtfType>(btf: &Btf, from: &T, name: &str) -> Result<bool, btf_rs::Error> {
    Ok(match strip(btf, from)? {
        Type::Struct(inner) => btf.resolve_name(&inner)? == name,
        Type::Fwd(inner) => btf.resolve_name(&inner)? == name,
        _ => false,
    })
}

/// The type that is referred to, without typedefs, qualifiers and tags.
fn strip<T: BtfType + ?Sized>(btf: &Btf, from: &T) -> Result<Type, btf_rs::Error> {
    let mut found = btf.resolve_chained_type(from)?;
    for _ in 0..MAX_CHAIN {
        found = match &found {
            Type::Typedef(inner) => btf.resolve_chained_type(inner)?,
            Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                btf.resolve_chained_type(inner)?
            }
            Type::TypeTag(inner) => btf.resolve_chained_type(inner)?,
            _ => break,
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
