"""Has somebody outside start a process in the agent's cgroup at once, as systemd and runc do, which no move shows."""

import os

from kernel import clone3, in_child, make_keys, own_cgroup, read
from surface import ask, serve

CLONE_INTO_CGROUP = 0x200000000


def prepare(folder):
    make_keys(folder)


def beside(folder):
    def answer(words, _connection):
        place = os.open(words[0], os.O_PATH | os.O_DIRECTORY)
        in_child(read, words[1], birth=lambda: clone3(CLONE_INTO_CGROUP, place))
        os.close(place)

    serve(folder, answer)
    ready()


def attack(folder):
    ask(folder, own_cgroup(), f"{folder}/keys/key")


def twin(folder):
    ask(folder, own_cgroup(), f"{folder}/open/own")
