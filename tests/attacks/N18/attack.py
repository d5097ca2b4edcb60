"""Sockets of services that have a name, but no file that somebody could protect."""

import socket

from kernel import every
from network import arrived, take_in, token

KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)


def beside(folder):
    servers = []
    for kind in KINDS:
        for name in ("open", "secret"):
            server = socket.socket(socket.AF_UNIX, kind)
            server.bind(f"\0agentguard-attack/{name}/{int(kind)}")
            servers.append(server)
    take_in(folder, *servers)
    ready()


def send(folder, kind, name):
    data = token()
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(f"\0agentguard-attack/{name}/{int(kind)}")
        client.send(data)
        arrived(folder, data)


def without_connect(folder):
    data = token()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(data, f"\0agentguard-attack/secret/{int(socket.SOCK_DGRAM)}")
        arrived(folder, data)


def attack(folder):
    every(*(lambda kind=kind: send(folder, kind, "secret") for kind in KINDS), lambda: without_connect(folder))


def twin(folder):
    for kind in KINDS:
        send(folder, kind, "open")
