"""Gets a file through a message from one io_uring to another, which no hook sees."""

import os

from kernel import SECRET, check, make_keys
from surface import Ring


def prepare(folder):
    make_keys(folder)


def attack(folder):
    here, there = Ring(), Ring()
    here.register(-1)
    there.register(os.open(f"{folder}/open/own", os.O_RDONLY))
    # IORING_MSG_SEND_FD, to the first slot, which is told by one more.
    there.do(Ring.MSG_RING, here.fd, address=1, slot=1)
    check(here.read(0, Ring.FIXED_FILE) == SECRET, "no file came")


def twin(folder):
    here, there = os.pipe()
    os.write(there, b"message")
    check(os.read(here, 16) == b"message", "no message came")
