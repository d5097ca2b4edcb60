"""An interpreter that may be run does what a program that may not be run would do: the rules on files hold for it."""

from kernel import every, keys, program


def prepare(folder):
    keys(folder)


def ways(path):
    commands = (
        ("python3", "-ISc", f"print(open({path!r}).read())"),
        ("sh", "-c", f"cat {path}"),
        ("awk", "{ print }", path),
        ("find", path, "-exec", "cat", "{}", "+"),
        ("xargs", "-a", path, "echo"),
    )
    return [lambda command=command: said(command) for command in commands]


def said(command):
    assert "/" in program(*command)


def attack(folder):
    every(*ways(f"{folder}/keys/key"))


def twin(folder):
    every(*ways(f"{folder}/open/own"))
