"""Gets a link of a cgroup's program by its number, and detaches it. The program here is nobody's, and the cgroup
too."""

import ctypes
import os
import struct

from kernel import check, read
from surface import BPF_LINK_BY_ID, BPF_LINK_CREATE, BPF_LINK_DETACH, BPF_LINK_NEXT, BPF_PROG_LOAD, bpf, bpf_for_everybody, bpf_info

CGROUP = "/sys/fs/cgroup/attack-m13"
CGROUP_SKB, EGRESS, LINK_OF_CGROUP = 8, 1, 3


def prepare(_folder):
    os.makedirs(CGROUP, exist_ok=True)


def beside(_folder):
    bpf_for_everybody()
    # r0 = 1; exit
    code = ctypes.create_string_buffer(bytes.fromhex("b700000001000000 9500000000000000"), 16)
    license_ = ctypes.create_string_buffer(b"GPL")
    at = [ctypes.addressof(it) for it in (code, license_)]
    program, _ = bpf(BPF_PROG_LOAD, "IIQQ44xI", CGROUP_SKB, 2, *at, EGRESS)
    bpf(BPF_LINK_CREATE, "IIII", program, os.open(CGROUP, os.O_RDONLY), EGRESS, 0)
    ready()


def cgroup_of(link):
    """The cgroup that a link is attached to: none when it is detached."""
    # struct bpf_link_info
    kind, _, _, _, cgroup = struct.unpack_from("IIIIQ", bpf_info(link))
    return cgroup if kind == LINK_OF_CGROUP else None


def attack(_folder):
    number, wanted = 0, os.stat(CGROUP).st_ino
    while True:
        _, (_, number) = bpf(BPF_LINK_NEXT, "II", number, 0)
        link, _ = bpf(BPF_LINK_BY_ID, "I", number)
        if cgroup_of(link) == wanted:
            break
    bpf(BPF_LINK_DETACH, "I", link)
    check(cgroup_of(link) == 0, "it is attached")


def twin(_folder):
    read(f"{CGROUP}/cgroup.procs")
