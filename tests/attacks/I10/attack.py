"""Has one of its threads moved into a threaded cgroup of its own, below the one that is tagged."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from kernel import check, make_keys, new_name, own_cgroup, read, read_key, wait_for, write
from surface import ask, serve


def prepare(folder):
    make_keys(folder)


def removed(cgroup):
    """Whether it could be removed: a thread that has ended may be there for a moment."""
    try:
        os.rmdir(cgroup)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def beside(folder):
    def answer(words, _connection):
        if words[0] == "remove":
            return wait_for(lambda: removed(words[1]), "its thread is there")
        cgroup = new_name(words[1], "threads")
        os.mkdir(cgroup)
        write(f"{cgroup}/cgroup.type", "threaded")
        write(f"{cgroup}/cgroup.threads", words[2])
        return cgroup

    serve(folder, answer)
    ready()


def in_threaded_cgroup(folder, function, *arguments):
    with ThreadPoolExecutor(1) as worker:
        thread = worker.submit(threading.get_native_id).result()
        cgroup = ask(folder, "make", own_cgroup(), thread)
        check(own_cgroup(f"self/task/{thread}") == cgroup, "it was not moved")
        result = worker.submit(function, *arguments)
    ask(folder, "remove", cgroup)
    result.result()


def attack(folder):
    in_threaded_cgroup(folder, read_key, folder)


def twin(folder):
    in_threaded_cgroup(folder, read, f"{folder}/open/own")
