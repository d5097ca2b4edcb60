"""Comes in a cgroup namespace of its own, in which its cgroup is called `/`."""

import os

from kernel import check, make_keys, own_cgroup, read, read_key, syscall

CLONE_NEWCGROUP, CLONE_NEWUSER = 0x2000000, 0x10000000


def prepare(folder):
    make_keys(folder)


def before(_folder):
    was = os.readlink("/proc/self/ns/cgroup")
    syscall("unshare", CLONE_NEWCGROUP | (CLONE_NEWUSER if os.getuid() else 0))
    check(os.readlink("/proc/self/ns/cgroup") != was, "it is in the namespace it was in")
    check(own_cgroup() == "/sys/fs/cgroup/", "its cgroup has another name")


def attack(folder, _before):
    read_key(folder)


def twin(folder):
    read(f"{folder}/open/own")
