"""A file opened by its handle, without a name."""

import ctypes
import os

from kernel import AT_FDCWD, keys, read, syscall


class Handle(ctypes.Structure):
    """struct file_handle, with room."""

    _fields_ = [("length", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]


def prepare(folder):
    keys(folder)


def handle_of(path):
    handle, mount = Handle(length=128), ctypes.c_int()
    syscall("name_to_handle_at", AT_FDCWD, path, ctypes.byref(handle), ctypes.byref(mount), 0)
    return handle


def attack(folder):
    handle = handle_of(f"{folder}/keys/key")
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    file = syscall("open_by_handle_at", place, ctypes.byref(handle), os.O_RDONLY)
    assert os.read(file, 100) == b"keys/key\n"


def twin(folder):
    handle_of(f"{folder}/open/own")
    read(f"{folder}/open/own")
