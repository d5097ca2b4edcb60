"""A folder above a protected place is renamed, what is below it is read and written under the new name, and the
folder is renamed back."""

import os

from kernel import check, every, everybodys, read, write


def prepare(folder):
    write(f"{folder}/project/keys/key", "secret\n")
    write(f"{folder}/project/.git/hooks/pre-commit.sample")
    write(f"{folder}/project/src/main.py")
    write(f"{folder}/other/file")
    everybodys(f"{folder}/project", f"{folder}/other")


def under_another_name(path, action):
    """Does something below `path` while that is called otherwise."""
    away = f"{path}-{os.urandom(6).hex()}"
    os.rename(path, away)
    try:
        action(away)
    finally:
        os.rename(away, path)


def plants(name):
    """Makes a hook at this place below the renamed folder."""

    def plant(away):
        write(f"{away}/{name}", "evil\n")

    return plant


def reads_key(away):
    check(read(f"{away}/keys/key") == b"secret\n", "that is not the secret")


def attack(folder):
    project = f"{folder}/project"

    def hooks_by_project():
        under_another_name(project, plants(".git/hooks/pre-commit"))
        check(read(f"{project}/.git/hooks/pre-commit") == b"evil\n", "the hook isn't there")

    def hooks_by_git():
        under_another_name(f"{project}/.git", plants("hooks/pre-push"))
        check(read(f"{project}/.git/hooks/pre-push") == b"evil\n", "the hook isn't there")

    def into_another_folder():
        os.rename(project, f"{folder}/other/project")
        try:
            reads_key(f"{folder}/other/project")
        finally:
            os.rename(f"{folder}/other/project", project)

    every(
        hooks_by_project,
        hooks_by_git,
        lambda: under_another_name(project, reads_key),
        into_another_folder,
    )


def twin(folder):
    name = os.urandom(6).hex()
    under_another_name(f"{folder}/project/src", plants(name))
    under_another_name(f"{folder}/other", plants(name))
    check(read(f"{folder}/project/src/{name}") == b"evil\n", "it isn't there")
