"""The protected file is mounted over one that may be read: from before, and by the agent."""

from kernel import CLONE_NEWNS, MS_BIND, every, keys, mount, namespaces, read, write


def prepare(folder):
    keys(folder)
    for name in ("cover", "other"):
        write(f"{folder}/open/{name}")


def over(folder, name):
    mount(f"{folder}/keys/key", f"{folder}/open/{name}", flags=MS_BIND)


def before(folder):
    namespaces(CLONE_NEWNS)
    over(folder, "cover")


def covering(folder):
    over(folder, "other")
    assert read(f"{folder}/open/other") == b"keys/key\n"


def attack(folder, _before):
    every(lambda: read(f"{folder}/open/cover"), lambda: covering(folder))


def twin(folder):
    read(f"{folder}/open/own")
