"""Many messages in one call, of which the first is allowed."""

import ctypes
import socket
import struct

from kernel import every, refused, syscall
from network import arrived, bound, take_in, token

SENDMMSG = 307
ALLOWED, DENIED = "192.0.2.1", "198.51.100.1"


def beside(folder):
    take_in(folder, *(bound(socket.SOCK_DGRAM, address, 5353) for address in (ALLOWED, DENIED)))
    ready()


def send(folder, *hosts):
    """What arrived of it must be all, or it was refused."""
    contents = [token() for _ in hosts]
    kept, messages = [], b""
    for host, content in zip(hosts, contents):
        name = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 5353) + socket.inet_aton(host) + bytes(8)
        name, data = ctypes.create_string_buffer(name), ctypes.create_string_buffer(content)
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(data), len(content))
        kept += [name, data, vector]
        # struct mmsghdr: name, vectors, control, flags, and how much was sent.
        pointers = ctypes.addressof(name), 16, ctypes.addressof(vector)
        messages += struct.pack("PIxxxxPNPNixxxxIxxxx", *pointers, 1, 0, 0, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        sent = syscall(SENDMMSG, client.fileno(), ctypes.create_string_buffer(messages), len(hosts), 0)
    for content in contents[:sent]:
        arrived(folder, content)
    if sent < len(hosts):
        refused(f"all but {sent}")


def attack(folder):
    every(
        lambda: send(folder, DENIED),
        lambda: send(folder, ALLOWED, DENIED),
        lambda: send(folder, ALLOWED, ALLOWED, DENIED, ALLOWED),
    )


def twin(folder):
    send(folder, ALLOWED, ALLOWED, ALLOWED)
