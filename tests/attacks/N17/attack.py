"""A network of the agent's own, in which it is the administrator."""

import os
import socket

from kernel import in_child, syscall

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def apart(flags):
    was = os.readlink("/proc/self/ns/net")
    syscall("unshare", flags)
    if os.readlink("/proc/self/ns/net") == was:
        raise RuntimeError("it is the same network")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 5353))


def attack(_folder):
    in_child(apart, CLONE_NEWUSER | CLONE_NEWNET)


def twin(_folder):
    if "lo" not in (name for _, name in socket.if_nameindex()):
        raise RuntimeError("the network is not there")
