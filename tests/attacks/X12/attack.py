"""The kernel is asked whether a program may be run, which runs nothing, by somebody who then runs it."""

import errno
import os
import shutil

from kernel import AT_EMPTY_PATH, in_child, strings, syscall

# KERNEL: since 6.14; before, there is no such question.
AT_EXECVE_CHECK = 0x10000


def prepare(folder):
    for name in ("denied", "open"):
        os.mkdir(f"{folder}/{name}")
        shutil.copy("/bin/busybox", f"{folder}/{name}/tool")


def execute(file, flags):
    syscall("execveat", file, "", strings("true"), strings(), AT_EMPTY_PATH | flags)


def ask_and_run(path):
    file = os.open(path, os.O_RDONLY)
    try:
        execute(file, AT_EXECVE_CHECK)
    except OSError as error:
        release = tuple(int(part) for part in os.uname().release.split(".")[:2])
        if error.errno != errno.EINVAL or release >= (6, 14):
            raise
    in_child(execute, file, 0)


def attack(folder):
    ask_and_run(f"{folder}/denied/tool")


def twin(folder):
    ask_and_run(f"{folder}/open/tool")
