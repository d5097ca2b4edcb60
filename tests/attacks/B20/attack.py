"""Asks for something, and then says yes itself: over the socket, with the command on a terminal of its own, by a signal,
and in the kernel's maps."""

import ctypes
import errno
import json
import os
import pty
import signal
import socket

from kernel import every, make_keys, program, read, refused, wait_for
from surface import bpf

BPF_OBJ_GET = 7
SOCKET = "/run/agentguard/agentguard.sock"


def prepare(folder):
    make_keys(folder)


def request(folder):
    """A child that waits, and the number of its request."""
    child = os.fork()
    if child == 0:
        try:
            read(f"{folder}/keys/key")
            os._exit(0)
        except PermissionError:
            os._exit(77)
    own = []

    def waits():
        own[:] = [one["id"] for one in json.loads(program("agentguard", "why", "--json"))["waiting"]]
        return own

    wait_for(waits, "nothing waits")
    return child, own[0]


def over_the_socket(number):
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(SOCKET)
    except OSError as error:
        # So the kernel says to whoever may not write to the socket's file.
        if error.errno == errno.EACCES:
            refused("the socket")
        raise
    connection.sendall(b"POST /v1/approvals/%d HTTP/1.1\r\n\r\n" % number)


def on_a_terminal(number):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("agentguard", ["agentguard", "approve", str(number)])
    said = b""
    try:
        while piece := os.read(terminal, 1000):
            said += piece
    except OSError:
        pass  # the other end is closed
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        refused(said.decode())


def in_a_map(name):
    path = ctypes.create_string_buffer(f"/sys/fs/bpf/agentguard/maps/{name}".encode())
    bpf(BPF_OBJ_GET, "QII", ctypes.addressof(path), 0, 0)


def by_a_signal(child):
    for _ in range(20):
        os.kill(child, signal.SIGCONT)
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid == 0 or os.waitstatus_to_exitcode(status) == 77:
        refused("the request")


def attack(folder):
    child, number = request(folder)
    try:
        every(
            lambda: over_the_socket(number),
            lambda: on_a_terminal(number),
            lambda: in_a_map("REQUESTS"),
            lambda: in_a_map("GRANTS"),
            lambda: by_a_signal(child),
        )
    finally:
        os.kill(child, signal.SIGKILL)


def twin(_folder):
    program("agentguard", "why")
