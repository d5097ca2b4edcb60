"""Another file takes the protected one's place."""

import os

from kernel import AT_FDCWD, every, keys, new_name, read, syscall, write

RENAME_EXCHANGE = 2


def prepare(folder):
    keys(folder)


def replace(folder, target):
    new = new_name(f"{folder}/open")
    write(new, "planted\n")
    os.rename(new, target)
    assert read(target) == b"planted\n"


def exchange(folder, target):
    new = new_name(f"{folder}/open")
    write(new, "exchanged\n")
    syscall("renameat2", AT_FDCWD, new, AT_FDCWD, target, RENAME_EXCHANGE)
    assert read(target) == b"exchanged\n"


def ways(folder, target):
    return lambda: replace(folder, target), lambda: exchange(folder, target)


def attack(folder):
    every(*ways(folder, f"{folder}/keys/key"))


def twin(folder):
    every(*ways(folder, f"{folder}/open/own"))
