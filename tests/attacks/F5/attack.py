"""A file system that is mounted nowhere, in which a program's path is that of one that may be run: from before, and
made by the agent."""

import os
import shutil

from kernel import CLONE_NEWNS, every, namespaces, program, syscall

FSCONFIG_CMD_CREATE = 6


def prepare(folder):
    os.mkdir(f"{folder}/bin")
    shutil.copy("/bin/busybox", f"{folder}/bin/tool")


def forge(folder):
    context = syscall("fsopen", "tmpfs", 0)
    syscall("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)
    root = syscall("fsmount", context, 0, 0)
    path = f"/proc/self/fd/{root}{folder}/bin"
    os.makedirs(path)
    shutil.copy("/bin/busybox", f"{path}/tool")
    return os.open(f"{path}/tool", os.O_PATH)


def run(path, **options):
    assert program("echo", "running", executable=path, **options) == "running\n"


def run_forged(tool):
    run(f"/proc/self/fd/{tool}", pass_fds=[tool])


def before(folder):
    namespaces(CLONE_NEWNS)
    return forge(folder)


def attack(folder, tool):
    every(lambda: run_forged(tool), lambda: run_forged(forge(folder)))


def twin(folder):
    run(f"{folder}/bin/tool")
