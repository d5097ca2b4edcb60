"""The kernel is asked whether a program may be run, as interpreters ask about scripts: on the answer they go on."""

import errno
import os
import shutil

from kernel import AT_EMPTY_PATH, every, in_child, strings, syscall

# KERNEL: since 6.14; before, there is no such question.
AT_EXECVE_CHECK = 0x10000


def prepare(folder):
    for name in ("denied", "open"):
        os.mkdir(f"{folder}/{name}")
        shutil.copy("/bin/busybox", f"{folder}/{name}/tool")


def execute(file, flags):
    syscall("execveat", file, "", strings("true"), strings(), AT_EMPTY_PATH | flags)


def ask(file):
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release >= (6, 14):
        execute(file, AT_EXECVE_CHECK)
        return
    try:
        execute(file, AT_EXECVE_CHECK)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Nobody can ask, and whoever wants to know has to try.
    in_child(execute, file, 0)


def attack(folder):
    file = os.open(f"{folder}/denied/tool", os.O_RDONLY)
    every(lambda: ask(file), lambda: in_child(execute, file, 0))


def twin(folder):
    file = os.open(f"{folder}/open/tool", os.O_RDONLY)
    ask(file)
    in_child(execute, file, 0)
