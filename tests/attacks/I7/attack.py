"""Brings an io_uring along whose kernel thread was made outside, and has it open a file."""

from kernel import SECRET, check, make_keys
from surface import Ring


def prepare(folder):
    make_keys(folder)


def before(_folder):
    return Ring(Ring.SQPOLL)


def attack(folder, ring):
    key = ring.open(f"{folder}/keys/key")
    check(ring.read(key) == SECRET, "the key was not read")
