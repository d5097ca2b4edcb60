"""Another root, below which the protected file has another name: from before, and made by the agent."""

import os

from kernel import every, in_child, keys, namespaces, read


def prepare(folder):
    keys(folder)


def before(folder):
    namespaces()
    os.chroot(folder)
    os.chdir("/")


def deeper():
    os.chroot("/keys")
    read("/key")


def attack(_folder, _before):
    every(lambda: read("/keys/key"), lambda: in_child(deeper))


def twin(_folder):
    read("/open/own")
