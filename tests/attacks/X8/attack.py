"""A script of an interpreter that may be run, and a script that may be run of an interpreter that may not."""

import os
import shutil

from kernel import every, program, write


def prepare(folder):
    for place in ("denied", "open"):
        os.mkdir(f"{folder}/{place}")
        shutil.copy("/bin/busybox", f"{folder}/{place}/sh")
    for script, interpreter in (("denied/script", "open/sh"), ("open/script", "open/sh"), ("open/other", "denied/sh")):
        write(f"{folder}/{script}", f"#!{folder}/{interpreter}\necho running\n")
        os.chmod(f"{folder}/{script}", 0o755)


def run(path):
    assert program(path) == "running\n"


def attack(folder):
    every(lambda: run(f"{folder}/denied/script"), lambda: run(f"{folder}/open/other"))


def twin(folder):
    run(f"{folder}/open/script")
