"""A program that is deleted before it is run, by a descriptor: it has no path that a rule could name."""

import os
import shutil

from kernel import AT_EMPTY_PATH, every, in_child, new_name, program, strings, syscall


def prepare(folder):
    os.mkdir(f"{folder}/open")
    os.chmod(f"{folder}/open", 0o777)


def copied(folder):
    copy = new_name(f"{folder}/open")
    shutil.copy("/bin/busybox", copy)
    return copy, os.open(copy, os.O_RDONLY)


def through_proc(file):
    said = program("echo", "running", executable=f"/proc/self/fd/{file}", pass_fds=[file])
    assert said == "running\n"


def by_descriptor(file):
    syscall("execveat", file, "", strings("true"), strings(), AT_EMPTY_PATH)


def attack(folder):
    copy, file = copied(folder)
    os.unlink(copy)
    every(lambda: through_proc(file), lambda: in_child(by_descriptor, file))


def twin(folder):
    _, file = copied(folder)
    through_proc(file)
    in_child(by_descriptor, file)
