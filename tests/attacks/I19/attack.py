"""Gets what it may not open from somebody who may: a file, and a socket that was made outside."""

import os
import socket

from kernel import SECRET, check, every, make_keys
from surface import ask, give, serve

OUTSIDE = ("192.0.2.1", 5319)


def prepare(folder):
    make_keys(folder)


def beside(folder):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(OUTSIDE)
    receiver.settimeout(5)

    def answer(words, connection):
        if words[0] == "received":
            return receiver.recv(16).decode()
        if words[0] == "socket":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                return give(connection, sender.fileno())
        with open(f"{folder}/{words[0]}", "rb") as file:
            return give(connection, file.fileno())

    serve(folder, answer)
    ready()


def key(folder):
    descriptor = ask(folder, "keys/key", descriptor=True)
    check(os.read(descriptor, 16) == SECRET, "something else was read")


def made_outside(folder):
    with socket.socket(fileno=ask(folder, "socket", descriptor=True)) as sender:
        sender.sendto(b"hello", OUTSIDE)
    check(ask(folder, "received") == "hello", "nothing came")


def attack(folder):
    every(lambda: key(folder), lambda: made_outside(folder))


def twin(folder):
    descriptor = ask(folder, "open/own", descriptor=True)
    check(os.read(descriptor, 16) == SECRET, "something else was read")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", OUTSIDE)
    check(ask(folder, "received") == "hello", "nothing came")
