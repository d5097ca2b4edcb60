"""What attacks need and Python has no function for."""

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

# arch/x86/entry/syscalls/syscall_64.tbl
NUMBERS = {
    "ptrace": 101,
    "pivot_root": 155,
    "chroot": 161,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "init_module": 175,
    "io_setup": 206,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "splice": 275,
    "vmsplice": 278,
    "perf_event_open": 298,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "finit_module": 313,
    "renameat2": 316,
    "memfd_create": 319,
    "kexec_file_load": 320,
    "bpf": 321,
    "execveat": 322,
    "userfaultfd": 323,
    "copy_file_range": 326,
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_send_signal": 424,
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
}


def syscall(name, *arguments):
    """Makes a system call. Numbers, bytes (with a NUL added), None and ctypes objects are its arguments."""
    passed = []
    for argument in arguments:
        if argument is None:
            argument = 0
        if isinstance(argument, str):
            argument = os.fsencode(argument)
        if isinstance(argument, int):
            argument = ctypes.c_long(argument)
        passed.append(argument)
    result = LIBC.syscall(ctypes.c_long(NUMBERS.get(name, name)), *passed)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(name))
    return result


def mount(source, target, kind=None, flags=0, data=None):
    """mount(2)."""
    syscall("mount", source, target, kind, flags, data)


def in_child(function, *arguments):
    """Has a child do it, and raises here what failed there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 0
        try:
            function(*arguments)
        except OSError as error:
            status = error.errno or 255
        except BaseException as error:  # the parent says it
            os.write(writing, repr(error).encode())
            status = 255
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 255 or code < 0:
        raise RuntimeError(f"the child ended with {code}: {text}")
    if code != 0:
        raise OSError(code, os.strerror(code))


def program(*command, **options):
    """Runs a program to its end and returns what it printed. That it was refused is raised as what it is."""
    import subprocess  # takes a while to load, and few attacks need it

    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode == 0:
        return done.stdout
    said = done.stderr + done.stdout
    if "Operation not permitted" in said or "not permitted" in said:
        raise PermissionError(1, "Operation not permitted", said.strip())
    raise RuntimeError(f"{command} ended with {done.returncode}: {said}")


def new_name(folder, stem="new"):
    """A name in the folder that nothing has."""
    return os.path.join(folder, f"{stem}-{os.urandom(6).hex()}")


def write(path, text="content\n"):
    """Makes or overwrites a file, and the folders above it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def read(path):
    """What is in a file."""
    with open(path, "rb") as file:
        return file.read()
