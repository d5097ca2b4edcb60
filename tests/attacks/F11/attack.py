"""A file that lies deeper than a path can say, reached step by step."""

import os

from kernel import keys, read

NAME = "n" * 250


def enter(folder, steps):
    os.chdir(folder)
    for _ in range(steps):
        os.chdir(NAME)


def prepare(folder):
    keys(folder)
    for place in ("keys", "open"):
        os.chdir(f"{folder}/{place}")
        for step in range(20):
            os.mkdir(NAME)
            os.chdir(NAME)
            if step in (9, 19):
                with open("key", "w", encoding="ascii") as file:
                    file.write("content\n")
    os.chdir("/")


def attack(folder):
    enter(f"{folder}/keys", 20)
    try:
        assert read("key") == b"content\n"
    finally:
        os.chdir("/")


def twin(folder):
    enter(f"{folder}/open", 10)
    read("key")
    os.chdir("/")
