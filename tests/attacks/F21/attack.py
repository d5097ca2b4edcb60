"""What is on a disk, past every file on it: a loop device over the protected file stands for the disk."""

import os

from kernel import every, keys, module, new_name, program, read

NUMBER = os.makedev(7, 7)


def prepare(folder):
    keys(folder)
    with open(f"{folder}/keys/key", "wb") as file:
        file.write(b"on a disk".ljust(4096))
    module("loop")
    disk = f"{folder}/open/disk"
    os.mknod(disk, 0o600 | 0o060000, NUMBER)
    os.chmod(disk, 0o666)
    program("losetup", disk, f"{folder}/keys/key")


def read_disk(path):
    assert read(path).startswith(b"on a disk")


def own_node(folder):
    path = new_name(folder)
    os.mknod(path, 0o600 | 0o060000, NUMBER)
    read_disk(path)


def attack(folder):
    ways = [lambda: read_disk(f"{folder}/open/disk")]
    # Nobody else may make a device, agent or not.
    if os.geteuid() == 0:
        ways.append(lambda: own_node(folder))
    every(*ways)


def twin(folder):
    read(f"{folder}/open/own")
    os.close(os.open("/dev/zero", os.O_RDONLY))
