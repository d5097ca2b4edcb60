"""Everything is done by an io_uring, which filters of system calls don't see: a file is opened and read, and a socket
is made, connected and spoken through. By the caller itself, by the ring's workers, by the thread that polls it.

The profile allows rings, which others forbid as a whole: what is done in them is judged all the same."""

import ctypes
import mmap
import os
import socket
import struct
import threading

from kernel import AT_FDCWD, check, every, everybodys, read, syscall, write

# include/uapi/linux/io_uring.h
SETUP_SQPOLL = 2
OFFSET_SQES = 0x10000000
ENTER_GETEVENTS = 1
ENTER_SQ_WAKEUP = 2
SQE_ASYNC = 1 << 4
OP_CONNECT = 16
OP_OPENAT = 18
OP_READ = 22
OP_SEND = 26
OP_RECV = 27
OP_SOCKET = 45
IO_URING_ENTER = 426

SECRET = b"secret\n"


class Ring:
    """A ring that does one thing at a time."""

    def __init__(self, setup=0, flags=0):
        parameters = (ctypes.c_uint32 * 30)()
        parameters[2] = setup
        self.descriptor = syscall("io_uring_setup", 4, ctypes.byref(parameters))
        self.flags = flags
        self.submitted, self.completed = list(parameters[10:20]), list(parameters[20:30])
        size = self.submitted[6] + 4 * parameters[0]
        self.submissions = mmap.mmap(self.descriptor, size)
        size = self.completed[5] + 16 * parameters[1]
        self.completions = mmap.mmap(self.descriptor, size, offset=0x8000000)
        self.entries = mmap.mmap(self.descriptor, 64 * parameters[0], offset=OFFSET_SQES)
        self.polled = setup & SETUP_SQPOLL

    def do(self, operation, descriptor, offset=0, address=0, length=0, more=0):
        """Does one thing, and returns what came of it."""
        entry = struct.pack(
            "<BBHiQQIIQ", operation, self.flags, 0, descriptor, offset, address, length, more, 0
        )
        self.entries[:64] = entry.ljust(64, b"\0")
        (tail,) = struct.unpack_from("<I", self.submissions, self.submitted[1])
        (mask,) = struct.unpack_from("<I", self.submissions, self.submitted[2])
        struct.pack_into("<I", self.submissions, self.submitted[6] + 4 * (tail & mask), 0)
        struct.pack_into("<I", self.submissions, self.submitted[1], tail + 1)
        flags = ENTER_GETEVENTS | (ENTER_SQ_WAKEUP if self.polled else 0)
        syscall(IO_URING_ENTER, self.descriptor, 1, 1, flags, None, 0)
        (head,) = struct.unpack_from("<I", self.completions, self.completed[0])
        (mask,) = struct.unpack_from("<I", self.completions, self.completed[2])
        place = self.completed[5] + 16 * (head & mask)
        _, result = struct.unpack_from("<Qi", self.completions, place)
        struct.pack_into("<I", self.completions, self.completed[0], head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def read_file(self, path):
        name = ctypes.create_string_buffer(os.fsencode(path))
        descriptor = self.do(OP_OPENAT, AT_FDCWD, 0, ctypes.addressof(name))
        content = ctypes.create_string_buffer(100)
        size = self.do(OP_READ, descriptor, 0, ctypes.addressof(content), 100)
        os.close(descriptor)
        return content.raw[:size]

    def ask(self, host, port):
        """Says something to a server, and returns what it answers."""
        client = self.do(OP_SOCKET, socket.AF_INET, socket.SOCK_STREAM)
        address = struct.pack("<H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))
        place = ctypes.create_string_buffer(address, 16)
        self.do(OP_CONNECT, client, 16, ctypes.addressof(place))
        content = ctypes.create_string_buffer(b"hello", 100)
        self.do(OP_SEND, client, 0, ctypes.addressof(content), 5)
        size = self.do(OP_RECV, client, 0, ctypes.addressof(content), 100)
        os.close(client)
        return content.raw[:size]


def prepare(folder):
    write(f"{folder}/keys/key", SECRET.decode())
    write(f"{folder}/open/own", "own\n")
    everybodys(f"{folder}/keys", f"{folder}/open")


def serve(server):
    while True:
        client, _ = server.accept()
        with client:
            client.sendall(client.recv(100))


def beside(folder):
    """Two servers, of which a rule allows one."""
    for address, name in (("10.9.8.7", "denied"), ("10.20.0.1", "allowed")):
        server = socket.create_server((address, 0))
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        write(f"{folder}/ports/{name}", str(server.getsockname()[1]))
    ready()  # noqa: F821 (play.py's)


def rings():
    """A ring whose operations the caller does, one whose workers do, and one that a thread of the kernel polls."""
    return Ring(), Ring(flags=SQE_ASYNC), Ring(setup=SETUP_SQPOLL)


def port(folder, name):
    return int(read(f"{folder}/ports/{name}"))


def attack(folder):
    def reads(ring):
        check(ring.read_file(f"{folder}/keys/key") == SECRET, "that is not the secret")

    def asks(ring):
        check(ring.ask("10.9.8.7", port(folder, "denied")) == b"hello", "that is not the answer")

    attempts = []
    for ring in rings():
        attempts += [lambda ring=ring: reads(ring), lambda ring=ring: asks(ring)]
    every(*attempts)


def twin(folder):
    for ring in rings():
        check(ring.read_file(f"{folder}/open/own") == b"own\n", "that is another file")
        check(ring.ask("10.20.0.1", port(folder, "allowed")) == b"hello", "no answer")
