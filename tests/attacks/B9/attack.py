"""A rule names a range of IPv6 addresses. Others read such rules and enforced those for IPv4 alone."""

import socket
import threading

from kernel import check, every, read, write

DENIED = "2001:db8::1"
ALLOWED = "fd00::1"


def echo(server, accepts):
    while True:
        if accepts:
            client, _ = server.accept()
            client.sendall(client.recv(100))
            client.close()
        else:
            server.sendto(*server.recvfrom(100))


def beside(folder):
    """Answers on a port of all addresses."""
    stream = socket.create_server(("::", 0), family=socket.AF_INET6)
    port = stream.getsockname()[1]
    threading.Thread(target=echo, args=(stream, True), daemon=True).start()
    # From the address that was asked, or the answer is nobody's.
    for address in (DENIED, ALLOWED):
        datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagrams.bind((address, port))
        threading.Thread(target=echo, args=(datagrams, False), daemon=True).start()
    write(f"{folder}/port", str(port))
    ready()  # noqa: F821 (play.py's)


def answered(client, send):
    with client:
        send(client)
        client.settimeout(5)
        check(client.recv(100) == b"hello", "that is not the answer")


def ways(folder, host):
    """Every way of getting there."""
    address = (host, int(read(f"{folder}/port")), 0, 0)

    def stream():
        return socket.socket(socket.AF_INET6, socket.SOCK_STREAM)

    def datagrams():
        return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)

    def connected(client):
        client.connect(address)
        client.send(b"hello")

    return [
        lambda: answered(stream(), connected),
        lambda: answered(stream(), lambda client: client.sendto(b"hello", socket.MSG_FASTOPEN, address)),
        lambda: answered(datagrams(), connected),
        lambda: answered(datagrams(), lambda client: client.sendto(b"hello", address)),
        lambda: answered(datagrams(), lambda client: client.sendmsg([b"hello"], [], 0, address)),
    ]


def attack(folder):
    every(*ways(folder, DENIED))


def twin(folder):
    for way in ways(folder, ALLOWED):
        way()
