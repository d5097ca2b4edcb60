"""The agent's own file gets a protected name: whoever reads it next has the attacker's bytes. The protected file is
never opened, and never the source."""

import os

from kernel import check, every, everybodys, new_name, read, write


def prepare(folder):
    for name in ("settings", "policy", "start"):
        write(f"{folder}/app/{name}", "ours\n")
    os.makedirs(f"{folder}/app/plugins")
    os.makedirs(f"{folder}/app/bin")
    os.makedirs(f"{folder}/parts")
    os.makedirs(f"{folder}/open")
    everybodys(f"{folder}/app", f"{folder}/parts", f"{folder}/open")


def evil_file(folder):
    path = new_name(f"{folder}/open")
    write(path, "evil\n")
    return path


def evil_folder(folder):
    path = new_name(f"{folder}/open")
    write(f"{path}/plugin", "evil\n")
    return path


def is_evil(path):
    check(read(path) == b"evil\n", f"{path} is not the attacker's")


def attack(folder):
    app = f"{folder}/app"

    def file_onto():
        os.rename(evil_file(folder), f"{app}/settings")
        is_evil(f"{app}/settings")

    def symlink_onto():
        link = new_name(f"{folder}/open")
        os.symlink(evil_file(folder), link)
        os.rename(link, f"{app}/policy")
        is_evil(f"{app}/policy")

    def folder_onto():
        os.rename(evil_folder(folder), f"{app}/plugins")
        is_evil(f"{app}/plugins/plugin")

    def folder_for_folder():
        os.rename(f"{app}/bin", f"{app}/bin.old")
        os.rename(evil_folder(folder), f"{app}/bin")
        is_evil(f"{app}/bin/plugin")

    def link_for_file():
        os.unlink(f"{app}/start")
        os.link(evil_file(folder), f"{app}/start")
        is_evil(f"{app}/start")

    def new_file():
        os.rename(evil_file(folder), f"{app}/autostart")
        is_evil(f"{app}/autostart")

    def symlink_for_folder():
        os.symlink(evil_folder(folder), f"{folder}/parts/one")
        is_evil(f"{folder}/parts/one/plugin")
        os.unlink(f"{folder}/parts/one")

    def symlink_moved():
        link = new_name(f"{folder}/parts")
        os.symlink(evil_folder(folder), link)
        os.rename(link, f"{folder}/parts/one")
        is_evil(f"{folder}/parts/one/plugin")
        os.unlink(f"{folder}/parts/one")

    def symlink_linked():
        link = new_name(f"{folder}/parts")
        os.symlink(evil_folder(folder), link)
        os.link(link, f"{folder}/parts/one", follow_symlinks=False)
        is_evil(f"{folder}/parts/one/plugin")
        os.unlink(f"{folder}/parts/one")

    every(
        file_onto,
        symlink_onto,
        folder_onto,
        folder_for_folder,
        link_for_file,
        new_file,
        symlink_for_folder,
        symlink_moved,
        symlink_linked,
    )


def twin(folder):
    target = new_name(f"{folder}/open")
    write(target, "ours\n")
    os.rename(evil_file(folder), target)
    is_evil(target)
    link = new_name(f"{folder}/parts")
    os.symlink(evil_folder(folder), link)
    is_evil(f"{link}/plugin")
    os.rename(link, new_name(f"{folder}/parts"))
