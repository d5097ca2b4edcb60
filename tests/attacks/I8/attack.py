"""Gets somebody else's io_uring over a Unix socket."""

import errno
import os

from kernel import make_keys, refused
from surface import Ring, ask, give, serve


def prepare(folder):
    make_keys(folder)


def beside(folder):
    ring = Ring()
    own = os.open(f"{folder}/open/own", os.O_RDONLY)
    serve(folder, lambda words, there: give(there, ring.fd if words[0] == "ring" else own))
    ready()


def attack(folder):
    try:
        ask(folder, "ring", descriptor=True)
    except OSError as error:
        if error.errno == errno.EINVAL:
            # Its sender is told so.
            refused("ring")
        raise


def twin(folder):
    ask(folder, "file", descriptor=True)
