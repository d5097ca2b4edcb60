"""A copy of a program, a link to it, or another program, where only what is listed may run."""

import os
import shutil

from kernel import every, new_name, program


def prepare(folder):
    for name in ("listed", "open"):
        os.mkdir(f"{folder}/{name}")
    os.chmod(f"{folder}/open", 0o777)
    shutil.copy("/bin/busybox", f"{folder}/listed/tool")


def run(path):
    assert program("echo", "running", executable=path) == "running\n"


def copied(folder):
    copy = new_name(f"{folder}/open")
    shutil.copy(f"{folder}/listed/tool", copy)
    run(copy)


def attack(folder):
    every(lambda: copied(folder), lambda: run("/bin/busybox"))


def twin(folder):
    run(f"{folder}/listed/tool")
    link = new_name(f"{folder}/open")
    os.symlink(f"{folder}/listed/tool", link)
    run(link)
