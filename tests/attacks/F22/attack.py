"""A file system of the attacker's own (FUSE), in which a file says another thing each time it is read."""

import os
import signal
import struct

from kernel import CLONE_NEWNS, MS_PRIVATE, MS_REC, in_child, module, mount, read, syscall, write

# include/uapi/linux/fuse.h
GETATTR, OPEN, READ, INIT, DESTROY = 3, 14, 15, 26, 38
FOPEN_DIRECT_IO = 1


def prepare(folder):
    module("fuse")
    write(f"{folder}/file")
    os.mknod(f"{folder}/fuse", 0o020600, os.makedev(10, 229))
    os.chmod(f"{folder}/fuse", 0o666)


def answer(operation, body, times):
    """What the only file of the file system, its root, is like."""
    if operation == INIT:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 4096, 0, 0, 0, 4096, 1, 0, 0, 0)
    if operation == GETATTR:
        return struct.pack("<QII6Q10I", 0, 0, 0, 1, 6, 1, 0, 0, 0, 0, 0, 0, 0o100644, 1, 0, 0, 0, 4096, 0)
    if operation == OPEN:
        return struct.pack("<QII", 1, FOPEN_DIRECT_IO, 0)
    if operation == READ:
        _, offset = struct.unpack_from("<QQ", body)
        return b"" if offset else b"%05d\n" % next(times)
    return None


def serve(device):
    times = iter(range(100000))
    while True:
        request = os.read(device, 1 << 17)
        _, operation, unique = struct.unpack_from("<IIQ", request)
        data = answer(operation, request[40:], times)
        if operation == DESTROY:
            return
        if data is None:
            # ENOSYS. What wants no answer, such as RELEASE, takes this one as well or refuses it.
            data, error = b"", -38
        else:
            error = 0
        try:
            os.write(device, struct.pack("<IiQ", 16 + len(data), error, unique) + data)
        except OSError:
            pass


def changing(folder):
    device = os.open(f"{folder}/fuse", os.O_RDWR)
    syscall("unshare", CLONE_NEWNS)
    mount(None, "/", flags=MS_REC | MS_PRIVATE)
    mount("fuse", f"{folder}/file", "fuse", data=f"fd={device},rootmode=100644,user_id=0,group_id=0")
    server = os.fork()
    if server == 0:
        serve(device)
        os._exit(0)
    try:
        first, second = read(f"{folder}/file"), read(f"{folder}/file")
        assert first != second and len(first) == len(second) == 6, (first, second)
    finally:
        os.kill(server, signal.SIGKILL)


def attack(folder):
    in_child(changing, folder)


def twin(folder):
    read(f"{folder}/file")
    os.close(os.open("/dev/null", os.O_RDWR))
