#!/bin/sh
# The agent of the demo: what a coding agent does all day, then what it must not, and then what a person decides.
# Steps are announced on standard output; what the commands say goes with them.

step() {
    printf '\n# %s\n' "$1"
    shift
    printf '$ %s\n' "$*"
    "$@" 2>&1
    status=$?
    if [ $status -ne 0 ]; then printf '(exit %s)\n' $status; fi
    # A pause for whoever watches, so that the log's lines come beside the step they belong to.
    sleep 0.7
}

export GIT_AUTHOR_NAME=agent GIT_AUTHOR_EMAIL=agent@localhost GIT_COMMITTER_NAME=agent GIT_COMMITTER_EMAIL=agent@localhost
cd "$HOME/project" || exit 1
step 'work: read the code' cat greet.py
step 'work: change it' sed -i 's/Hello/Good morning/' greet.py
step 'work: run it' python3 greet.py
step 'read a private key' cat "$HOME/.ssh/id_ed25519"
ln -sf "$HOME/.ssh/id_ed25519" notes.txt
step 'the same through a symlink' cat notes.txt
rm notes.txt
cp /bin/busybox /tmp/xmrig
step 'run a downloaded miner' /tmp/xmrig sh -c 'echo mining'
step 'connect to an address it was not given' curl -sS --max-time 5 http://203.0.113.1:8080/
step 'open a reverse tunnel' busybox nc -w 5 198.51.100.1 22
step 'work goes on' python3 greet.py
step 'work: commit it' git commit -qam 'Greet in the morning'
step 'push it: held until a person says yes' git push -q origin main
step 'it is there' git log --oneline origin/main
step 'push something else: a person says no' git push --force origin main~1:main
