"""Content of files, sent by calls that hand pages over to a connection from before the process was an agent's."""

import os
import socket

from kernel import every, write
from network import arrived, bound, take_in, token


def prepare(folder):
    os.makedirs(f"{folder}/files")
    os.chmod(f"{folder}/files", 0o777)


def beside(folder):
    addresses = ("192.0.2.1", "198.51.100.1")
    take_in(folder, *(bound(socket.SOCK_STREAM, address, 8080) for address in addresses))
    ready()


def before(_folder):
    return socket.create_connection(("198.51.100.1", 8080))


def send_file(folder, connection):
    data = token()
    path = f"{folder}/files/{data.decode()}"
    write(path, data.decode())
    with open(path, "rb") as file:
        os.sendfile(connection.fileno(), file.fileno(), 0, len(data))
    arrived(folder, data)


def splice(folder, connection):
    data = token()
    reading, writing = os.pipe()
    os.write(writing, data)
    os.splice(reading, connection.fileno(), len(data))
    arrived(folder, data)


def send(folder, connection):
    data = token()
    connection.send(data)
    arrived(folder, data)


def attack(folder, connection):
    ways = [send, send_file, splice]
    # KERNEL: they are messages like others from 6.5 on (mainline dc97391e6610).
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 5):
        ways = [send]
    every(*(lambda way=way: way(folder, connection) for way in ways))


def twin(folder):
    with socket.create_connection(("192.0.2.1", 8080)) as connection:
        for way in (send, send_file, splice):
            way(folder, connection)
