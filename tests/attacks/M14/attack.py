"""Changes what the kernel runs as root, and how it compiles programs."""

from kernel import check, every, read, write

MODPROBE, JIT, OTHER = "/proc/sys/kernel/modprobe", "/proc/sys/net/core/bpf_jit_harden", "/proc/sys/vm/swappiness"


def change(path, value):
    was = read(path).decode()
    write(path, value)
    check(read(path).decode().strip() == value, "it is as it was")
    write(path, was)


def attack(folder):
    every(
        lambda: change(MODPROBE, f"{folder}/program"),
        lambda: change(JIT, "2"),
        lambda: change(OTHER, "61"),
    )


def twin(folder):
    for path in (MODPROBE, OTHER):
        read(path)
    write(f"{folder}/sysctl.conf", "vm.swappiness = 61\n")
