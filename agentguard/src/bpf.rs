//! The calls of bpf(2) that aya doesn't offer: task storage by pidfd, socket storage by socket, a trial
//! load, object descriptors by path. Nothing here knows what the maps mean.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// Numbers of include/uapi/linux/bpf.h, which never change.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TYPE_LSM: u32 = 29;
const BPF_LSM_MAC: u32 = 27;

/// `union bpf_attr`, `BPF_MAP_*_ELEM`.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr`, `BPF_PROG_LOAD`, as far as the trial needs it.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// `union bpf_attr`, `BPF_OBJ_*`.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are a prefix of the kernel's `union bpf_attr` with their own size; the
    // kernel takes what lies past it for zero. Pointers in them are made from live borrows by the
    // callers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Opens what is pinned at `path`: a map, a program or a link.
///
/// # Errors
///
/// As `BPF_OBJ_GET`; `ENOENT` when nothing is pinned there.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = call(
        BPF_OBJ_GET,
        &Object {
            pathname: path.as_ptr() as u64,
            bpf_fd: 0,
            file_flags: 0,
        },
    )?;
    // SAFETY: the kernel has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Looks the value for a task up in a task-storage map. `false` when the task has none.
///
/// # Errors
///
/// As `BPF_MAP_LOOKUP_ELEM`; `ESRCH` when the process has ended. `value` must be as long as the
/// map's values, which the caller has checked.
pub fn task_storage(
    map: BorrowedFd<'_>,
    pidfd: BorrowedFd<'_>,
    value: &mut [u8],
) -> io::Result<bool> {
    let key = pidfd.as_raw_fd();
    let found = call(
        BPF_MAP_LOOKUP_ELEM,
        &Element {
            map_fd: map.as_raw_fd() as u32,
            padding: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: value.as_mut_ptr() as u64,
            flags: 0,
        },
    );
    match found {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sets the value for a socket in a socket-storage map.
///
/// # Errors
///
/// As `BPF_MAP_UPDATE_ELEM`. `value` must be as long as the map's values, which the caller has checked.
pub fn set_socket_storage(
    map: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    value: &[u8],
) -> io::Result<()> {
    let key = socket.as_raw_fd();
    call(
        BPF_MAP_UPDATE_ELEM,
        &Element {
            map_fd: map.as_raw_fd() as u32,
            padding: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: value.as_ptr() as u64,
            flags: 0,
        },
    )
    .map(drop)
}

/// Loads, and drops again, an LSM program that does nothing.
///
/// # Errors
///
/// As `BPF_PROG_LOAD`; `EPERM` on a host that doesn't let root load LSM programs. `function` is the
/// BTF id of the hook's `bpf_lsm_*` function.
pub fn try_lsm_program(function: u32) -> io::Result<()> {
    // r0 = 0; exit
    let program: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let load = Load {
        prog_type: BPF_PROG_TYPE_LSM,
        insn_cnt: 2,
        insns: program.as_ptr() as u64,
        license: licence.as_ptr() as u64,
        expected_attach_type: BPF_LSM_MAC,
        attach_btf_id: function,
        ..Load::default()
    };
    let fd = call(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel has just given this descriptor to us; dropping it unloads the program.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

/// Waits until every CPU has left what it was doing under RCU, so that no program that runs now
/// still reads what was replaced before the call.
///
/// # Errors
///
/// As membarrier(2); `ENOSYS` or `EINVAL` where the kernel has none (`nohz_full`).
pub fn wait_for_grace_period() -> io::Result<()> {
    /// `MEMBARRIER_CMD_GLOBAL`: kernel/sched/membarrier.c makes it a `synchronize_rcu()`.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
