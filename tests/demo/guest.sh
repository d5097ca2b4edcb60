#!/bin/sh
# Root's half of the demo, in the guest or (with --host) on the host: starts the daemon when none runs,
# makes a project and a key for the user `agent`, and runs agent.sh as an agent under `coding`. Standard
# output is the agent's, standard error the event log's.
set -eu
here=$(dirname "$0")

if ! agentguard status >/dev/null 2>&1; then
    agentguard daemon >/var/log/agentguard-demo.log 2>&1 &
    tries=0
    until agentguard status >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ]; then
            echo 'the daemon did not come up:'
            cat /var/log/agentguard-demo.log
            exit 1
        fi
        sleep 0.1
    done
fi
agentguard status | head -n 1

home=/home/agent
mkdir -p $home/project $home/.ssh
printf 'print("Hello from the agent")\n' >$home/project/greet.py
printf -- '-----BEGIN OPENSSH PRIVATE KEY-----\n(not a real one)\n' >$home/.ssh/id_ed25519
chown -R agent: $home
chmod 700 $home/.ssh

agentguard tail -f -n 0 --text --color always --agent demo --verdict deny >&2 &
tail=$!
agentguard run --profile coding --name demo --user agent -- sh "$here/agent.sh"
kill $tail
