"""openat2, which filters of older calls don't know, and a path that changes between a check and the use of it: in the
caller's memory, and by symlinks that change places."""

import ctypes
import mmap
import os
import signal
import time

from kernel import AT_FDCWD, check, every, everybodys, read, syscall, write

RENAME_EXCHANGE = 2
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
SECRET = b"secret\n"
#: So many are refused or go through before a race counts as lost.
TRIES = 20


def prepare(folder):
    write(f"{folder}/keys/key", SECRET.decode())
    # As long a name as the other, so that a path can be overwritten in place.
    write(f"{folder}/free/key")
    os.makedirs(f"{folder}/links")
    everybodys(*(f"{folder}/{name}" for name in ("keys", "free", "links")))


def open2(path, at=AT_FDCWD, resolve=0):
    """What is in a file that openat2 opens. `path` is text, or where a path lies."""
    how = (ctypes.c_uint64 * 3)(os.O_RDONLY | os.O_CLOEXEC, 0, resolve)
    with open(syscall("openat2", at, path, ctypes.byref(how), ctypes.sizeof(how)), "rb") as file:
        return file.read()


def is_secret(content):
    check(content == SECRET, "that is not the secret")


def raced(flip, look):
    """Reads again and again while another process has the path change. True when the secret came out."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        while os.getppid() == parent:
            flip()
        os._exit(0)
    try:
        refused = went = 0
        end = time.monotonic() + 20
        while min(refused, went) < TRIES and time.monotonic() < end:
            try:
                if look() == SECRET:
                    return
                went += 1
            except FileNotFoundError:
                pass  # half of one path and half of the other
            except PermissionError:
                refused += 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    check(refused and went, f"it never changed: {refused} refused, {went} went through")
    raise PermissionError(1, "Operation not permitted")


def in_memory(folder):
    memory = mmap.mmap(-1, 4096)
    paths = [f"{folder}/{name}/key\0".encode() for name in ("free", "keys")]
    memory[: len(paths[0])] = paths[0]
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def flip():
        for path in paths:
            memory[: len(path)] = path

    return lambda: raced(flip, lambda: open2(address))


def by_symlinks(folder):
    names = [f"{folder}/links/{os.urandom(6).hex()}" for _ in range(2)]
    for name, target in zip(names, ("free", "keys")):
        os.symlink(f"{folder}/{target}", name)

    def flip():
        syscall("renameat2", AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    return lambda: raced(flip, lambda: open2(f"{names[0]}/key"))


def attack(folder):
    here = os.open(folder, os.O_PATH)
    every(
        lambda: is_secret(open2(f"{folder}/keys/key")),
        lambda: is_secret(open2("free/../keys/key", here, RESOLVE_BENEATH)),
        lambda: is_secret(open2("/keys/key", here, RESOLVE_IN_ROOT)),
        in_memory(folder),
        by_symlinks(folder),
    )


def twin(folder):
    here = os.open(folder, os.O_PATH)
    check(open2("free/key", here, RESOLVE_BENEATH) == read(f"{folder}/free/key"), "another file")
