"""A file is made where anything may be made, and then moved or linked to where it may not be made: a git hook."""

import os

from kernel import check, every, everybodys, new_name, program, read, write

HOOK = b"#!/bin/sh\necho evil\n"


def prepare(folder):
    write(f"{folder}/project/.git/hooks/pre-commit.sample")
    write(f"{folder}/project/src/main.py")
    everybodys(f"{folder}/project")


def moved_in(folder, hook, move):
    """Makes a file beside the hooks, has it moved, and sees that it is there."""
    source = new_name(f"{folder}/project/.git")
    with open(source, "wb") as file:
        file.write(HOOK)
    os.chmod(source, 0o755)
    target = f"{folder}/project/.git/hooks/{hook}"
    move(source, target)
    check(read(target) == HOOK, f"{target} is not what was moved there")


def in_a_shell(folder):
    git = f"{folder}/project/.git"
    made = new_name(git)
    script = f"echo 'echo evil' >{made} && mv {made} {git}/hooks/post-merge"
    program("sh", "-c", script)
    check(read(f"{git}/hooks/post-merge") == b"echo evil\n", "the hook isn't there")


def attack(folder):
    every(
        lambda: moved_in(folder, "pre-commit", os.rename),
        lambda: moved_in(folder, "pre-push", os.link),
        lambda: in_a_shell(folder),
    )


def twin(folder):
    moved_in(folder, f"{os.urandom(6).hex()}.sample", os.rename)
    moved_in(folder, f"../../src/{os.urandom(6).hex()}", os.rename)
