"""Kinds of sockets that no rule can name: the kernel's cryptography (CVE-2026-31431), those to hypervisors."""

import hashlib
import socket

from kernel import every, program
from network import arrived, take_in, token

LOCAL = 1  # VMADDR_CID_LOCAL


def prepare(_folder):
    program("modprobe", "-a", "af_alg", "algif_hash", "vsock", "vsock_loopback")


def beside(folder):
    server = socket.socket(socket.AF_VSOCK)
    server.bind((socket.VMADDR_CID_ANY, 5000))
    take_in(folder, server)
    ready()


def cryptography():
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as kernel:
        kernel.bind(("hash", "sha256"))
        operation, _ = kernel.accept()
        with operation:
            operation.send(b"content")
            if operation.recv(32) != hashlib.sha256(b"content").digest():
                raise RuntimeError("the kernel's digest is another")


def hypervisor(folder):
    data = token()
    with socket.socket(socket.AF_VSOCK) as client:
        client.connect((LOCAL, 5000))
        client.send(data)
        arrived(folder, data)


def attack(folder):
    every(cryptography, lambda: hypervisor(folder))


def twin(_folder):
    hashlib.sha256(b"content").digest()
    ours, theirs = socket.socketpair()
    ours.send(b"content")
    theirs.recv(7)
