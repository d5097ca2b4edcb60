"""Gets a descriptor of another cgroup's `cgroup.procs` from who may open it, and moves itself out with it."""

import os

from kernel import check, own_cgroup, wait_for
from surface import ask, give, serve

ELSEWHERE = "/sys/fs/cgroup/attack-i3"


def prepare(_folder):
    os.makedirs(ELSEWHERE, exist_ok=True)


def beside(folder):
    def answer(words, connection):
        flags = os.O_WRONLY if words[0] == "write" else os.O_RDONLY
        descriptor = os.open(f"{ELSEWHERE}/cgroup.procs", flags)
        give(connection, descriptor)
        os.close(descriptor)

    serve(folder, answer)
    ready()


def attack(folder):
    descriptor = ask(folder, "write", descriptor=True)
    os.write(descriptor, b"0")
    wait_for(lambda: own_cgroup() == ELSEWHERE, "it was not moved")


def twin(folder):
    descriptor = ask(folder, "read", descriptor=True)
    check(os.read(descriptor, 16) == b"", "somebody is there")
