"""A stranger sends to the port that the agent has since it sent something: a way in that nothing was asked for."""

import socket
import threading

from kernel import every, refused
from network import bound

PEERS = {socket.AF_INET: ("192.0.2.1", "198.51.100.1"), socket.AF_INET6: ("2001:db8::1", "2001:db8::2")}


def beside(_folder):
    for addresses in PEERS.values():
        sockets = [bound(socket.SOCK_DGRAM, address, 5353) for address in addresses]
        threading.Thread(target=answer, args=sockets, daemon=True).start()
    ready()


def answer(peer, stranger):
    """The stranger is first."""
    while True:
        _, asking = peer.recvfrom(100)
        stranger.sendto(b"from a stranger", asking)
        peer.sendto(b"from the peer", asking)


def ask(family, expected):
    """What comes first, or without that what comes instead."""
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"question", (PEERS[family][0], 5353))
        heard = client.recv(100)
    if heard != expected:
        refused(f"heard {heard}")


def attack(_folder):
    every(*(lambda family=family: ask(family, b"from a stranger") for family in PEERS))


def twin(_folder):
    for family in PEERS:
        ask(family, b"from the peer")
