"""A library that may not become code is loaded into a program that may be run: by LD_PRELOAD, LD_LIBRARY_PATH, and by
the program itself."""

import ctypes
import errno
import os
import shutil
import subprocess

from kernel import every

LIBRARY = "/usr/lib/x86_64-linux-gnu/libz.so.1"
MAPPED = "print(open('/proc/self/maps').read())"


def prepare(folder):
    for name in ("denied", "open"):
        os.mkdir(f"{folder}/{name}")
        shutil.copy(LIBRARY, f"{folder}/{name}/libz.so.1")


def loading(library, **environment):
    """The loader goes on without what it can't preload, and says so."""
    command = ["/usr/bin/python3", "-ISc", MAPPED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "failed to map segment" in done.stderr:
        raise PermissionError(errno.EPERM, done.stderr)
    assert any(library in line and "r-x" in line for line in done.stdout.splitlines()), done


def by_itself(library):
    try:
        ctypes.CDLL(library)
    except OSError as error:
        if "failed to map segment" in str(error):
            raise PermissionError(errno.EPERM, str(error)) from error
        raise


def ways(folder):
    library = f"{folder}/libz.so.1"
    return (
        lambda: loading(library, LD_PRELOAD=library),
        lambda: loading(library, LD_LIBRARY_PATH=folder),
        lambda: by_itself(library),
    )


def attack(folder):
    every(*ways(f"{folder}/denied"))


def twin(folder):
    every(*ways(f"{folder}/open"))
