"""Leaves something where the next boot finds it: in the boot loader's menu, as a unit, in AgentGuard's policy."""

import os

from kernel import check, every, new_name, read, write

MENU, UNITS, POLICY = "/boot/grub/grub.cfg", "/etc/systemd/system", "/etc/agentguard/policies/attack-m16.toml"


def prepare(_folder):
    write(MENU, "linux /vmlinuz lsm=bpf\n")
    os.makedirs(UNITS, exist_ok=True)
    for path in (os.path.dirname(MENU), MENU, UNITS):
        os.chmod(path, 0o777)


def change(path):
    was = read(path).decode()
    write(path, was + "# lsm=\n")
    check(read(path).endswith(b"# lsm=\n"), "it is as it was")
    write(path, was)


def unit(folder):
    own, there = new_name(folder), f"{UNITS}/attack.service"
    write(own, "[Service]\nExecStart=/bin/false\n")
    os.rename(own, there)
    check(os.path.exists(there), "it isn't there")
    os.unlink(there)


def attack(folder):
    ways = [lambda: change(MENU), lambda: unit(folder)]
    if os.getuid() == 0:
        ways.append(lambda: change(POLICY))
    every(*ways)


def twin(folder):
    write(new_name(folder), "[Service]\n")
    read(MENU)
