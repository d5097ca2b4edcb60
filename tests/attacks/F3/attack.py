"""Whoever makes a user namespace may mount in it: the protected folder in another place."""

import os

from kernel import CLONE_NEWNS, MS_BIND, in_child, keys, mount, namespaces, read, syscall

CLONE_FS = 0x200


def prepare(folder):
    keys(folder)
    os.mkdir(f"{folder}/alias")


def mounting(folder):
    namespaces(CLONE_NEWNS)
    mount(f"{folder}/keys", f"{folder}/alias", flags=MS_BIND)
    read(f"{folder}/alias/key")


def attack(folder):
    in_child(mounting, folder)


def twin(folder):
    # To share less with other processes is no namespace.
    in_child(syscall, "unshare", CLONE_FS)
    read(f"{folder}/open/own")
