"""Takes a secret out of another process of the same user: out of its memory, and through its descriptors."""

import ctypes
import errno
import os
import time

from kernel import LIBC, SECRET, check, every, in_child, make_keys, read, refused, syscall, wait_for, write
from surface import victims

PTRACE_PEEKDATA, PTRACE_SEIZE, PTRACE_INTERRUPT = 2, 0x4206, 0x4207
PR_SET_PTRACER, ANY = 0x59616D61, ctypes.c_ulong(-1)


def prepare(folder):
    make_keys(folder)


def hold(folder, where):
    """Is who has the secret, and says where."""
    # Where Yama is, it would refuse first.
    LIBC.prctl(PR_SET_PTRACER, ANY, 0, 0, 0)
    secret = ctypes.create_string_buffer(SECRET, 16)
    key = os.open(f"{folder}/keys/key", os.O_RDONLY)
    write(f"{where}.new", f"{os.getpid()} {ctypes.addressof(secret)} {key}")
    os.rename(f"{where}.new", where)
    while True:
        time.sleep(60)


def beside(folder):
    victims(folder, hold)
    ready()


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def vm_read(pid, address):
    here = ctypes.create_string_buffer(len(SECRET))
    local = Vector(ctypes.addressof(here), len(SECRET))
    remote = Vector(address, len(SECRET))
    syscall("process_vm_readv", pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    check(here.raw == SECRET, "something else was read")


def trace(pid, address):
    syscall("ptrace", PTRACE_SEIZE, pid, 0, 0)
    syscall("ptrace", PTRACE_INTERRUPT, pid, 0, 0)
    os.waitpid(pid, 0)
    word = ctypes.c_long()
    syscall("ptrace", PTRACE_PEEKDATA, pid, ctypes.c_void_p(address), ctypes.byref(word))
    check(bytes(word)[: len(SECRET)] == SECRET, "something else was read")


def memory_file(pid, address):
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError as error:
        # Whatever forbids it, the kernel calls it this.
        refused("mem") if error.errno == errno.EACCES else error
    check(os.pread(memory, len(SECRET), address) == SECRET, "something else was read")


def descriptor(pid, key):
    key = syscall("pidfd_getfd", os.pidfd_open(pid), key, 0)
    check(os.pread(key, 16, 0) == SECRET, "something else was read")


def attack(folder):
    where = f"{folder}/victim-{os.getuid()}"
    wait_for(lambda: os.path.exists(where), "nobody is there")
    pid, address, key = map(int, read(where).split())
    every(
        lambda: vm_read(pid, address),
        lambda: in_child(trace, pid, address),
        lambda: memory_file(pid, address),
        lambda: descriptor(pid, key),
    )


def twin(_folder):
    secret = ctypes.create_string_buffer(SECRET, 16)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    vm_read(pid, ctypes.addressof(secret))
    trace(pid, ctypes.addressof(secret))
    os.kill(pid, 9)
    os.waitpid(pid, 0)
