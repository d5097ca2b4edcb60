"""Has so many tasks that what is known of the first ones might be forgotten."""

import threading
from concurrent.futures import ThreadPoolExecutor

from kernel import every, make_keys, read, read_key

TASKS = 500


def prepare(folder):
    make_keys(folder)


def with_many_tasks(folder, function, *arguments):
    """Has every task open something, and when all have, each do it; then the first of all."""
    all_there = threading.Barrier(TASKS)

    def task():
        read(f"{folder}/open/own")
        all_there.wait()
        function(*arguments)

    threading.stack_size(65536)
    with ThreadPoolExecutor(TASKS) as threads:
        tasks = [threads.submit(task) for _ in range(TASKS)]
        every(*[task.result for task in tasks], lambda: function(*arguments))


def attack(folder):
    with_many_tasks(folder, read_key, folder)


def twin(folder):
    with_many_tasks(folder, read, f"{folder}/open/own")
