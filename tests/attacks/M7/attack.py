"""Has the kernel stop in the middle of reading the name of a file, at a page that it fills itself (userfaultfd)."""

import os

from kernel import page, syscall, write
from surface import fault_in_a_name


def prepare(_folder):
    # Else it takes a capability to be told of the kernel's own faults.
    write("/proc/sys/vm/unprivileged_userfaultfd", "1")


def attack(_folder):
    fault_in_a_name(syscall("userfaultfd", os.O_NONBLOCK))


def twin(_folder):
    # As any page that is touched for the first time.
    _, address = page()
    try:
        syscall("chdir", address)
    except FileNotFoundError:
        pass
