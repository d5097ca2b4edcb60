"""As M7, by the devices behind which a program answers for the kernel: /dev/userfaultfd and /dev/fuse."""

import fcntl
import os

from kernel import every, mount, program, syscall
from surface import fault_in_a_name

USERFAULTFD_IOC_NEW = 0xAA00
FUSE, PAGES = "/dev/fuse", "/dev/userfaultfd"


def prepare(_folder):
    if not os.path.exists(FUSE):
        # KERNEL: a module in 6.1, built in later.
        program("modprobe", "fuse")
    for device in (FUSE, PAGES):
        os.chmod(device, 0o666)


def pages():
    device = os.open(PAGES, os.O_RDWR)
    fault_in_a_name(fcntl.ioctl(device, USERFAULTFD_IOC_NEW, os.O_NONBLOCK))


def files(folder):
    device = os.open(FUSE, os.O_RDWR)
    where = f"{folder}/fuse"
    os.makedirs(where, exist_ok=True)
    mount("none", where, "fuse", 0, f"fd={device},rootmode=40000,user_id=0,group_id=0")
    syscall("umount2", where, 2)


def attack(folder):
    every(pages, lambda: files(folder))


def twin(_folder):
    for device in ("/dev/zero", "/dev/null"):
        os.close(os.open(device, os.O_RDWR))
