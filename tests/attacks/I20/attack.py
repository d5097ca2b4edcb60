"""Enters another process's namespaces: by a descriptor of the process, and by a file of the namespace."""

import os
import time

from kernel import check, every, in_child, mount, read, syscall, wait_for, write
from surface import victims

MS_BIND = 0x1000
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000


def live(folder, where):
    """Is who has namespaces of its own; an ordinary user can have them only with one of users."""
    user = CLONE_NEWUSER if os.getuid() else 0
    syscall("unshare", CLONE_NEWNS | CLONE_NEWNET | user)
    write(f"{where}.new", f"{os.getpid()} {CLONE_NEWNET | user}")
    os.rename(f"{where}.new", where)
    while True:
        time.sleep(60)


def beside(folder):
    victims(folder, live)
    pid = wait_for(lambda: os.path.exists(f"{folder}/victim-0") and read(f"{folder}/victim-0"), "nobody")
    write(f"{folder}/netns", "")
    mount(f"/proc/{int(pid.split()[0])}/ns/net", f"{folder}/netns", None, MS_BIND)
    ready()


def enter(place, kinds):
    was = os.readlink("/proc/self/ns/net")
    syscall("setns", place, kinds)
    check(os.readlink("/proc/self/ns/net") != was, "it is where it was")


def attack(folder):
    where = f"{folder}/victim-{os.getuid()}"
    pid, kinds = map(int, wait_for(lambda: os.path.exists(where) and read(where), "nobody").split())
    ways = [lambda: in_child(enter, os.pidfd_open(pid), kinds)]
    if os.getuid() == 0:
        file = os.open(f"{folder}/netns", os.O_RDONLY)
        ways.append(lambda: in_child(enter, file, CLONE_NEWNET))
    every(*ways)


def twin(folder):
    os.stat(f"{folder}/netns")
    os.readlink("/proc/self/ns/net")
