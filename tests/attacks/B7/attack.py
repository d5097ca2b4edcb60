"""A supervisor has keys in its environment that it doesn't hand down. It is read through /proc/self, which in somebody
else's hands is somebody else, and by its number."""

import os
import subprocess

from kernel import check, every, read, write

SECRET = b"API_KEY=topsecret"


def beside(folder):
    """A supervisor of each user's."""
    environment = {**os.environ, "API_KEY": "topsecret"}
    for user in (0, 1000):
        supervisor = subprocess.Popen(["sleep", "1000"], env=environment, user=user, group=user)
        write(f"{folder}/{user}", str(supervisor.pid))
    ready()  # noqa: F821 (play.py's)


def attack(folder):
    pid = int(read(f"{folder}/{os.getuid()}"))
    for own in ("self", "thread-self", f"{os.getpid()}/task/{os.getpid()}"):
        if SECRET in read(f"/proc/{own}/environ"):
            return

    def is_there(path):
        check(SECRET in read(path), f"the key isn't in {path}")

    every(
        lambda: is_there(f"/proc/{pid}/environ"),
        lambda: is_there(f"/proc/{pid}/task/{pid}/environ"),
        lambda: is_there(f"/proc/self/../{pid}/environ"),
    )


def twin(_folder):
    for own in ("self", "thread-self"):
        check(read(f"/proc/{own}/environ"), "nothing in it")
