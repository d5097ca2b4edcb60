//! Where the kernel keeps what the programs read: offsets in bytes, found in the running kernel's BTF
//! by name and type when the programs are loaded, and frozen in a read-only global, so that the
//! verifier sees constants.

/// A member that this kernel does not have. Code behind a test for it is pruned by the verifier.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Offset of each member the programs read, named `struct_member`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct KernelOffsets {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl KernelOffsets {
            /// What the object file holds before the loader has filled it in.
            pub const UNSET: Self = Self { $($field: ABSENT,)* };
            /// The fields' names, in order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field),)*];

            /// The offsets in the order of [`Self::NAMES`].
            pub fn from_array(values: &[u32; Self::NAMES.len()]) -> Self {
                let [$($field,)*] = *values;
                Self { $($field,)* }
            }
        }
    };
}

offsets! {
    /// `file.f_path` (6.18: in an anonymous union).
    file_f_path,
    file_f_flags,
    file_f_mode,
    file_f_inode,
    path_mnt,
    path_dentry,
    dentry_d_parent,
    dentry_d_seq,
    /// `dentry.d_name` (6.17 on: in an anonymous union).
    dentry_d_name,
    dentry_d_inode,
    qstr_len,
    qstr_name,
    inode_i_ino,
    inode_i_generation,
    inode_i_sb,
    inode_i_nlink,
    inode_i_mode,
    inode_i_rdev,
    super_block_s_dev,
    super_block_s_magic,
    vfsmount_mnt_root,
    vfsmount_mnt_sb,
    vfsmount_mnt_flags,
    /// `mount.mnt`: from a `vfsmount` back to its `mount`.
    mount_mnt,
    mount_mnt_parent,
    mount_mnt_mountpoint,
    mount_mnt_ns,
    task_struct_bpf_storage,
    task_struct_nsproxy,
    task_struct_real_parent,
    task_struct_group_leader,
    task_struct_tgid,
    task_struct_start_boottime,
    task_struct_pid,
    task_struct_comm,
    task_struct_cgroups,
    css_set_dfl_cgrp,
    cgroup_level,
    /// `cgroup.ancestors` (6.1 on): the cgroups above, by level, itself last.
    cgroup_ancestors,
    cgroup_kn,
    kernfs_node_id,
    nsproxy_mnt_ns,
    linux_binprm_file,
    linux_binprm_argc,
    linux_binprm_p,
    linux_binprm_exec,
    linux_binprm_filename,
    linux_binprm_interp,
    /// `linux_binprm.is_check`, in bits; [`ABSENT`] before 6.14 (mainline a5874fde3c08).
    linux_binprm_is_check,
    /// Of the registers of a task's system call (x86-64).
    pt_regs_si,
    pt_regs_dx,
    pt_regs_orig_ax,
    socket_sk,
    socket_type,
    sock_common_skc_family,
    sock_common_skc_state,
    sock_common_skc_num,
    sock_common_skc_dport,
    sock_common_skc_daddr,
    sock_common_skc_v6_daddr,
    sock_common_skc_rcv_saddr,
    sock_common_skc_v6_rcv_saddr,
    sock_sk_type,
    sock_sk_protocol,
    msghdr_msg_name,
    msghdr_msg_namelen,
    msghdr_msg_flags,
    unix_sock_addr,
    unix_sock_path,
    unix_address_len,
    unix_address_name,
    /// `proc_inode` is around the inode of a file in /proc.
    proc_inode_vfs_inode,
    proc_inode_pid,
    pid_tasks,
    inode_i_private,
    /// `kernfs_node.priv`: of a cgroup's folder, the cgroup.
    kernfs_node_priv,
    task_struct_pid_links,
    /// `mptcp_sock.sk`, or [`ABSENT`]: the program that looks for such sockets can't be loaded on kernels without.
    mptcp_sock_sk,
    task_struct_mm,
    /// `mm_struct.exe_file`: what the process was started from.
    mm_struct_exe_file,
    vm_area_struct_vm_file,
    /// `backing_file.user_path` (6.6 on, else [`ABSENT`]): where the user of an overlay opened what lies below it.
    backing_file_user_path,
    /// `super_block.s_mounts`: a list of its mounts. Before 6.18 its links are `mount.mnt_instance`, from 6.18 on
    /// (mainline 09a1b33c080f) `mount.mnt_next_for_sb`; of the two the other one is [`ABSENT`].
    super_block_s_mounts,
    mount_mnt_instance,
    mount_mnt_next_for_sb,
    task_struct_cred,
    task_struct_real_cred,
    task_struct_flags,
    iattr_ia_valid,
    /// Not an offset: which argument of the hook `inode_setattr` is the directory entry. 0 before 6.3, then 1
    /// (mainline c1632a0f1120).
    inode_setattr_dentry,
    inode_i_dentry,
    /// `dentry.d_u`, of which `d_alias` is one: where an inode's list of entries goes through.
    dentry_d_u,
    inode_i_uid,
    cred_fsuid,
    /// `socket.file`: null for sockets of the kernel's own.
    socket_file,
    /// `task_struct.thread_pid`: its ids in every pid namespace that knows it.
    task_struct_thread_pid,
    pid_level,
    /// `pid.numbers`: an array of `upid`, one per level.
    pid_numbers,
    upid_nr,
    /// When the inode was last changed. Two numbers of their own from 6.11 on (`i_ctime_sec`, mainline 3aa63a569c64),
    /// before that a `timespec64` (`__i_ctime`, before 6.6 `i_ctime`).
    inode_changed_sec,
    inode_changed_nsec,
    inode_i_size,
    /// How many have it open for writing; negative while it must not be.
    inode_i_writecount,
}

const _: () = assert!(size_of::<KernelOffsets>() == 4 * KernelOffsets::NAMES.len());
