#!/bin/sh
# Root's half of the demo, in the guest or (with --host) on the host: starts the daemon when none runs, makes a project
# and a key for the user `agent`, runs agent.sh as an agent, and is the person who answers it. Standard output is the
# agent's; standard error is the event log's, and where a line begins with `person: ` that person's.
set -eu
here=$(dirname "$0")
profile=/etc/agentguard/policies/agentguard-demo.toml

cp "$here/agentguard-demo.toml" $profile
trap 'rm -f $profile' EXIT
if agentguard status >/dev/null 2>&1; then
    agentguard reload >/dev/null
else
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
printf -- '-----BEGIN OPENSSH PRIVATE KEY-----\n(not a real one)\n' >$home/.ssh/id_ed25519
printf 'print("Hello from the agent")\n' >$home/project/greet.py
chown -R agent: $home
chmod 700 $home/.ssh
as_agent() {
    /usr/bin/setpriv --reuid agent --regid agent --clear-groups env HOME=$home GIT_CONFIG_NOSYSTEM=1 git \
        -c user.name=agent -c user.email=agent@localhost -c init.defaultBranch=main "$@"
}
rm -rf $home/remote.git $home/project/.git
as_agent init -q --bare $home/remote.git
cd $home/project
as_agent init -q
as_agent add greet.py
as_agent commit -qm 'Greet'
as_agent remote add origin $home/remote.git
as_agent push -q origin main

# What a person does: waits for a question, looks at it, and answers.
person() {
    until id=$(agentguard pending --json | grep -m 1 -o '"id": [0-9]*'); do sleep 0.2; done
    id=${id#*: }
    printf '$ agentguard pending\n'
    agentguard pending --color always
    sleep 1
    command="agentguard $1 $id $2"
    printf '$ %s\n' "$command"
    eval "$command --color always"
}
{
    person approve --once
    person deny "--reason 'main is not to be rewritten'"
} 2>&1 | while IFS= read -r line; do printf 'person: %s\n' "$line"; done >&2 &
person=$!

agentguard tail -f -n 0 --text --color always --agent demo --verdict deny --verdict ask >&2 &
denials=$!
agentguard tail -f -n 0 --text --color always --agent demo --action approval.granted >&2 &
grants=$!
agentguard run --profile agentguard-demo --name demo --user agent -- sh "$here/agent.sh"
wait $person
kill $denials $grants

# That nobody has been at the log.
{
    printf '$ agentguard log verify\n'
    agentguard log verify --color always
} 2>&1 | sed 's/^/person: /' >&2
