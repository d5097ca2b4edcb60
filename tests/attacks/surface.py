"""What attacks on the kernel's own surface need: rings, bpf(), userfaultfd, and processes that are nobody's agent and do
what they are told."""

import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import threading

from kernel import AT_FDCWD, LIBC, check, page, refused, syscall, write


def serve(folder, answer):
    """Has a thread answer what is asked by `ask`: `answer` gets the words and the connection."""
    listener = socket.socket(socket.AF_UNIX)
    path = f"{folder}/beside"
    listener.bind(path)
    os.chmod(path, 0o777)
    listener.listen()

    def loop():
        while True:
            connection, _ = listener.accept()
            words = connection.makefile().readline().split()
            try:
                said = answer(words, connection)
            except OSError as error:
                said = f"errno {error.errno}"
            except BaseException as error:  # whoever asked says it
                said = f"error {error!r}"
            connection.sendall(f"{said}\n".encode())
            connection.close()

    threading.Thread(target=loop, daemon=True).start()


def ask(folder, *words, descriptor=False):
    """What `serve` answers, or the descriptor that comes before it. Raises here what failed there."""
    first, descriptors = b"", []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{folder}/beside")
        connection.sendall(" ".join(map(str, words)).encode() + b"\n")
        if descriptor:
            first, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        said = (first.decode() + connection.makefile().readline()).strip()
    if said.startswith("errno "):
        error = int(said.split()[1])
        raise OSError(error, os.strerror(error), words[0])
    check(not said.startswith("error "), said)
    if descriptors:
        return descriptors[0]
    if descriptor:
        # The kernel leaves out of the message what may not be received.
        refused(words[0])
    return said


def give(connection, descriptor):
    """Sends a descriptor to whoever asked."""
    socket.send_fds(connection, [b"x"], [descriptor])


class Ring:
    """An io_uring that does one thing at a time."""

    READ, OPENAT, MSG_RING = 22, 18, 40
    FIXED_FILE, ASYNC = 1, 16
    SQPOLL = 2

    def __init__(self, flags=0):
        parameters = ctypes.create_string_buffer(120)
        struct.pack_into("I", parameters, 8, flags)
        self.fd = syscall("io_uring_setup", 4, parameters)
        whole = struct.unpack("30I", parameters)
        self.sq, self.cq = whole[10:20], whole[20:30]
        sharing = {"flags": mmap.MAP_SHARED, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
        self.queue = mmap.mmap(self.fd, self.sq[6] + 4 * whole[0], offset=0, **sharing)
        self.done = mmap.mmap(self.fd, self.cq[5] + 16 * whole[1], offset=0x8000000, **sharing)
        self.entries = mmap.mmap(self.fd, 64 * whole[0], offset=0x10000000, **sharing)

    def register(self, descriptor):
        """Makes a descriptor its file 0."""
        files = (ctypes.c_int * 1)(descriptor)
        syscall("io_uring_register", self.fd, 2, files, 1)

    def do(self, operation, fd=-1, flags=0, offset=0, address=0, length=0, more=0, slot=0, third=0):
        """Has the kernel do it, and returns what came of it."""
        entry = struct.pack(
            "<BBHiQQIIQHHiQQ",
            *(operation, flags, 0, fd, offset, address, length, more),
            *(1, 0, 0, slot, third, 0),
        )
        tail = struct.unpack_from("I", self.queue, self.sq[1])[0]
        index = tail & struct.unpack_from("I", self.queue, self.sq[2])[0]
        self.entries[64 * index : 64 * index + 64] = entry
        struct.pack_into("I", self.queue, self.sq[6] + 4 * index, index)
        struct.pack_into("I", self.queue, self.sq[1], tail + 1)
        to_submit, own = 1, False
        # Messages of other rings come in between.
        while not own:
            # IORING_ENTER_GETEVENTS, IORING_ENTER_SQ_WAKEUP
            syscall("io_uring_enter", self.fd, to_submit, 1, 3, None, 0)
            head = struct.unpack_from("I", self.done, self.cq[0])[0]
            index = head & struct.unpack_from("I", self.done, self.cq[2])[0]
            own, result = struct.unpack_from("Qi", self.done, self.cq[5] + 16 * index)
            struct.pack_into("I", self.done, self.cq[0], head + 1)
            to_submit = 0
        if result < 0:
            raise OSError(-result, os.strerror(-result), f"operation {operation}")
        return result

    def read(self, fd, flags=0):
        """What is in a file."""
        buffer = ctypes.create_string_buffer(64)
        address = ctypes.addressof(buffer)
        length = self.do(self.READ, fd, flags, address=address, length=64)
        return buffer.raw[:length]

    def open(self, path, flags=0):
        """Opens a file for reading."""
        name = ctypes.create_string_buffer(os.fsencode(path))
        return self.do(self.OPENAT, AT_FDCWD, flags, address=ctypes.addressof(name))


def victims(folder, live):
    """Keeps a process of root's and one of the ordinary user's alive, which do `live(folder, f"{folder}/victim-UID")`."""

    def keep(user):
        while True:
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups([])
                    os.setgid(user)
                    os.setuid(user)
                    # PR_SET_PDEATHSIG, PR_SET_DUMPABLE: changing the user took away who may look at it.
                    LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
                    LIBC.prctl(4, 1, 0, 0, 0)
                    live(folder, f"{folder}/victim-{user}")
                finally:
                    os._exit(1)
            os.waitpid(pid, 0)

    for user in (0, 1000):
        threading.Thread(target=keep, args=[user], daemon=True).start()


def bpf(command, layout, *fields):
    """bpf(2) with these fields as its attributes. Returns the call's result and the fields afterwards."""
    attributes = ctypes.create_string_buffer(144)
    struct.pack_into(layout, attributes, 0, *fields)
    result = syscall("bpf", command, attributes, 144)
    return result, struct.unpack_from(layout, attributes)


# Commands of bpf(2), include/uapi/linux/bpf.h.
BPF_MAP_LOOKUP, BPF_MAP_UPDATE, BPF_PROG_LOAD, BPF_MAP_NEXT, BPF_MAP_BY_ID = 1, 2, 5, 12, 14
BPF_INFO, BPF_LINK_CREATE, BPF_LINK_BY_ID, BPF_LINK_NEXT, BPF_LINK_DETACH = 15, 28, 30, 31, 34


def bpf_for_everybody():
    """Has bpf(2) ask hooks before it asks for capabilities."""
    write("/proc/sys/kernel/unprivileged_bpf_disabled", "0")


def bpf_info(descriptor):
    """What the kernel says of a map or a link."""
    info = ctypes.create_string_buffer(256)
    bpf(BPF_INFO, "IIQ", descriptor, len(info), ctypes.addressof(info))
    return info.raw


def fault_in_a_name(faults):
    """Stops an open in the middle of its name by a userfaultfd, and lets it go on."""
    # UFFDIO_API, UFFDIO_REGISTER for missing pages, UFFDIO_ZEROPAGE (include/uapi/linux/userfaultfd.h).
    memory, address = page()
    fcntl.ioctl(faults, 0xC018AA3F, struct.pack("3Q", 0xAA, 0, 0))
    fcntl.ioctl(faults, 0xC020AA00, struct.pack("4Q", address, mmap.PAGESIZE, 1, 0))
    opening = threading.Thread(target=LIBC.open, args=[ctypes.c_void_p(address), os.O_RDONLY])
    opening.start()
    readable, _, _ = select.select([faults], [], [], 10)
    check(readable, "nobody waits for the page")
    check(opening.is_alive(), "it went on without the page")
    fcntl.ioctl(faults, 0xC020AA04, struct.pack("4Q", address, mmap.PAGESIZE, 0, 0))
    opening.join()
    del memory
