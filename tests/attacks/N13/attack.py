"""A way in from outside: the agent waits for who controls it, on a port of the kernel's choice or on one it names."""

import socket

from kernel import every


def serve(server, at=None):
    """Has somebody come in."""
    with server:
        if at:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(at)
        server.listen()
        with socket.create_connection(at or ("localhost", server.getsockname()[1])) as client:
            client.send(b"command")
            accepted, _ = server.accept()
            with accepted:
                if accepted.recv(7) != b"command":
                    raise RuntimeError("the command did not come")


def datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as client:
        server.bind(("192.0.2.1", 9001))
        client.sendto(b"command", ("192.0.2.1", 9001))
        server.recv(7)


def attack(_folder):
    every(
        lambda: serve(socket.socket()),
        lambda: serve(socket.socket(), ("192.0.2.1", 9001)),
        lambda: serve(socket.socket(socket.AF_INET6)),
        datagrams,
    )


def twin(_folder):
    serve(socket.socket(), ("192.0.2.1", 9000))
