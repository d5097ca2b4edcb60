"""Has a child born in another cgroup, for which a descriptor of its folder is enough."""

import os

from kernel import check, clone3, in_child, own_cgroup

ELSEWHERE = "/sys/fs/cgroup/attack-i2"
CLONE_INTO_CGROUP = 0x200000000


def prepare(_folder):
    os.makedirs(ELSEWHERE, exist_ok=True)


def is_in(cgroup):
    check(own_cgroup() == cgroup, f"it is in {own_cgroup()}")


def attack(_folder):
    place = os.open(ELSEWHERE, os.O_PATH | os.O_DIRECTORY)
    in_child(is_in, ELSEWHERE, birth=lambda: clone3(CLONE_INTO_CGROUP, place))


def twin(_folder):
    in_child(is_in, own_cgroup(), birth=clone3)
