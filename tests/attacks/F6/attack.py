"""A mount that is taken away while one stands in it: what is there has no path any more. From before, and made by the
agent."""

import os

from kernel import CLONE_NEWNS, MNT_DETACH, MS_BIND, every, in_child, keys, mount, namespaces, read, syscall


def prepare(folder):
    keys(folder)
    os.mkdir(f"{folder}/alias")


def stand(folder):
    mount(f"{folder}/keys", f"{folder}/alias", flags=MS_BIND)
    os.chdir(f"{folder}/alias")
    syscall("umount2", f"{folder}/alias", MNT_DETACH)


def before(folder):
    namespaces(CLONE_NEWNS)
    stand(folder)


def anew(folder):
    stand(folder)
    read("key")


def attack(folder, _before):
    every(lambda: read("key"), lambda: in_child(anew, folder))


def twin(folder):
    read(f"{folder}/open/own")
