"""Other ways to say the same path."""

import os

from kernel import every, keys, new_name, read


def prepare(folder):
    keys(folder)


def ways(folder, path):
    below = os.path.relpath(path, folder)
    link, above = new_name(f"{folder}/open"), new_name(f"{folder}/open")
    os.symlink(path, link)
    os.symlink(os.path.dirname(path), above)
    os.chdir(os.path.dirname(path))
    names = (
        link,
        f"{above}/{os.path.basename(path)}",
        f"{folder}/open/../{below}",
        f"{folder}/open/./..//{below}",
        f"/proc/self/root{path}",
        f"/proc/thread-self/root{path}",
        f"/proc/self/cwd/{os.path.basename(path)}",
        os.path.basename(path),
        f"../{below}",
        f"/../..{path}",
    )
    return [lambda name=name: read(name) for name in names]


def attack(folder):
    every(*ways(folder, f"{folder}/keys/key"))


def twin(folder):
    every(*ways(folder, f"{folder}/open/own"))
