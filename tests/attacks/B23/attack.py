"""Whatever takes two names is tried with the protected one first and with it last, and what has come of it is looked
at: others tested one side, or that the file was recognised and not that it was kept."""

import os

from kernel import AT_FDCWD, check, every, everybodys, new_name, read, syscall, write

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def prepare(folder):
    for name in ("first", "second", "third", "fourth", "fifth"):
        write(f"{folder}/keys/{name}", f"{name}\n")
    os.makedirs(f"{folder}/open")
    everybodys(f"{folder}/keys", f"{folder}/open")


def renameat2(one, other, flags):
    syscall("renameat2", AT_FDCWD, one, AT_FDCWD, other, flags)


def own(folder):
    path = new_name(f"{folder}/open")
    write(path, "own\n")
    return path


def attack(folder):
    keys = f"{folder}/keys"

    def out(act, name):
        """The protected one is first."""
        target = new_name(f"{folder}/open")
        act(f"{keys}/{name}", target)
        check(read(target) == f"{name}\n".encode(), "that is not the secret")

    def into(act, name):
        """The protected one is last."""
        act(own(folder), f"{keys}/{name}")
        check(read(f"{keys}/{name}") == b"own\n", "that is not the attacker's")

    every(
        lambda: out(os.link, "first"),
        lambda: into(os.link, "new"),
        lambda: into(os.symlink, "symlink"),
        lambda: out(os.rename, "first"),
        lambda: into(os.rename, "second"),
        lambda: out(lambda one, other: renameat2(one, other, RENAME_NOREPLACE), "third"),
        lambda: into(lambda one, other: renameat2(one, other, RENAME_NOREPLACE), "newer"),
        lambda: into(lambda one, other: renameat2(one, other, RENAME_EXCHANGE), "fourth"),
        lambda: into(lambda one, other: renameat2(other, one, RENAME_EXCHANGE), "fifth"),
    )


def twin(folder):
    for act in (os.link, os.symlink, os.rename):
        target = new_name(f"{folder}/open")
        act(own(folder), target)
        check(read(target) == b"own\n", "that is another file")
