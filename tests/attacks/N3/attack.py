"""An IPv4 address that a rule denies, written as an IPv6 one: ::ffff:198.51.100.1."""

import socket

from kernel import every
from network import arrived, bound, take_in, token


def beside(folder):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        take_in(folder, *(bound(kind, address, 8080) for address in ("192.0.2.1", "198.51.100.1")))
    ready()


def connect(folder, address):
    data = token()
    with socket.socket(socket.AF_INET6) as client:
        client.connect((f"::ffff:{address}", 8080))
        client.send(data)
        arrived(folder, data)


def send(folder, address):
    data = token()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.sendto(data, (f"::ffff:{address}", 8080))
        arrived(folder, data)


def attack(folder):
    every(lambda: connect(folder, "198.51.100.1"), lambda: send(folder, "198.51.100.1"))


def twin(folder):
    connect(folder, "192.0.2.1")
    send(folder, "192.0.2.1")
