"""Moves itself out of its cgroup by writing to `cgroup.procs` of another."""

import os

from kernel import check, own_cgroup, read, wait_for

ELSEWHERE = "/sys/fs/cgroup/attack-i1"


def prepare(_folder):
    os.makedirs(ELSEWHERE, exist_ok=True)
    for name in ("", "/cgroup.procs"):
        os.chown(ELSEWHERE + name, 1000, 1000)
        # Root without its capabilities is one of the others.
        os.chmod(ELSEWHERE + name, 0o777)


def attack(_folder):
    with open(f"{ELSEWHERE}/cgroup.procs", "w", encoding="ascii") as file:
        file.write("0")
    wait_for(lambda: own_cgroup() == ELSEWHERE, "it was not moved")


def twin(_folder):
    check(read(f"{ELSEWHERE}/cgroup.procs") == b"", "somebody is there")
