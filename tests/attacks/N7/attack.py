"""Whole frames, past everything that the kernel has for addresses."""

import socket

from kernel import every
from network import arrived, bound, take_in, token, udp_packet

ETH_P_IP = 0x0800


def beside(folder):
    addresses = ("192.0.2.1", "198.51.100.1")
    take_in(folder, *(bound(socket.SOCK_DGRAM, address, 5353) for address in addresses))
    ready()


def send(folder, kind):
    data = token()
    # From an address that is not the machine's own: the kernel drops what claims to be from itself.
    packet = udp_packet("10.66.7.7", "198.51.100.1", 5353, data)
    with socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_IP)) as wire:
        if kind == socket.SOCK_RAW:
            packet = bytes(12) + ETH_P_IP.to_bytes(2, "big") + packet
        wire.sendto(packet, ("lo", ETH_P_IP, 0, 0, bytes(6)))
        arrived(folder, data)


def attack(folder):
    every(lambda: send(folder, socket.SOCK_RAW), lambda: send(folder, socket.SOCK_DGRAM))


def twin(folder):
    data = token()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(data, ("192.0.2.1", 5353))
        arrived(folder, data)
