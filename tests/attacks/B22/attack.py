"""A process is made outside, comes into the cgroup afterwards and then runs its program, as a container's does. Who
remembers the cgroup that its parent was in takes it for nobody's."""

import queue
import threading

from kernel import check, every, everybodys, in_child, program, read, write

SECRET = b"secret\n"


def prepare(folder):
    write(f"{folder}/keys/key", SECRET.decode())
    write(f"{folder}/open/key", SECRET.decode())
    everybodys(f"{folder}/keys", f"{folder}/open")


def reads(path):
    check(read(path) == SECRET, "that is not the secret")


def by_program(path):
    check(program("cat", path) == SECRET.decode(), "that is not the secret")


def before(_folder):
    """A thread that is there before the process comes into the cgroup, and reads when it is told to."""
    paths, outcomes = queue.Queue(), queue.Queue()

    def work():
        while True:
            try:
                outcomes.put(reads(paths.get()))
            except (OSError, RuntimeError) as error:
                outcomes.put(error)

    threading.Thread(target=work, daemon=True).start()

    def by_thread(path):
        paths.put(path)
        outcome = outcomes.get(timeout=10)
        if outcome is not None:
            raise outcome

    return by_thread


def attack(folder, by_thread):
    key = f"{folder}/keys/key"
    every(
        lambda: reads(key),
        lambda: by_thread(key),
        lambda: in_child(reads, key),
        lambda: by_program(key),
        lambda: in_child(by_program, key),
    )


def twin(folder):
    key = f"{folder}/open/key"
    reads(key)
    in_child(reads, key)
    by_program(key)
