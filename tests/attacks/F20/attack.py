"""Names that are taken for others: what a name ends with, a line of the log, bytes that are no text."""

import os

from kernel import every, keys, read, write

NAMES = (
    b"key ",
    b"key.",
    b"KEY",
    b"line\nfeed",
    b"\xff\xfe",
    b"\xc3\xbc",
    b"u\xcc\x88",
    b"\x1b[31mred",
    b"a (deleted)",
    b"*",
    b"a\\b",
)


def prepare(folder):
    keys(folder)
    for place in ("keys", "open"):
        for name in NAMES:
            write(os.fsencode(f"{folder}/{place}/") + name)


def ways(folder):
    names = [os.fsencode(folder) + slashes + name for name in NAMES for slashes in (b"/", b"//", b"/.//./")]
    return [lambda name=name: read(name) for name in names]


def attack(folder):
    every(*ways(f"{folder}/keys"))


def twin(folder):
    every(*ways(f"{folder}/open"))
