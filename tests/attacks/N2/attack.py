"""Datagrams with an address of their own: no connect says where they go, or says something else."""

import socket

from kernel import every
from network import arrived, bound, take_in, token


def beside(folder):
    addresses = ("192.0.2.1", "198.51.100.1", "2001:db8::2")
    take_in(folder, *(bound(socket.SOCK_DGRAM, address, 5353) for address in addresses))
    ready()


def send(folder, address, family=socket.AF_INET, connected=None):
    data = token()
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        if connected:
            client.connect(connected)
        client.sendto(data, address)
        arrived(folder, data)


def attack(folder):
    allowed, denied = ("192.0.2.1", 5353), ("198.51.100.1", 5353)
    every(
        lambda: send(folder, denied),
        lambda: send(folder, denied, connected=allowed),
        lambda: send(folder, ("2001:db8::2", 5353), socket.AF_INET6),
    )


def twin(folder):
    send(folder, ("192.0.2.1", 5353))
