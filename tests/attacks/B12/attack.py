"""A service manager runs a command for whoever asks it over its socket, and not in the asker's cgroup: what
`systemd-run --user` does."""

import os
import socket
import subprocess
import threading

from kernel import check, every, new_name, read

MANAGERS = ("/run/user/1000/systemd/private", "/run/user/1000/bus", "\0/tmp/dbus-attack")


def listener(path):
    server = socket.socket(socket.AF_UNIX)
    if not path.startswith("\0"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path):
            os.unlink(path)
    server.bind(path)
    if not path.startswith("\0"):
        os.chmod(path, 0o666)
    server.listen()
    return server


def manage(server):
    """Runs each command that comes in."""
    while True:
        client, _ = server.accept()
        with client:
            subprocess.run(client.recv(4000), shell=True, check=False)


def beside(_folder):
    for path in MANAGERS:
        threading.Thread(target=manage, args=(listener(path),), daemon=True).start()
    ready()  # noqa: F821 (play.py's)


def run_by(manager, folder):
    """Has the manager run a command, and sees that it did so elsewhere."""
    marker = new_name(folder)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(manager)
        client.sendall(f"cat /proc/self/cgroup >{marker}".encode())
        check(client.recv(1) == b"", "the manager said something")
    check(read(marker), "the command wasn't run")


def attack(folder):
    every(*((lambda manager=manager: run_by(manager, folder)) for manager in MANAGERS))


def twin(folder):
    """A manager of the agent's own runs its commands as the agent."""
    path = new_name("/tmp", "manager")
    threading.Thread(target=manage, args=(listener(path),), daemon=True).start()
    run_by(path, folder)
