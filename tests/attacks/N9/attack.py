"""Devices and addresses of the agent's own making: a service of its own at an address that rules allow."""

import os
import socket

from kernel import every, program


def address():
    program("ip", "address", "add", "10.20.9.9/32", "dev", "lo")
    try:
        with socket.socket() as server:
            server.bind(("10.20.9.9", 5432))
    finally:
        program("ip", "address", "delete", "10.20.9.9/32", "dev", "lo")


def route():
    program("ip", "route", "add", "unreachable", "10.20.8.0/24")
    shown = program("ip", "route")
    program("ip", "route", "delete", "unreachable", "10.20.8.0/24")
    if "10.20.8.0/24" not in shown:
        raise RuntimeError(f"there is no route: {shown}")


def device():
    program("ip", "link", "add", "attackn9", "type", "dummy")
    if not os.path.exists("/sys/class/net/attackn9"):
        raise RuntimeError("there is no device")
    program("ip", "link", "delete", "attackn9")


def prepare(_folder):
    program("modprobe", "dummy")


def attack(_folder):
    every(address, route, device)


def twin(_folder):
    if "lo" not in program("ip", "address"):
        raise RuntimeError("no address is shown")
    program("ip", "route")
