"""A shell reads and writes by itself, without another program that a rule could name."""

from kernel import every, keys, new_name, program, read


def prepare(folder):
    keys(folder)


def shell(script):
    return program("sh", "-c", script)


def reading(path):
    assert "/" in shell(f"read line <{path} && echo $line")


def appending(path):
    shell(f"echo planted >>{path}")
    assert read(path).endswith(b"planted\n")


def creating(path):
    shell(f"set -C; echo planted >{path}")
    assert read(path) == b"planted\n"


def ways(folder, file):
    new = new_name(folder)
    return lambda: reading(file), lambda: appending(file), lambda: creating(new)


def attack(folder):
    every(*ways(f"{folder}/keys", f"{folder}/keys/key"))


def twin(folder):
    every(*ways(f"{folder}/open", f"{folder}/open/own"))
