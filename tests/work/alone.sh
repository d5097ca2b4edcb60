# What a coding agent does without a network, as an ordinary user, in its home ($1).
# A command in the middle of a list joined by `&&` may fail unseen: there are none.
PS4='+ ${SECONDS} s: '
set -eux
cd "$1"
export HOME="$PWD" GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b

# git: a remote on this machine, a clone, branches, a rebase, a push.
git init -q --bare remote.git
git clone -q remote.git project 2>&1
cd project
git checkout -qb main
echo one >file; git add file; git commit -qm one; git push -q origin main
git checkout -qb topic; echo two >>file; git commit -qam two
git checkout -q main; echo three >other; git add other; git commit -qm three
git checkout -q topic; git rebase -q main; git checkout -q main; git merge -q topic
git push -q origin main; git gc -q; git status --short; git log --oneline | grep -c .
git stash list; git worktree add -q ../second topic; git worktree remove ../second
cd ..

# git: a repository that holds what editors, hooks, agents and people look for in one, and a part of its own; checked
# out, changed, stashed, rebased, in a second worktree, cloned once more.
git init -q piece
(cd piece && echo 1 >piece && git add piece && git commit -qm piece)
git init -q settings; cd settings; git checkout -qb main
mkdir -p .vscode .idea .husky .devcontainer .claude/commands .cursor/rules .github/workflows node_modules/x/.vscode
settings=".vscode/settings.json .vscode/tasks.json .idea/misc.xml .husky/pre-commit .devcontainer/devcontainer.json
    .claude/settings.json .claude/commands/c.md .cursor/rules/r.md .mcp.json .pre-commit-config.yaml .gitattributes
    .editorconfig .npmrc .env.test .env.example .env.local.example node_modules/x/.vscode/settings.json"
for file in $settings; do echo one >"$file"; done
over_files="git -c protocol.file.allow=always"
$over_files submodule --quiet add "$HOME/piece" vendor/piece; git add -f .; git commit -qm one
git checkout -qb topic; for file in $settings; do echo two >"$file.tmp.1"; mv "$file.tmp.1" "$file"; done; git commit -qam two
git checkout -q main; echo three >other; git add other; git commit -qm three
git checkout -q topic; git rebase -q main; git checkout -q main; git checkout -q topic; git checkout -q main
for file in .vscode/settings.json .pre-commit-config.yaml .husky/pre-commit .env.test .claude/settings.json; do echo more >>"$file"; done
git stash -q; git stash pop -q; git checkout -q -- .; git worktree add -q ../settings-2 topic
git worktree remove --force ../settings-2; git merge -q topic; cd ..
$over_files clone -q --recurse-submodules settings settings-3; cmp piece/piece settings-3/vendor/piece/piece
cp -a settings-3 settings-4; tar -cf settings.tar settings-4; rm -rf settings-4; tar -xpf settings.tar
# Environment files: made from an example, brought by a clone. The agent can't read what is in them.
cp settings/.env.example settings/.env; test -s settings/.env; rm settings/.env
git -C settings checkout -q --orphan secrets
git -C settings update-index --add --cacheinfo "100644,$(echo KEY=1 | git -C settings hash-object -w --stdin),.env"
git -C settings commit -qm secrets
git clone -q --branch secrets settings settings-5; test -s settings-5/.env
rm -rf settings settings-3 settings-4 settings-5 settings.tar

# An editor's atomic save: a lock, a swap file, a backup, a new file with the old one's owner, mode, times and
# attributes, flushed and renamed over the old one, and the folder flushed.
echo swap >project/.file.swp; cp -p project/file project/file~
echo new >project/file.new; chmod 644 project/file.new; mv project/file.new project/file
rm project/.file.swp project/file~; touch -d @1000000000 project/file
python3 - project/file <<'END'
import ctypes, fcntl, os, stat, sys
path = sys.argv[1]
folder, name = os.path.split(path)
old = os.stat(path)
os.setxattr(path, "user.encoding", b"utf-8")
os.link(path, path + "~")
os.symlink("somebody@guest.42", folder + "/.#" + name)
with open(path) as locked:
    fcntl.flock(locked, fcntl.LOCK_EX)
    probe = folder + "/4913"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    os.unlink(probe)
    new = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(new, b"saved\n")
    os.fchmod(new, stat.S_IMODE(old.st_mode))
    os.fchown(new, old.st_uid, old.st_gid)
    os.setxattr(new, "user.encoding", os.getxattr(path, "user.encoding"))
    os.ftruncate(new, 6)
    os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
    os.fsync(new)
    os.close(new)
    os.rename(path + ".tmp", path)
    flushed = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(flushed)
os.unlink(folder + "/.#" + name)
assert open(path).read() == "saved\n" and os.stat(path).st_mtime_ns == old.st_mtime_ns
# A file that has no name until it is whole, and two files that change places.
new = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o644)
os.write(new, b"whole\n")
os.fsync(new)
os.link("/proc/self/fd/%d" % new, path + ".new", src_dir_fd=flushed)
AT_FDCWD, RENAME_EXCHANGE = -100, 2
assert ctypes.CDLL(None).renameat2(AT_FDCWD, os.fsencode(path + ".new"), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE) == 0
assert open(path).read() == "whole\n"
os.unlink(path + ".new")
os.unlink(path + "~")
END

# A package manager: unpacks below a temporary name, renames folders into place, links, removes.
mkdir -p store/.tmp-1/package/bin; echo '#!/bin/sh' >store/.tmp-1/package/bin/tool; chmod +x store/.tmp-1/package/bin/tool
mv store/.tmp-1 store/package-1.0; ln -s ../store/package-1.0/package/bin/tool project/tool; project/tool
tar -C store -cf store.tar package-1.0; mkdir unpacked; tar -C unpacked -xpf store.tar; cp -a unpacked copied; mv copied moved
ln store.tar hard-link.tar; rm -r unpacked moved store.tar hard-link.tar

# A build: a compiler's scratch files, a program that is run from where it was built, many processes.
mkdir -p target/debug; printf '#!/bin/sh\necho built\n' >target/debug/app.tmp; chmod +x target/debug/app.tmp
mv target/debug/app.tmp target/debug/app; target/debug/app
for n in $(seq 30); do sh -c ":" & done; wait
echo data | tee scratch | (cat >/dev/null); mkfifo pipe; (cat pipe >/dev/null & echo x >pipe; wait)

# A build with make and a C compiler.
mkdir c; cd c
printf '#include <stdio.h>\nint main(void) { return puts("made") < 0; }\n' >main.c
printf 'app: main.o\n\t$(CC) -o $@ $<\ncheck: app\n\t./app | grep -q made\n' >Makefile
make -s -j2 check
cd ..

# A build with cargo: a project that uses another, and is changed and built once more.
cargo new -q --lib part; cargo new -q app
printf '[dependencies]\npart = { path = "../part" }\n' | sed -i '/^\[dependencies\]/{r /dev/stdin
d}' app/Cargo.toml
echo 'fn main() { println!("{}", part::add(2, 2)); }' >app/src/main.rs
echo 'pub fn add(a: u32, b: u32) -> u32 { a + b }' >part/src/lib.rs
cd app
cargo build -q --offline; target/debug/app | grep -qx 4
sed -i 's/2, 2/2, 3/' src/main.rs; cargo run -q --offline | grep -qx 5
cd ..

# cargo installs from a repository: it builds in a temporary folder, and runs the package's build script there.
cargo new -q --bin installed; cd installed
echo 'fn main() { println!("cargo:rustc-env=WORD=built"); }' >build.rs
echo 'fn main() { println!("{}", env!("WORD")); }' >src/main.rs
git add .; git commit -qm one; cd ..
cargo install -q --debug --git "file://$HOME/installed" --root "$HOME/tools"; tools/bin/installed | grep -qx built

# A test runner's folders for what tests make and run.
made=/tmp/pytest-of-agent/pytest-0/test_app0; mkdir -p "$made"
cp c/app "$made/app"; "$made/app" | grep -q made; rm -r /tmp/pytest-of-agent
scratch=$(mktemp -d); cp c/app "$scratch/app"; "$scratch/app" | grep -q made; rm -r "$scratch"

# What tools look at.
ps >/dev/null; id; uname -a; cat /proc/meminfo /proc/self/status /proc/cpuinfo >/dev/null; ls -l /etc /usr/bin >/dev/null
python3 -c 'import os, subprocess, tempfile
with tempfile.TemporaryDirectory() as d: open(d + "/x", "w").write("x"); os.rename(d + "/x", d + "/y")
assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3'
