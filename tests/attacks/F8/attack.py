"""A second name for a file, where no rule knows it."""

import os

from kernel import new_name, read, write


def prepare(folder):
    write(f"{folder}/keys/key")
    os.makedirs(f"{folder}/open")
    for name in ("keys", "open"):
        os.chmod(f"{folder}/{name}", 0o777)
    os.chmod(f"{folder}/keys/key", 0o666)
    write(f"{folder}/open/own")
    os.chmod(f"{folder}/open/own", 0o666)


def attack(folder):
    name = new_name(f"{folder}/open")
    os.link(f"{folder}/keys/key", name)
    read(name)


def twin(folder):
    name = new_name(f"{folder}/open")
    os.link(f"{folder}/open/own", name)
    read(name)
