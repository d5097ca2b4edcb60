"""A second name for a file, where no rule knows it."""

import os

from kernel import keys, new_name, read


def prepare(folder):
    keys(folder)


def attack(folder):
    name = new_name(f"{folder}/open")
    os.link(f"{folder}/keys/key", name)
    read(name)


def twin(folder):
    name = new_name(f"{folder}/open")
    os.link(f"{folder}/open/own", name)
    read(name)
