"""A program that may not be run is run under another path, as a copy, from memory, after it was deleted, and by the
loader: what an agent did to get at `npx`, one after the other."""

import os
import subprocess

from kernel import check, every, everybodys, in_child, new_name, program

PROGRAM = "/usr/bin/curl"
LOADER = "/lib64/ld-linux-x86-64.so.2"


def prepare(folder):
    os.makedirs(f"{folder}/open")
    everybodys(f"{folder}/open")


def content():
    with open(PROGRAM, "rb") as file:
        return file.read()


def copy(folder):
    path = new_name(f"{folder}/open")
    with open(path, "wb") as file:
        file.write(content())
    os.chmod(path, 0o755)
    return path


def works(folder, run):
    """Has `run` run it, given what it has to do, and sees that it did."""
    made = new_name(f"{folder}/open", "made")
    run(["-s", "-o", made, "file:///proc/version"])
    check(os.path.getsize(made) > 0, "it did nothing")


def by_path(*path):
    return lambda work: program(*path, *work)


def by_symlink(folder):
    link = new_name(f"{folder}/open")
    os.symlink(PROGRAM, link)
    return by_path(link)


def from_memory(work):
    with os.fdopen(os.memfd_create("program", os.MFD_CLOEXEC), "wb") as file:
        file.write(content())
        file.flush()
        in_child(os.execve, file.fileno(), ["curl", *work], {})


def deleted(folder):
    path = copy(folder)
    descriptor = os.open(path, os.O_RDONLY)
    os.unlink(path)

    def run(work):
        try:
            in_child(os.execve, descriptor, ["curl", *work], {})
        finally:
            os.close(descriptor)

    return run


def attack(folder):
    os.chdir("/")
    every(
        lambda: works(folder, by_path(PROGRAM)),
        lambda: works(folder, by_path(f"/proc/self/root{PROGRAM}")),
        lambda: works(folder, by_path(f"/proc/self/cwd{PROGRAM}")),
        lambda: works(folder, by_symlink(folder)),
        lambda: works(folder, by_path(copy(folder))),
        lambda: works(folder, by_path(LOADER, PROGRAM)),
        lambda: works(folder, by_path(LOADER, copy(folder))),
        lambda: works(folder, from_memory),
        lambda: works(folder, deleted(folder)),
    )


def twin(folder):
    script = "import sys; open(sys.argv[3], 'w').write(open(sys.argv[4][7:]).read())"
    works(folder, lambda work: subprocess.run(["/usr/bin/python3", "-ISc", script, *work], check=True))
