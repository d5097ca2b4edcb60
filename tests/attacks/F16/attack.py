"""A file that is made without a name, written, and only then put where nothing may be made."""

import os

from kernel import keys, new_name, read


def prepare(folder):
    keys(folder)


def put(folder, target):
    """os.link follows the link in /proc only when it is given a folder."""
    file = os.open(f"{folder}/open", os.O_TMPFILE | os.O_RDWR, 0o666)
    os.write(file, b"planted\n")
    place = os.open(target, os.O_PATH | os.O_DIRECTORY)
    name = new_name(target)
    os.link(f"/proc/self/fd/{file}", os.path.basename(name), dst_dir_fd=place, follow_symlinks=True)
    assert read(name) == b"planted\n"


def attack(folder):
    put(folder, f"{folder}/keys")


def twin(folder):
    put(folder, f"{folder}/open")
