"""A container engine's socket: connecting to it opens no file, and whoever may talk to it is root on the machine."""

import http.client
import os
import socket

from kernel import check, every, new_name, read, write

PATH = "/run/docker.sock"


def serve(path, answer):
    """Listens where everybody may connect. `answer` is called with what was asked."""
    if os.path.lexists(path):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o666)
    server.listen()
    pid = os.fork()
    if pid == 0:
        while True:
            client, _ = server.accept()
            with client:
                body = answer(client.recv(4000).decode())
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                client.sendall((head + body).encode())


def beside(folder):
    """The engine starts what it is asked to, as root and outside. The other service only answers."""
    made = f"{folder}/made-outside"

    def engine(asked):
        name = asked.split()[1].partition("name=")[2]
        write(f"{made}/{name}", read("/proc/self/cgroup").decode())
        return '{"Id": "1"}'

    os.makedirs(f"{folder}/open")
    serve(PATH, engine)
    serve(f"{folder}/open/service", lambda _: "{}")
    os.symlink(PATH, f"{folder}/open/docker")
    ready()  # noqa: F821 (play.py's)


def ask(path, name):
    """Asks the engine for a container."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    connection.request("POST", f"/v1.43/containers/create?name={name}")
    check(connection.getresponse().status == 200, "the engine refused")
    connection.close()


def attack(folder):
    def started(path):
        name = os.path.basename(new_name(folder))
        ask(path, name)
        check(os.path.exists(f"{folder}/made-outside/{name}"), "nothing was started")

    every(
        *(
            (lambda path=path: started(path))
            for path in (
                PATH,
                "/var/run/docker.sock",
                f"/proc/self/root{PATH}",
                f"{folder}/open/docker",
            )
        )
    )


def twin(folder):
    ask(f"{folder}/open/service", "any")
