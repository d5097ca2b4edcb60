"""What attacks need and Python has no function for."""

import ctypes
import mmap
import os
import signal
import struct
import time

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

# arch/x86/entry/syscalls/syscall_64.tbl
NUMBERS = {
    "chdir": 80,
    "ptrace": 101,
    "pivot_root": 155,
    "chroot": 161,
    "adjtimex": 159,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "iopl": 172,
    "init_module": 175,
    "delete_module": 176,
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
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "tgkill": 234,
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


def in_child(function, *arguments, birth=os.fork):
    """Has a child do it, and raises here what failed there."""
    reading, writing = os.pipe()
    pid = birth()
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


MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000

# What takes the arguments of open(2) and makes the call, without a library: mov $2, %eax; syscall; ret.
OPENING_CODE = bytes.fromhex("b802000000 0f05 c3")


def call_open(address, path):
    """Calls what lies there as open(2), for reading, and reads the file."""
    function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_char_p, ctypes.c_int)(address)
    result = function(os.fsencode(path), os.O_RDONLY)
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    with os.fdopen(result, "rb") as file:
        return file.read()


def every(*ways):
    """Tries each way. All must be refused, which is raised, or none."""
    refused = {}
    for number, way in enumerate(ways):
        try:
            way()
        except PermissionError as error:
            if error.errno != 1:
                raise
            refused[number] = error
    if 0 < len(refused) < len(ways):
        raise RuntimeError(f"of {len(ways)} ways only these were refused: {refused}")
    if refused:
        raise refused[0]


def keys(folder):
    """Makes `keys/key` and `open/own`, which are everybody's as far as the kernel minds."""
    for name in ("keys/key", "open/own"):
        write(f"{folder}/{name}", f"{name}\n")
        os.chmod(f"{folder}/{name}", 0o666)
        os.chmod(os.path.dirname(f"{folder}/{name}"), 0o777)


def namespaces(flags=0):
    """Enters a user namespace of its own, where it is root, and others with it."""
    user, group = os.geteuid(), os.getegid()
    syscall("unshare", CLONE_NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def strings(*texts):
    """What execve(2) wants: a list of strings with nothing after it."""
    return (ctypes.c_char_p * (len(texts) + 1))(*(os.fsencode(text) for text in texts))


def module(name):
    """Loads a module of the kernel, where it isn't built in."""
    import subprocess

    subprocess.run(["modprobe", name], stderr=subprocess.DEVNULL, check=False)


def check(condition, message):
    """Something that isn't a refusal is not as it must be."""
    if not condition:
        raise RuntimeError(message)


def everybodys(*paths):
    """Has the modes of these and of what is below them keep nobody out."""
    for path in paths:
        os.chmod(path, 0o777)
        for folder, folders, files in os.walk(path):
            for name in folders + files:
                os.chmod(os.path.join(folder, name), 0o777)


def refused(what):
    """Says of what shows in another way that it was refused."""
    raise PermissionError(1, "Operation not permitted", what)


SECRET = b"s3cret\n"


def make_keys(folder):
    """Makes `keys/key`, which rules are to deny, and `open/own` beside it; modes keep nobody out."""
    for name in ("keys/key", "open/own"):
        path = f"{folder}/{name}"
        write(path, SECRET.decode())
        os.chmod(os.path.dirname(path), 0o777)
        os.chmod(path, 0o666)


def read_key(folder):
    """Reads the key, and sees that this is what was read."""
    check(read(f"{folder}/keys/key") == SECRET, "the key was not read")


def wait_for(condition, what, seconds=10):
    """Waits until something is so, and returns what it was."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        check(time.monotonic() < end, what)
        time.sleep(0.002)
    return value


def clone3(flags=0, cgroup=0):
    """A child as fork makes one, by clone3(2)."""
    # struct clone_args: the signal of the end is the fifth, the cgroup the last.
    packed = struct.pack("11Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    # Holds Python's lock meanwhile, which would be held by nobody in the child.
    call = ctypes.PyDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    pid = call(ctypes.c_long(NUMBERS["clone3"]), packed, ctypes.c_long(len(packed)))
    if pid == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "clone3")
    return pid


def own_cgroup(task="self"):
    """The folder of the cgroup that a task is in: this process, unless another is named as in /proc."""
    lines = read(f"/proc/{task}/cgroup").decode().splitlines()
    # Of version 1 there may be others.
    name = next(line for line in lines if line.startswith("0::/"))
    return os.path.join("/sys/fs/cgroup", name.removeprefix("0::/"))


def page():
    """A page that nobody touched yet, and its address."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))
