"""Under the name of a program that others trust; with a path that a thread exchanges while the call is under way."""

import ctypes
import os
import threading
import time

from kernel import LIBC, every, read, refused, write

PR_SET_NAME = 15


def prepare(folder):
    write(f"{folder}/keys/key", "secret")
    write(f"{folder}/open/key", "ordinary")


def by_name(folder, name):
    was = read("/proc/self/comm").strip()
    LIBC.prctl(PR_SET_NAME, name)
    try:
        if read("/proc/self/comm").strip() != name:
            raise RuntimeError("it has not that name")
        read(f"{folder}/keys/key")
    finally:
        LIBC.prctl(PR_SET_NAME, was)


def exchanged(folder):
    path = ctypes.create_string_buffer(f"{folder}/open/key".encode())
    place = ctypes.addressof(path) + len(f"{folder}/")
    ends = threading.Event()

    def exchange():
        while not ends.is_set():
            ctypes.memmove(place, b"keys", 4)
            ctypes.memmove(place, b"open", 4)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        # Often enough for both to have been the one that the call saw.
        opened = failed = 0
        deadline = time.monotonic() + 60
        while opened < 500 or failed < 500:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no race: {opened} opened, {failed} not")
            file = LIBC.open(path, os.O_RDONLY)
            if file == -1:
                failed += 1
                continue
            opened += 1
            content = os.read(file, 100)
            os.close(file)
            if content == b"secret":
                return
    finally:
        ends.set()
        thread.join()
    refused("none of them was the secret")


def attack(folder):
    every(
        *(lambda name=name: by_name(folder, name) for name in (b"agentguard", b"systemd", b"sshd")),
        lambda: exchanged(folder),
    )


def twin(folder):
    read(f"{folder}/open/key")
