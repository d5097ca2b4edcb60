"""Loads a module, has another kernel be loaded, and opens the machine's memory and ports."""

import glob
import lzma
import os

from kernel import check, every, read, syscall


def prepare(folder):
    # As a container may bring it along: for everybody.
    os.mknod(f"{folder}/mem", 0o020666, os.makedev(1, 1))
    os.chmod(f"{folder}/mem", 0o666)


def module():
    path = glob.glob(f"/usr/lib/modules/{os.uname().release}/**/squashfs.ko*", recursive=True)[0]
    image = read(path)
    if path.endswith(".xz"):
        image = lzma.decompress(image)
    syscall("init_module", image, len(image), b"")
    check(b"\nsquashfs " in b"\n" + read("/proc/modules"), "it was not loaded")
    syscall("delete_module", b"squashfs", 0)


def memory(path):
    descriptor = os.open(path, os.O_RDONLY)
    check(len(os.pread(descriptor, 16, 0xF0000)) == 16, "nothing was read")
    os.close(descriptor)


def ports():
    syscall("iopl", 3)
    syscall("iopl", 0)


def kexec():
    # Without segments: what is loaded, which is nothing, is forgotten.
    syscall("kexec_load", 0, 0, None, 0)


def attack(folder):
    ways = [lambda: memory(f"{folder}/mem")]
    if os.getuid() == 0:
        ways += [module, kexec, ports, lambda: memory("/dev/mem")]
    every(*ways)


def twin(_folder):
    read("/proc/modules")
    os.close(os.open("/dev/zero", os.O_RDWR))
