"""Files that git runs, or that name programs that git runs, when a person uses it afterwards: hooks, settings of the
user, of worktrees and of submodules, attributes. In this repository and in another that the agent may change."""

import os

from kernel import check, every, everybodys, new_name, read, write

FSMONITOR = "[core]\n\tfsmonitor = sh -c 'touch /tmp/pwned'\n"
FILTER = "* filter=evil\n"
HOOK = "#!/bin/sh\ntouch /tmp/pwned\n"

#: Below a repository.
PLANTED = (
    (".git/hooks/pre-commit", HOOK),
    (".git/hooks/post-checkout", HOOK),
    (".git/modules/part/hooks/post-checkout", HOOK),
    (".git/config.worktree", FSMONITOR),
    (".git/worktrees/second/config.worktree", FSMONITOR),
    (".git/modules/part/config.worktree", FSMONITOR),
    (".git/info/attributes", FILTER),
    (".git/modules/part/info/attributes", FILTER),
    (".git/commondir", "../evil\n"),
)
#: Below `.git`, what git itself writes all the time.
ORDINARY = ("HEAD", "index", "config", "modules/part/config", "info/exclude")


def prepare(folder):
    for repository in ("project", "second"):
        git = f"{folder}/{repository}/.git"
        for name in (*ORDINARY, "hooks/pre-commit.sample"):
            write(f"{git}/{name}", "\n")
        for name in ("worktrees/second", "modules/part/hooks", "modules/part/info"):
            os.makedirs(f"{git}/{name}")
        everybodys(f"{folder}/{repository}")
    # Without hooks, as git makes it where the samples are not installed.
    write(f"{folder}/third/.git/HEAD", "\n")
    everybodys(f"{folder}/third")


def planted(path, content):
    """Makes a file as git would have it."""
    write(path, content)
    os.chmod(path, 0o755)
    check(read(path) == content.encode(), f"{path} isn't there")


def at_home(name):
    """The same in the user's home, which is left as it was."""
    path = os.path.join("/root" if os.getuid() == 0 else "/home/agent", name)
    planted(path, FSMONITOR)
    os.unlink(path)


def renamed_onto(folder):
    """The folder of hooks makes place for another."""
    git = f"{folder}/second/.git"
    prepared = new_name(git)
    write(f"{prepared}/post-commit", HOOK)
    os.rename(f"{git}/hooks", f"{git}/hooks.old")
    os.rename(prepared, f"{git}/hooks")
    check(read(f"{git}/hooks/post-commit") == HOOK.encode(), "the hook isn't there")


def linked(folder):
    """What is called the folder of hooks leads to another."""
    git = f"{folder}/third/.git"
    prepared = new_name(folder)
    write(f"{prepared}/post-commit", HOOK)
    os.symlink(prepared, f"{git}/hooks")
    check(read(f"{git}/hooks/post-commit") == HOOK.encode(), "the hook isn't there")
    os.unlink(f"{git}/hooks")


def attack(folder):
    repositories = [f"{folder}/project", f"{folder}/second"]
    every(
        *(
            (lambda path=f"{repository}/{name}", content=content: planted(path, content))
            for repository in repositories
            for name, content in PLANTED
        ),
        lambda: at_home(".gitconfig"),
        lambda: renamed_onto(folder),
        lambda: linked(folder),
    )


def twin(folder):
    """What `git init`, `clone` and ordinary work write."""
    git = f"{folder}/project/.git"
    for name in ORDINARY:
        write(f"{git}/{name}", "content\n")
    planted(f"{git}/hooks/{os.urandom(6).hex()}.sample", HOOK)
    write(f"{new_name(folder)}/.git/hooks/pre-push.sample")
