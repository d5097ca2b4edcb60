"""A file through an overlay, where it has another name, device and inode: one that somebody else has mounted, and one
of the agent's own."""

import os

from kernel import CLONE_NEWNS, every, in_child, keys, mount, namespaces, read


def overlay(lower, scratch, place):
    for name in ("upper", "work"):
        os.makedirs(f"{scratch}/{name}")
    layers = f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work"
    mount("overlay", place, "overlay", data=layers)


def prepare(folder):
    keys(folder)
    for name in ("merged", "scratch"):
        os.mkdir(f"{folder}/{name}")
    overlay(folder, "/dev/shm/attack-F12", f"{folder}/merged")


def copied_up(folder):
    with open(f"{folder}/merged/keys/key", "a", encoding="ascii") as file:
        file.write("more\n")
    assert read(f"{folder}/keys/key") == b"keys/key\n"


def own(folder):
    namespaces(CLONE_NEWNS)
    mount("none", f"{folder}/scratch", "tmpfs")
    os.mkdir(f"{folder}/scratch/merged")
    overlay(f"{folder}/keys", f"{folder}/scratch", f"{folder}/scratch/merged")
    read(f"{folder}/scratch/merged/key")


def attack(folder):
    every(lambda: read(f"{folder}/merged/keys/key"), lambda: copied_up(folder), lambda: in_child(own, folder))


def twin(folder):
    read(f"{folder}/merged/open/own")
    with open(f"{folder}/merged/open/own", "a", encoding="ascii") as file:
        file.write("more\n")
