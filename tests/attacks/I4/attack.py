"""Has a thread act that was there before the cgroup was tagged, and that nobody was told of."""

from concurrent.futures import ThreadPoolExecutor

from kernel import make_keys, read, read_key

THREAD = ThreadPoolExecutor(1)


def prepare(folder):
    make_keys(folder)


def before(folder):
    THREAD.submit(read, f"{folder}/open/own").result()


def attack(folder, _before):
    THREAD.submit(read_key, folder).result()


def twin(folder):
    THREAD.submit(read, f"{folder}/open/own").result()
