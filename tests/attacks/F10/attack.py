"""A file that was deleted has a path that no rule means, and can still be opened through a descriptor."""

import os

from kernel import keys, new_name, read, write


def prepare(folder):
    keys(folder)


def deleted(folder):
    path = new_name(folder)
    write(path)
    place = os.open(path, os.O_PATH)
    os.unlink(path)
    return place


def before(folder):
    return deleted(f"{folder}/keys")


def attack(_folder, place):
    assert read(f"/proc/self/fd/{place}") == b"content\n"


def twin(folder):
    place = deleted(f"{folder}/open")
    assert read(f"/proc/self/fd/{place}") == b"content\n"
