"""A program that is trusted is made to run the attacker's code: by a library that is preloaded, by a module that an
interpreter loads at its start, by a file that a shell reads first. /proc/PID/exe is the trusted program's all along."""

import os
import struct
import subprocess

from kernel import check, every, everybodys, new_name, program, read, write

SECRET = b"secret\n"
PAGE = 4096


def prepare(folder):
    write(f"{folder}/keys/key", SECRET.decode())
    write(f"{folder}/open/key", SECRET.decode())
    everybodys(f"{folder}/keys", f"{folder}/open")


def code(source, target):
    """Machine code that copies the file, or ends the process with what opening it said."""
    strings = [name.encode() + b"\0" for name in (source, target)]
    instructions = [
        ("48 8d 3d", 0),  # lea rdi, [rip + source]
        ("31 f6 b8 02 00 00 00 0f 05", None),  # open(rdi, O_RDONLY)
        ("85 c0 78 30 41 89 c0", None),  # to the end if that failed; mov r8d, eax
        ("48 8d 3d", 1),  # lea rdi, [rip + target]
        ("be 41 00 00 00 ba b6 01 00 00 b8 02 00 00 00 0f 05", None),  # open(rdi, O_WRONLY | O_CREAT, 0666)
        ("89 c7 44 89 c6 31 d2 41 ba 00 01 00 00", None),  # to eax, from r8d, no offset, 256 bytes
        ("b8 28 00 00 00 0f 05 c3", None),  # sendfile; return
        ("89 c7 f7 df b8 e7 00 00 00 0f 05", None),  # exit_group(-eax)
    ]
    size = sum(len(bytes.fromhex(text)) + (0 if which is None else 4) for text, which in instructions)
    places = [size, size + len(strings[0])]
    made = b""
    for text, which in instructions:
        made += bytes.fromhex(text)
        if which is not None:
            made += struct.pack("<i", places[which] - len(made) - 4)
    return made + b"".join(strings)


def library(path, source, target):
    """Makes a shared library whose initialisation is that code."""
    text = code(source, target)
    dynamic = 64 + 4 * 56
    tags = [
        (12, PAGE),  # DT_INIT
        (5, 0x800),  # DT_STRTAB
        (6, 0x900),  # DT_SYMTAB
        (10, 1),  # DT_STRSZ
        (11, 24),  # DT_SYMENT
        (0, 0),
    ]
    table = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 4, 0, 0, 0,
    )  # fmt: skip
    segments = [
        (1, 6, 0, 0, 0, PAGE, PAGE, PAGE),  # PT_LOAD, to be written
        (1, 5, PAGE, PAGE, PAGE, len(text), len(text), PAGE),  # PT_LOAD, code
        (2, 6, dynamic, dynamic, dynamic, len(table), len(table), 8),  # PT_DYNAMIC
        (0x6474E551, 6, 0, 0, 0, 0, 0, 16),  # PT_GNU_STACK
    ]
    headers = header + b"".join(struct.pack("<IIQQQQQQ", *segment) for segment in segments)
    with open(path, "wb") as file:
        file.write((headers + table).ljust(PAGE, b"\0") + text)


def by_library(folder, key):
    path, target = new_name(f"{folder}/open"), new_name(f"{folder}/open")
    library(path, key, target)
    run_with({"LD_PRELOAD": path}, target, "curl", "--version")


def by_module(folder, key):
    path, target = new_name(f"{folder}/open"), new_name(f"{folder}/open")
    script = f"import os\ntry:\n    open('{target}', 'wb').write(open('{key}', 'rb').read())\n"
    write(f"{path}/sitecustomize.py", script + "except OSError as error:\n    os._exit(error.errno)\n")
    run_with({"PYTHONPATH": path}, target, "python3", "-c", "pass")


def by_shell(folder, key):
    path, target = new_name(f"{folder}/open"), new_name(f"{folder}/open")
    write(path, f"read -r line <{key} && echo $line >{target} || exit 1\n")
    run_with({"ENV": path}, target, "sh", "-ic", "true")


def run_with(environment, target, *command):
    """Runs a trusted program, and sees that the key has been copied."""
    try:
        program(*command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL)
    except RuntimeError as error:
        # The code that was brought in ends with the error's number and says nothing.
        if "ended with 1: " not in str(error):
            raise
        raise PermissionError(1, "Operation not permitted") from error
    check(read(target) == SECRET, "that is not the secret")


def attack(folder):
    ways = (by_library, by_module, by_shell)
    every(*((lambda way=way: way(folder, f"{folder}/keys/key")) for way in ways))


def twin(folder):
    for way in (by_library, by_module, by_shell):
        way(folder, f"{folder}/open/key")
