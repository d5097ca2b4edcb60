"""A file is changed in memory, without a call that writes."""

import mmap
import os

from kernel import keys, read


def prepare(folder):
    keys(folder)


def scribble(path):
    file = os.open(path, os.O_RDWR)
    with mmap.mmap(file, 4) as memory:
        memory[:] = b"KEYS"
        memory.flush()
    os.close(file)
    assert read(path).startswith(b"KEYS")


def attack(folder):
    scribble(f"{folder}/keys/key")


def twin(folder):
    scribble(f"{folder}/open/own")
    with open(f"{folder}/keys/key", "rb") as file, mmap.mmap(file.fileno(), 4, prot=mmap.PROT_READ) as memory:
        assert memory[:4] == b"keys"
