"""Code that is made in memory, and makes its system calls without a library: it runs, and what it does is judged."""

import ctypes
import mmap

from kernel import OPENING_CODE, call_open, keys


def prepare(folder):
    keys(folder)


def read_by_made_code(path):
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection)
    memory[: len(OPENING_CODE)] = OPENING_CODE
    assert call_open(ctypes.addressof(ctypes.c_char.from_buffer(memory)), path)


def attack(folder):
    read_by_made_code(f"{folder}/keys/key")


def twin(folder):
    read_by_made_code(f"{folder}/open/own")
