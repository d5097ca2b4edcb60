"""Reads a password where everybody may read it: among the arguments of another process."""

import os
import subprocess

from kernel import check, read, write

PASSWORD = b"--password=s3cret"


def beside(folder):
    command = ["sh", "-c", "while :; do sleep 60; done", PASSWORD.decode()]
    with subprocess.Popen(command) as process:
        write(f"{folder}/pid", str(process.pid))
        ready()


def attack(folder):
    pid = read(f"{folder}/pid").decode()
    check(PASSWORD in read(f"/proc/{pid}/cmdline"), "the password isn't there")


def twin(folder):
    read(f"{folder}/pid")
    for name in ("self/cmdline", f"{os.getpid()}/status", "meminfo"):
        read(f"/proc/{name}")
