"""The folder above the protected one gets another name, and with it everything below."""

import os

from kernel import AT_FDCWD, every, new_name, read, syscall, write

RENAME_EXCHANGE = 2


def prepare(folder):
    for name in ("home/.ssh/key", "decoy/file", "plain/file"):
        write(f"{folder}/open/{name}")
    for path, _, _ in os.walk(f"{folder}/open"):
        os.chmod(path, 0o777)


def renamed(folder, name, file):
    moved = new_name(f"{folder}/open")
    os.rename(f"{folder}/open/{name}", moved)
    try:
        read(f"{moved}/{file}")
    finally:
        os.rename(moved, f"{folder}/open/{name}")


def exchange(folder):
    syscall("renameat2", AT_FDCWD, f"{folder}/open/home", AT_FDCWD, f"{folder}/open/decoy", RENAME_EXCHANGE)


def exchanged(folder):
    exchange(folder)
    try:
        read(f"{folder}/open/decoy/.ssh/key")
    finally:
        exchange(folder)


def attack(folder):
    every(lambda: renamed(folder, "home", ".ssh/key"), lambda: exchanged(folder))


def twin(folder):
    renamed(folder, "plain", "file")
