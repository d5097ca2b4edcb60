"""A program that is only in memory, and is run by its descriptor: it has no path that a rule could name."""

import os
import shutil

from kernel import AT_EMPTY_PATH, every, in_child, new_name, program, strings, syscall


def prepare(folder):
    os.mkdir(f"{folder}/open")
    os.chmod(f"{folder}/open", 0o777)


def in_memory():
    memory = os.memfd_create("program")
    with open("/bin/busybox", "rb") as busybox:
        shutil.copyfileobj(busybox, os.fdopen(os.dup(memory), "wb"))
    return memory


def through_proc(memory):
    said = program("echo", "running", executable=f"/proc/self/fd/{memory}", pass_fds=[memory])
    assert said == "running\n"


def by_descriptor(memory):
    syscall("execveat", memory, "", strings("true"), strings(), AT_EMPTY_PATH)


def attack(_folder):
    memory = in_memory()
    every(lambda: through_proc(memory), lambda: in_child(by_descriptor, memory))


def twin(folder):
    copy = new_name(f"{folder}/open")
    shutil.copy("/bin/busybox", copy)
    assert program("echo", "running", executable=copy) == "running\n"
