"""Packets whose headers the program writes itself, so that no call names the address."""

import socket

from kernel import every
from network import arrived, bound, take_in, token, udp_datagram, udp_packet

DENIED = "198.51.100.1"


def beside(folder):
    take_in(folder, *(bound(socket.SOCK_DGRAM, address, 5353) for address in ("192.0.2.1", DENIED)))
    ready()


def whole(folder):
    data = token()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        packet = udp_packet("192.0.2.1", DENIED, 5353, data)
        # The kernel takes the address in the packet for what it is, and not this one.
        raw.sendto(packet, ("192.0.2.1", 0))
        arrived(folder, data)


def without_ip(folder):
    data = token()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.sendto(udp_datagram(5353, data), (DENIED, 0))
        arrived(folder, data)


def attack(folder):
    every(lambda: whole(folder), lambda: without_ip(folder))


def twin(folder):
    data = token()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(data, ("192.0.2.1", 5353))
        arrived(folder, data)
