"""The 32-bit table of system calls from a 64-bit program, which what knows calls by their numbers takes for others."""

import ctypes
import mmap
import os

from kernel import write

MAP_32BIT = 0x40
OPEN = 5  # arch/x86/entry/syscalls/syscall_32.tbl
CODE = bytes.fromhex(
    "53"  # push %rbx
    "89f8"  # mov %edi,%eax: the number
    "89f3"  # mov %esi,%ebx: the first argument
    "4189c8"  # mov %ecx,%r8d
    "89d1"  # mov %edx,%ecx: the second
    "4489c2"  # mov %r8d,%edx: the third
    "cd80"  # int $0x80
    "5b"  # pop %rbx
    "c3"  # ret
)


def prepare(folder):
    write(f"{folder}/keys/key", "secret")
    write(f"{folder}/open/key", "ordinary")


def read(path):
    """Reads a file that the 32-bit call opened."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT
    memory = mmap.mmap(-1, 8192, flags, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(CODE)
    memory[4096 : 4096 + len(path)] = path.encode()
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(start)
    result = call(OPEN, start + 4096, os.O_RDONLY, 0)
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    with os.fdopen(result) as file:
        return file.read()


def attack(folder):
    if read(f"{folder}/keys/key") != "secret":
        raise RuntimeError("it is another file")


def twin(folder):
    if read(f"{folder}/open/key") != "ordinary":
        raise RuntimeError("it is another file")
