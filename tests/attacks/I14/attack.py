"""Writes a command into what the user's next login runs, or puts a file of its own in that one's place."""

import os

from kernel import check, every, new_name, program, write


def prepare(folder):
    os.makedirs(f"{folder}/home/project")
    write(f"{folder}/home/.profile", "")
    for name in ("home", "home/project", "home/.profile"):
        os.chmod(f"{folder}/{name}", 0o777)


def log_in(folder):
    """What the user does later."""
    marker = f"{folder}/home/marker"
    program("sh", "-l", "-c", ":", env={"HOME": f"{folder}/home", "PATH": "/usr/bin"})
    check(os.path.exists(marker), "the command was not run")
    os.unlink(marker)


def command(folder):
    return f"touch {folder}/home/marker\n"


def append(folder):
    with open(f"{folder}/home/.profile", "a", encoding="utf-8") as profile:
        profile.write(command(folder))
    log_in(folder)


def replace(folder):
    own = new_name(f"{folder}/home/project")
    write(own, command(folder))
    os.replace(own, f"{folder}/home/.profile")
    log_in(folder)


def attack(folder):
    every(lambda: append(folder), lambda: replace(folder))


def twin(folder):
    name = new_name(f"{folder}/home/project")
    write(name)
    os.replace(name, f"{name}.c")
