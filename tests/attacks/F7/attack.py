"""The protected folder is made the root, so that its path is /. The kernel does this to no root that is in memory, so
that another comes first."""

import os

from kernel import CLONE_NEWNS, MNT_DETACH, MS_BIND, every, keys, mount, namespaces, read, syscall


def prepare(folder):
    keys(folder)
    for name in ("place", "pivot"):
        os.mkdir(f"{folder}/{name}")


def before(folder):
    namespaces(CLONE_NEWNS)
    mount(folder, f"{folder}/place", flags=MS_BIND)
    mount(f"{folder}/keys", f"{folder}/place/pivot", flags=MS_BIND)
    os.chroot(f"{folder}/place")
    os.chdir("/pivot")


def pivot():
    syscall("pivot_root", ".", ".")
    syscall("umount2", ".", MNT_DETACH)
    os.chdir("/")
    read("/key")


def attack(_folder, _before):
    every(lambda: read("/pivot/key"), pivot)


def twin(_folder):
    read("/open/own")
