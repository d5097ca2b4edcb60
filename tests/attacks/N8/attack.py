"""Packets written to a network device of programs, one that somebody left to an ordinary user: no socket sends them."""

import fcntl
import os
import socket
import struct

from kernel import program
from network import arrived, bound, take_in, token, udp_packet

TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
IFF_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
NAME = "attackn8"


def attached():
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), IFF_TUN_WITHOUT_HEADER))
    return device


def prepare(_folder):
    program("modprobe", "tun")
    os.chmod("/dev/net/tun", 0o666)
    device = attached()
    fcntl.ioctl(device, TUNSETOWNER, 1000)
    fcntl.ioctl(device, TUNSETPERSIST, 1)
    os.close(device)
    program("ip", "address", "add", "10.66.8.1/24", "dev", NAME)
    program("ip", "link", "set", NAME, "up")


def beside(folder):
    addresses = ("192.0.2.1", "198.51.100.1")
    take_in(folder, *(bound(socket.SOCK_DGRAM, address, 5353) for address in addresses))
    ready()


def attack(folder):
    data = token()
    device = attached()
    os.write(device, udp_packet("10.66.8.2", "198.51.100.1", 5353, data))
    arrived(folder, data)
    # Nobody needs it any more.
    fcntl.ioctl(device, TUNSETPERSIST, 0)


def twin(folder):
    data = token()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(data, ("192.0.2.1", 5353))
        arrived(folder, data)
