"""Takes the pins, by which programs stay attached, away: renames their folder, and mounts something over it."""

import os

from kernel import check, every, mount, new_name, syscall

PINS = "/sys/fs/bpf/agentguard"


def rename():
    os.rename(PINS, f"{PINS}-away")
    check(not os.path.exists(PINS), "they are there")
    os.rename(f"{PINS}-away", PINS)


def mount_over():
    mount("none", PINS, "tmpfs")
    check(os.listdir(PINS) == [], "they are there")
    syscall("umount2", PINS, 0)


def make():
    """A folder of its own, where the next start would look."""
    name = new_name("/sys/fs/bpf")
    os.mkdir(name)
    os.rmdir(name)


def attack(_folder):
    every(rename, mount_over, make)


def twin(folder):
    name = new_name(folder)
    os.mkdir(name)
    os.rename(name, f"{name}-away")
    os.rmdir(f"{name}-away")
