"""The dynamic loader is run, and loads the program that may not be run; or a program maps it itself."""

import errno
import mmap
import os
import shutil

from kernel import every, program

LOADER = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"


def prepare(folder):
    for name in ("denied", "open"):
        os.mkdir(f"{folder}/{name}")
        shutil.copy("/usr/bin/curl", f"{folder}/{name}/curl")


def by_loader(path):
    try:
        said = program(LOADER, path, "--version")
    except RuntimeError as error:
        # The loader's word for any error.
        if "failed to map segment" in str(error):
            raise PermissionError(errno.EPERM, str(error)) from error
        raise
    assert said.startswith("curl")


def by_hand(path):
    with open(path, "rb") as file:
        mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()


def attack(folder):
    path = f"{folder}/denied/curl"
    every(lambda: by_loader(path), lambda: by_hand(path))


def twin(folder):
    by_loader(f"{folder}/open/curl")
    by_hand(f"{folder}/open/curl")
