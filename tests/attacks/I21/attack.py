"""Gets the process id of somebody who could read the key a moment ago."""

import errno
import os

from kernel import check, in_child, make_keys, read, read_key, write
from surface import ask, serve


def prepare(folder):
    make_keys(folder)


def beside(folder):
    def answer(_words, _connection):
        """Has a process read the key, end, and its id be the next one."""
        pid = os.fork()
        if pid == 0:
            try:
                read_key(folder)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        write("/proc/sys/kernel/ns_last_pid", str(pid - 1))
        return pid

    serve(folder, answer)
    ready()


def with_its_id(folder, function, *arguments):
    """Has a child with such an id do it."""
    for _ in range(100):
        pid = int(ask(folder, "pid"))
        try:
            return in_child(as_process, pid, function, *arguments)
        except ProcessLookupError:
            continue
    check(False, "others were faster")


def as_process(pid, function, *arguments):
    if os.getpid() != pid:
        raise ProcessLookupError(errno.ESRCH, "another process was faster")
    function(*arguments)


def attack(folder):
    with_its_id(folder, read_key, folder)


def twin(folder):
    with_its_id(folder, read, f"{folder}/open/own")
