"""Sets the clock back, so that what has expired is valid again."""

import ctypes
import os
import struct
import time

from kernel import check, every, syscall, write

BACK = 3600


def moved(change):
    """Changes the clock, sees that it is another time, and puts it back."""
    realtime, boot = time.time(), time.monotonic()
    change(realtime - BACK)
    now = time.time()
    time.clock_settime(time.CLOCK_REALTIME, realtime + time.monotonic() - boot)
    check(now < realtime, "it is as late as before")


def settimeofday(seconds):
    syscall("settimeofday", struct.pack("qq", int(seconds), 0), None)


def adjust(_seconds):
    # struct timex: ADJ_SETOFFSET, and the offset after eight more numbers (include/uapi/linux/timex.h).
    syscall("adjtimex", ctypes.create_string_buffer(struct.pack("I4x8qqq", 0x100, *[0] * 8, -BACK, 0), 208))


def attack(_folder):
    every(
        lambda: moved(lambda seconds: time.clock_settime(time.CLOCK_REALTIME, seconds)),
        lambda: moved(settimeofday),
        lambda: moved(adjust),
    )


def twin(folder):
    # A file's time is not the clock.
    write(f"{folder}/own-{os.getuid()}")
    os.utime(f"{folder}/own-{os.getuid()}", (0, time.time() - BACK))
