"""What kills a process that does what it may not can come when it is done: a file is made, and has been made."""

import errno
import os
import signal

from kernel import keys, new_name, write


def prepare(folder):
    keys(folder)


def create(folder):
    name = new_name(folder)
    pid = os.fork()
    if pid == 0:
        write(name)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGKILL and not os.path.exists(name):
        raise PermissionError(errno.EPERM, "killed, and nothing was done")
    assert status == 0 and os.path.exists(name), f"ended with {status}, {os.path.exists(name)}"


def attack(folder):
    create(f"{folder}/keys")


def twin(folder):
    create(f"{folder}/open")
