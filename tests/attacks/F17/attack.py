"""A file is emptied by its name, without being opened."""

import os

from kernel import keys, read, write


def prepare(folder):
    keys(folder)


def attack(folder):
    os.truncate(f"{folder}/keys/key", 0)
    assert read(f"{folder}/keys/key") == b""
    write(f"{folder}/keys/key")


def twin(folder):
    read(f"{folder}/keys/key")
    os.truncate(f"{folder}/open/own", 0)
    assert read(f"{folder}/open/own") == b""
    write(f"{folder}/open/own")
