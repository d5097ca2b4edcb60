"""TCP Fast Open: the first segment carries the content, and nobody calls connect, or it only remembers where to."""

import socket

from kernel import every
from network import arrived, bound, take_in, token

MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN_CONNECT = 30


def beside(folder):
    servers = [bound(socket.SOCK_STREAM, "192.0.2.1", port) for port in (8080, 8081)]
    for server in servers:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
    take_in(folder, *servers)
    ready()


def send(folder, port):
    data = token()
    with socket.socket() as client:
        client.sendto(data, MSG_FASTOPEN, ("192.0.2.1", port))
        arrived(folder, data)


def by_option(folder):
    data = token()
    with socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        client.connect(("192.0.2.1", 8081))
        client.send(data)
        arrived(folder, data)


def attack(folder):
    every(lambda: send(folder, 8081), lambda: by_option(folder))


def twin(folder):
    send(folder, 8080)
