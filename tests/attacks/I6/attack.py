"""Has a worker of the kernel open a file, by an io_uring."""

from concurrent.futures import ThreadPoolExecutor

from kernel import SECRET, check, make_keys, read
from surface import Ring


def prepare(folder):
    make_keys(folder)


def attack(folder):
    ring = Ring()
    key = ring.open(f"{folder}/keys/key", Ring.ASYNC)
    check(ring.read(key, Ring.ASYNC) == SECRET, "the key was not read")


def twin(folder):
    with ThreadPoolExecutor(1) as worker:
        worker.submit(read, f"{folder}/open/own").result()
