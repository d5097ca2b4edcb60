"""A file of a tree that may only be read gets a second name where writing is allowed, and is written through that."""

import os

from kernel import check, every, everybodys, new_name, read, write


def prepare(folder):
    write(f"{folder}/readonly/file", "ours\n")
    write(f"{folder}/open/own")
    everybodys(f"{folder}/readonly", f"{folder}/open")


def written_through(original, link):
    """Gives the file a name that `link` makes, and sees that what is written there is in the original."""
    name = new_name(f"{os.path.dirname(original)}/../open")
    link(original, name)
    content = os.urandom(6).hex()
    write(name, content)
    check(read(original) == content.encode(), "the original isn't changed")


def by_descriptor(original, name):
    descriptor = os.open(original, os.O_PATH)
    try:
        # Python uses linkat, which follows, where it has a folder for a path; this one is absolute.
        os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor, follow_symlinks=True)
    finally:
        os.close(descriptor)


def attack(folder):
    original = f"{folder}/readonly/file"
    every(
        lambda: written_through(original, os.link),
        lambda: written_through(original, by_descriptor),
    )


def twin(folder):
    check(read(f"{folder}/readonly/file") == b"ours\n", "the original was changed")
    written_through(f"{folder}/open/own", os.link)
    written_through(f"{folder}/open/own", by_descriptor)
