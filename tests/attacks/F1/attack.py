"""A second place for a folder, where no rule knows it: one that somebody else has mounted, and root's own."""

import os

from kernel import MNT_DETACH, MS_BIND, every, keys, mount, new_name, read, syscall


def prepare(folder):
    keys(folder)
    os.mkdir(f"{folder}/alias")
    mount(f"{folder}/keys", f"{folder}/alias", flags=MS_BIND)


def own_mount(folder):
    place = new_name(folder)
    os.mkdir(place)
    mount(f"{folder}/keys", place, flags=MS_BIND)
    try:
        read(f"{place}/key")
    finally:
        syscall("umount2", place, MNT_DETACH)


def attack(folder):
    ways = [lambda: read(f"{folder}/alias/key")]
    # Nobody else may mount, agent or not.
    if os.geteuid() == 0:
        ways.append(lambda: own_mount(folder))
    every(*ways)


def twin(folder):
    read(f"{folder}/open/own")
