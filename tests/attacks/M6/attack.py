"""Does so much that is allowed that what isn't gets lost among it."""

import os
from concurrent.futures import ThreadPoolExecutor

from kernel import every, in_child, make_keys, read, read_key

PROCESSES, OPENS = 3, 400


def prepare(folder):
    make_keys(folder)


def flood(folder):
    for _ in range(OPENS):
        os.close(os.open(f"{folder}/open/own", os.O_RDONLY))


def in_a_flood(folder, function, *arguments):
    with ThreadPoolExecutor(PROCESSES + 1) as threads:
        floods = [threads.submit(in_child, flood, folder) for _ in range(PROCESSES)]
        result = threads.submit(function, *arguments)
        for one in floods:
            one.result()
    every(result.result, lambda: function(*arguments))


def attack(folder):
    in_a_flood(folder, read_key, folder)


def twin(folder):
    in_a_flood(folder, read, f"{folder}/open/own")
