"""A copy of the mount that is in no namespace, in which paths begin anew: from before, and made by the agent."""

import os

from kernel import AT_FDCWD, CLONE_NEWNS, every, keys, namespaces, read, syscall

OPEN_TREE_CLONE = 1


def prepare(folder):
    keys(folder)


def clone(folder):
    return syscall("open_tree", AT_FDCWD, folder, OPEN_TREE_CLONE)


def before(folder):
    namespaces(CLONE_NEWNS)
    return clone(folder)


def read_below(tree):
    os.close(os.open("keys/key", os.O_RDONLY, dir_fd=tree))


def attack(folder, tree):
    every(lambda: read_below(tree), lambda: read_below(clone(folder)))


def twin(folder):
    read(f"{folder}/open/own")
