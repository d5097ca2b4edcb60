"""The arguments are in memory that another process writes to all the time, so that they can be other ones when they are
looked at than when the kernel copies them."""

import ctypes
import errno
import mmap
import os
import shutil
import signal

from kernel import LIBC, program, strings

TRIES = 40


def prepare(folder):
    os.mkdir(f"{folder}/open")
    os.chmod(f"{folder}/open", 0o777)
    shutil.copy("/bin/busybox", f"{folder}/touch")


def run_once(path, arguments):
    """Whether it ran."""
    pid = os.fork()
    if pid == 0:
        LIBC.execve(os.fsencode(path), arguments, strings())
        os._exit(200 if ctypes.get_errno() == errno.EPERM else 201)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 200, -signal.SIGKILL), status
    return status == 0


def remove(*paths):
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)


def attack(folder):
    good, bad = f"{folder}/open/cad", f"{folder}/open/bad"
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    shared[: len(good)] = good.encode()
    address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    arguments = (ctypes.c_char_p * 3)(b"touch")
    ctypes.cast(arguments, ctypes.POINTER(ctypes.c_void_p))[1] = address
    changing = len(good) - len("cad")
    attacker = os.getpid()
    writer = os.fork()
    if writer == 0:
        while os.getppid() == attacker:
            for byte in b"bcbcbcbc":
                shared[changing] = byte
        os._exit(0)
    ran = []
    try:
        for _ in range(TRIES):
            ran.append(run_once(f"{folder}/touch", arguments))
            if os.path.exists(bad):
                return
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        remove(good, bad)
    assert True in ran and False in ran, "nobody changed the argument"
    raise PermissionError(errno.EPERM, f"refused {ran.count(False)} times, and never run with what is denied")


def twin(folder):
    program(f"{folder}/touch", f"{folder}/open/cad")
    os.unlink(f"{folder}/open/cad")
