"""SCTP connects by more than connect: with the first message, or with an option that takes addresses."""

import socket
import struct

from kernel import every, program
from network import arrived, bound, take_in, token

IPPROTO_SCTP = 132
SCTP_SOCKOPT_CONNECTX = 110
DENIED = ("198.51.100.1", 7000)


def prepare(_folder):
    program("modprobe", "sctp")


def beside(folder):
    addresses = ("192.0.2.1", "198.51.100.1")
    take_in(folder, *(bound(socket.SOCK_STREAM, address, 7000, IPPROTO_SCTP) for address in addresses))
    ready()


def with_a_message(folder):
    data = token()
    with socket.socket(socket.AF_INET, socket.SOCK_SEQPACKET, IPPROTO_SCTP) as client:
        client.sendto(data, DENIED)
        arrived(folder, data)


def with_an_option(folder):
    data = token()
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", DENIED[1])
    address += socket.inet_aton(DENIED[0]) + bytes(8)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP) as client:
        client.setsockopt(IPPROTO_SCTP, SCTP_SOCKOPT_CONNECTX, address)
        client.send(data)
        arrived(folder, data)


def attack(folder):
    every(lambda: with_a_message(folder), lambda: with_an_option(folder))


def twin(folder):
    data = token()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP) as client:
        client.connect(("192.0.2.1", 7000))
        client.send(data)
        arrived(folder, data)
