"""What an agent may not do is done by what it starts: by xargs and `find -exec`, by wrappers that run their arguments,
by grandchildren, by a line of a longer script."""

import os
import subprocess

from kernel import check, every, everybodys, in_child, new_name, program, write

#: Each runs the rest of its arguments.
WRAPPERS = (
    ["env"],
    ["setsid"],
    ["linux64"],
    ["timeout", "50"],
    ["sh", "-c", '"$0" "$@"'],
    ["sh", "-c", 'exec "$0" "$@"'],
    ["sh", "-c", '(true; { "$0" "$@"; })'],
    ["sh", "-c", 'eval "\\"\\$0\\" \\"\\$@\\""'],
    ["find", "/dev/null", "-exec"],
    ["xargs"],
    ["env", "linux64", "sh", "-c", 'setsid timeout 50 "$0" "$@"'],
)


def prepare(folder):
    for name in ("tools", "open"):
        os.makedirs(f"{folder}/{name}")
        program("cp", "/usr/bin/curl", f"{folder}/{name}/fetch")
    write(f"{folder}/project/.env.local", "TOKEN=secret\n")
    write(f"{folder}/project/example", "TOKEN=none\n")
    everybodys(*(f"{folder}/{name}" for name in ("tools", "open", "project")))


def ran(folder, run):
    """Has `run` run a program that makes a file, and sees whether it did."""
    made = new_name(f"{folder}/open", "made")
    done = run(["-s", "-o", made, "file:///proc/version"])
    if os.path.exists(made):
        return
    said = done.stderr + done.stdout
    check("not permitted" in said, f"{done.args} ended with {done.returncode}: {said}")
    raise PermissionError(1, "Operation not permitted")


def by(wrapper, tool):
    """Has a wrapper run the tool."""

    def run(work):
        command = [*wrapper, tool, *work]
        given = ""
        if wrapper[0] == "find":
            command.append(";")
        if wrapper[0] == "xargs":
            given, command = " ".join(work), [*wrapper, tool]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    return run


def by_grandchild(tool):
    """A child's child starts it by posix_spawn."""

    def start(work):
        in_child(lambda: os.waitpid(os.posix_spawn(tool, [tool, *work], os.environ), 0))

    def run(work):
        in_child(in_child, start, work)
        return subprocess.CompletedProcess(tool, 0, "", "")

    return run


def ways(folder, tool):
    runs = [*(by(wrapper, tool) for wrapper in WRAPPERS), by_grandchild(tool)]
    return [(lambda run=run: ran(folder, run)) for run in runs]


def in_a_script(path):
    """A file that may not be read, in the middle of a longer command."""
    script = f"cd /; echo begin; grep -oE '^[A-Z_]+' {path} || exit 1; echo end"
    check("TOKEN" in program("sh", "-c", script), "nothing was read")


def attack(folder):
    every(*ways(folder, f"{folder}/tools/fetch"), lambda: in_a_script(f"{folder}/project/.env.local"))


def twin(folder):
    for way in ways(folder, f"{folder}/open/fetch"):
        way()
    in_a_script(f"{folder}/project/example")
