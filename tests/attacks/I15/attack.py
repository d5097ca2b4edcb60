"""Has the kernel start a program of root's, outside of every cgroup: for a key that isn't there, and for a core dump."""

import os
import signal
import stat

from kernel import check, every, read, syscall, wait_for, write

CORE_PATTERN = "/proc/sys/kernel/core_pattern"
HELPER = "/sbin/request-key"
KEY_SPEC_PROCESS_KEYRING = -2


def helper(path, folder):
    """A program that shows that it was run, and in which cgroup."""
    write(path, f"#!/bin/sh\ncat /proc/self/cgroup >{folder}/cgroup\nmv {folder}/cgroup {folder}/ran\n")
    os.chmod(path, stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)


def prepare(folder):
    helper(HELPER, folder)
    helper(f"{folder}/helper", folder)


def has_run(folder):
    ran = f"{folder}/ran"
    wait_for(lambda: os.path.exists(ran), "the helper was not run")
    check(b"0::/\n" in read(ran), "the helper was run elsewhere")
    os.unlink(ran)


def request_key(folder):
    name = b"attack-" + os.urandom(6).hex().encode()
    try:
        syscall("request_key", b"user", name, b"x", KEY_SPEC_PROCESS_KEYRING)
    except PermissionError:
        raise
    except OSError:
        # The helper made none.
        pass
    has_run(folder)


def core_pattern(folder):
    was = read(CORE_PATTERN).decode()
    write(CORE_PATTERN, f"|{folder}/helper")
    try:
        pid = os.fork()
        if pid == 0:
            os.abort()
        os.waitpid(pid, 0)
        has_run(folder)
    finally:
        write(CORE_PATTERN, was)


def attack(folder):
    ways = [lambda: request_key(folder)]
    if os.getuid() == 0:
        ways.append(lambda: core_pattern(folder))
    every(*ways)


def twin(_folder):
    read(CORE_PATTERN)
    pid = os.fork()
    if pid == 0:
        os.abort()
    _, status = os.waitpid(pid, 0)
    check(os.WTERMSIG(status) == signal.SIGABRT, "it ended in another way")
