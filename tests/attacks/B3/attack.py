"""A protected folder or file changes places with a decoy (RENAME_EXCHANGE): no name is made or removed."""

from kernel import AT_FDCWD, check, every, everybodys, new_name, read, syscall, write

RENAME_EXCHANGE = 2


def prepare(folder):
    write(f"{folder}/home/keys/key", "secret\n")
    write(f"{folder}/home/settings", "ours\n")
    for name in ("decoy", "open"):
        write(f"{folder}/{name}/keys/key", "evil\n")
    write(f"{folder}/open/settings", "evil\n")
    everybodys(*(f"{folder}/{name}" for name in ("home", "decoy", "open")))


def exchange(one, other):
    syscall("renameat2", AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)


def swapped(protected, decoy, name, secret):
    """Exchanges both, in both orders, and sees that each is where the other was."""

    def attempt(one, other):
        exchange(one, other)
        try:
            check(read(decoy + name) == secret, "the secret isn't in the decoy's place")
            check(read(protected + name) == b"evil\n", "the decoy isn't in the secret's place")
        finally:
            exchange(one, other)

    return [lambda: attempt(protected, decoy), lambda: attempt(decoy, protected)]


def attack(folder):
    home, away = f"{folder}/home", f"{folder}/open"
    every(
        *swapped(f"{home}/keys", f"{away}/keys", "/key", b"secret\n"),
        *swapped(home, f"{folder}/decoy", "/keys/key", b"secret\n"),
        *swapped(f"{home}/settings", f"{away}/settings", "", b"ours\n"),
    )


def twin(folder):
    one, other = new_name(f"{folder}/open"), new_name(f"{folder}/open")
    write(f"{one}/file", "one\n")
    write(f"{other}/file", "other\n")
    exchange(one, other)
    check(read(f"{one}/file") == b"other\n", "they were not exchanged")
