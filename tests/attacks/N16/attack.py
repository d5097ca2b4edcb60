"""A connection that is only said to be there, without a packet that could be refused."""

import socket

from network import arrived, bound, take_in, token

TCP_REPAIR = 19


def beside(folder):
    take_in(folder, bound(socket.SOCK_STREAM, "192.0.2.1", 8080))
    ready()


def attack(_folder):
    with socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        # Nobody listens there.
        client.connect(("198.51.100.1", 8099))
        if client.getpeername() != ("198.51.100.1", 8099):
            raise RuntimeError("it is not connected")


def twin(folder):
    data = token()
    with socket.create_connection(("192.0.2.1", 8080)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(data)
        arrived(folder, data)
