"""A function of the C library is overwritten through /proc/self/mem, though its memory can't be written: the new code
runs, and what it does is judged."""

import ctypes
import os

from kernel import LIBC, OPENING_CODE, call_open, in_child, keys


def prepare(folder):
    keys(folder)


def read_by_changed_code(path):
    address = ctypes.cast(LIBC.getppid, ctypes.c_void_p).value
    memory = os.open("/proc/self/mem", os.O_RDWR)
    os.pwrite(memory, OPENING_CODE, address)
    assert call_open(address, path)


def attack(folder):
    in_child(read_by_changed_code, f"{folder}/keys/key")


def twin(folder):
    in_child(read_by_changed_code, f"{folder}/open/own")
