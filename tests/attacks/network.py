"""What attacks over the network need: other hosts, and how one knows that something got there."""

import os
import socket
import struct
import threading
import time


def bound(kind, address, port, protocol=0):
    """A socket of "another host", which is an address of the loopback device."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    return made


def take_in(folder, *sockets):
    """For `beside`: from now on, what comes to these sockets is noted, so that `arrived` knows."""
    def from_one(one):
        while data := one.recv(4096):
            note(folder, data)

    def from_all(server):
        server.listen()
        while True:
            connection, _ = server.accept()
            threading.Thread(target=from_one, args=(connection,), daemon=True).start()

    os.makedirs(f"{folder}/arrived", exist_ok=True)
    for one in sockets:
        target = from_one if one.type == socket.SOCK_DGRAM else from_all
        threading.Thread(target=target, args=(one,), daemon=True).start()


def note(folder, data):
    """That something arrived."""
    with open(f"{folder}/arrived/{data.hex()}", "x", encoding="ascii"):
        pass


def arrived(folder, data):
    """It must have come to where `take_in` waits, or it will within seconds."""
    deadline = time.monotonic() + 10
    while not os.path.exists(f"{folder}/arrived/{data.hex()}"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{data} did not arrive")
        time.sleep(0.002)


def token():
    """Twelve bytes that nothing else has sent."""
    return os.urandom(6).hex().encode()


def udp_packet(source, destination, port, data):
    """The bytes of an IPv4 packet with a datagram."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
    return header + udp_datagram(port, data)


def udp_datagram(port, data):
    """The bytes of a datagram, without a checksum."""
    return struct.pack("!HHHH", port, port, 8 + len(data), 0) + data
