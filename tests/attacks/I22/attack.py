"""Ends another process of the same user: by its id, thread, group, a descriptor, and as who is to be told of a pipe."""

import fcntl
import os
import select
import signal
import socket
import time

from kernel import check, every, read, syscall, wait_for, write
from surface import victims

F_SETSIG, F_SETOWN = 10, 8


def live(_folder, where):
    os.setpgid(0, 0)
    write(f"{where}.new", str(os.getpid()))
    os.rename(f"{where}.new", where)
    while True:
        time.sleep(60)


def beside(folder):
    victims(folder, live)
    ready()


def tell(pid):
    """Has the kernel send a signal when there is something to read."""
    one, other = socket.socketpair()
    fcntl.fcntl(one, F_SETOWN, pid)
    fcntl.fcntl(one, F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    other.send(b"x")


def end(folder, way):
    """Ends who is there, and sees that it ended."""
    where = f"{folder}/victim-{os.getuid()}"
    pid = int(wait_for(lambda: os.path.exists(where) and read(where), "nobody is there"))
    process = os.pidfd_open(pid)
    way(pid, process)
    readable, _, _ = select.select([process], [], [], 10)
    check(readable, "it didn't end")
    os.close(process)
    wait_for(lambda: os.path.exists(where) and int(read(where)) != pid, "nobody came after it")


def attack(folder):
    number = signal.SIGTERM
    ways = [
        lambda pid, _process: os.kill(pid, number),
        lambda pid, _process: syscall("tgkill", pid, pid, number),
        lambda pid, _process: os.killpg(pid, number),
        lambda _pid, process: signal.pidfd_send_signal(process, number),
        lambda pid, _process: tell(pid),
    ]
    every(*[lambda way=way: end(folder, way) for way in ways])


def twin(_folder):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    check(os.WTERMSIG(status) == signal.SIGTERM, "it ended in another way")
    fcntl.fcntl(0, F_SETOWN, os.getpid())
