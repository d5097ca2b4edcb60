"""Gets AgentGuard's maps by their numbers, and writes into one."""

import ctypes
import struct

from kernel import check, read
from surface import BPF_MAP_BY_ID, BPF_MAP_LOOKUP, BPF_MAP_NEXT, BPF_MAP_UPDATE, bpf, bpf_for_everybody, bpf_info


def beside(_folder):
    bpf_for_everybody()
    ready()


def profiles():
    """The map, and how many entries it has."""
    number = 0
    while True:
        _, (_, number) = bpf(BPF_MAP_NEXT, "II", number, 0)
        descriptor, _ = bpf(BPF_MAP_BY_ID, "I", number)
        info = bpf_info(descriptor)
        # struct bpf_map_info
        if info[24:40].rstrip(b"\0") == b"PROFILES":
            return descriptor, struct.unpack_from("I", info, 16)[0]


def attack(_folder):
    descriptor, entries = profiles()
    key, value = ctypes.c_uint32(entries - 1), ctypes.c_uint64()

    def access(command):
        at = [ctypes.addressof(it) for it in (key, value)]
        bpf(command, "IIQQQ", descriptor, 0, *at, 0)
        return value.value

    was = access(BPF_MAP_LOOKUP)
    value.value = was + 1
    access(BPF_MAP_UPDATE)
    check(access(BPF_MAP_LOOKUP) == was + 1, "nothing was written")
    value.value = was
    access(BPF_MAP_UPDATE)


def twin(_folder):
    read("/proc/sys/kernel/unprivileged_bpf_disabled")
