"""Has many children at once, of which it would be enough that one isn't noticed."""

from concurrent.futures import ThreadPoolExecutor

from kernel import clone3, every, in_child, make_keys, read, read_key

AT_ONCE, BIRTHS = 3, 12


def prepare(folder):
    make_keys(folder)


def in_many(function, *arguments):
    def children():
        ways = [lambda: in_child(function, *arguments), lambda: in_child(function, *arguments, birth=clone3)]
        every(*ways * BIRTHS)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        every(*[threads.submit(in_child, children).result for _ in range(AT_ONCE)])


def attack(folder):
    in_many(read_key, folder)


def twin(folder):
    in_many(read, f"{folder}/open/own")
