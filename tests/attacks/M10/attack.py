"""Stops the daemon, has it get no time and no memory, and has the kernel send it signals."""

import fcntl
import os
import resource
import signal
import socket
import struct

from kernel import check, every, in_child, read, wait_for, write

F_SETOWN, F_GETOWN = 8, 9
F_SETOWN_EX, F_GETOWN_EX, F_OWNER_PID = 15, 16, 1


def beside(folder):
    def is_daemon(pid):
        try:
            arguments = read(f"/proc/{pid}/cmdline").split(b"\0")
        except OSError:
            return False
        return os.path.basename(arguments[0]) == b"agentguard" and arguments[1] == b"daemon"

    daemon = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_daemon(pid)]
    write(f"{folder}/daemon", daemon[0])
    ready()


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: read(f"/proc/{pid}/stat").split(b") ")[1][:1] == b"T", "it wasn't stopped")
    finally:
        os.kill(pid, signal.SIGCONT)


def take_time(pid):
    was = os.getpriority(os.PRIO_PROCESS, pid)
    os.setpriority(os.PRIO_PROCESS, pid, 19)
    check(os.getpriority(os.PRIO_PROCESS, pid) == 19, "it is as nice as before")
    os.setpriority(os.PRIO_PROCESS, pid, was)


def take_descriptors(pid):
    was = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (was[0] - 1, was[1]))
    check(resource.prlimit(pid, resource.RLIMIT_NOFILE, was)[0] == was[0] - 1, "it may open as many")


def take_memory(pid):
    path = f"/proc/{pid}/oom_score_adj"
    was = os.open(path, os.O_RDWR)
    before = os.pread(was, 16, 0)
    os.write(was, b"1000")
    check(os.pread(was, 16, 0) == b"1000\n", "the score is as before")
    os.write(was, before)


def name_owner(pid):
    one, _other = socket.socketpair()
    fcntl.fcntl(one, F_SETOWN_EX, struct.pack("ii", F_OWNER_PID, pid))
    owner = fcntl.fcntl(one, F_GETOWN_EX, bytes(8))
    check(struct.unpack("ii", owner)[1] == pid, "nobody is its owner")


def attack(folder):
    pid = int(read(f"{folder}/daemon"))
    ways = [lambda: name_owner(pid)]
    if os.getuid() == 0:
        ways += [lambda way=way: way(pid) for way in (stop, take_time, take_descriptors, take_memory)]
    every(*ways)


def twin(_folder):
    own = os.getpid()
    in_child(os.kill, own, signal.SIGCONT)
    in_child(os.setpriority, os.PRIO_PROCESS, own, 5)
    one, _other = socket.socketpair()
    fcntl.fcntl(one, F_SETOWN, own)
    check(fcntl.fcntl(one, F_GETOWN) == own, "nobody is its owner")
