"""Programs that make their user root, or give it a capability: what they are given can't be used."""

import os
import shutil
import struct

from kernel import every, in_child, program, write

VFS_CAP_REVISION_2 = 0x02000000
VFS_CAP_FLAGS_EFFECTIVE = 1
CAP_CHOWN = 0
ORDINARY_USER = 1000


def prepare(folder):
    write(f"{folder}/file")
    for name in ("plain", "setuid", "capable"):
        shutil.copy("/usr/bin/python3.11", f"{folder}/{name}")
    os.chmod(f"{folder}/setuid", 0o4755)
    capabilities = struct.pack("<5I", VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, 1 << CAP_CHOWN, 0, 0, 0)
    os.setxattr(f"{folder}/capable", "security.capability", capabilities)


def give(folder, name, user):
    """Only root may, of a file of root's."""
    if os.geteuid() == 0:
        os.setresgid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
        os.setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
    program(f"{folder}/{name}", "-ISc", f"import os; os.chown({folder + '/file'!r}, {user}, -1)")
    assert os.stat(f"{folder}/file").st_uid == user


def before(_folder):
    """Nothing is needed from before."""


def attack(folder, _before):
    every(lambda: in_child(give, folder, "setuid", 7), lambda: in_child(give, folder, "capable", 8))


def twin(folder):
    assert program(f"{folder}/plain", "-ISc", "print(1)") == "1\n"
