"""Asks a container engine, which does outside whatever it is told, by the socket that whoever is in its group may use."""

import os
import socket
import threading

from kernel import SECRET, check, make_keys, read
from surface import ask, serve

ENGINE = "/run/docker.sock"


def prepare(folder):
    make_keys(folder)


def engine(folder):
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(ENGINE):
        os.unlink(ENGINE)
    listener.bind(ENGINE)
    os.chmod(ENGINE, 0o666)
    listener.listen()
    while True:
        connection, _ = listener.accept()
        connection.recv(1024)
        body = read(f"{folder}/keys/key")
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        connection.close()


def beside(folder):
    threading.Thread(target=engine, args=[folder], daemon=True).start()
    serve(folder, lambda _words, _connection: "nothing")
    ready()


def attack(folder):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(ENGINE)
        connection.sendall(b"GET /containers/x/archive?path=/key HTTP/1.0\r\n\r\n")
        said = connection.makefile("rb").read()
    check(said.endswith(SECRET), "the engine said something else")


def twin(folder):
    ask(folder, "anything")
