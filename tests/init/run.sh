#!/bin/busybox sh
# Runs the command of this guest, relays what it prints and how it ends, and turns the guest off.
#
# The three ports carry bytes as they are: standard output, standard error, and the runner's own lines.
# The command gets pipes, because a port can be opened only once and a serial line is a terminal.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
export PATH HOME
cd /root || exit 1
unset INVOCATION_ID JOURNAL_STREAM OLDPWD SYSTEMD_EXEC_PID TERM

bb=/bin/busybox
own=/run/agentguard-guest
$bb mkdir -p $own
$bb mkfifo $own/ended
# Ports appear when the host's device has been found, which nothing announces to a shell.
until [ -c /dev/vport0p3 ]; do $bb usleep 10000; done

# Ends when the command has ended and nothing holds its pipes any more. Not in the background: a shell
# has what it puts there ignore SIGINT and SIGQUIT. The shell's word on a fatal signal goes to the console.
relay() {
    {
        {
            (exec $bb setsid $bb sh /usr/lib/agentguard-guest/command.sh </dev/null 2>&1 >&3 3>&- 9>&-)
            echo $? >$own/status
            : >$own/ended
        } | $bb cat >/dev/vport0p2 3>&-
    } 3>&1 | $bb cat >/dev/vport0p1
}

# What the command left running ends with it, as in a container; else its pipes would stay open. What
# belongs to this script's session, the kernel and process 1 goes on.
end_rest() {
    : <$own/ended
    while :; do
        for process in /proc/[0-9]*; do
            read -r stat <"$process/stat" || continue
            # The name may hold anything; after it come state, parent, group and session.
            set -- "${process#/proc/}" ${stat##*) }
            [ "$1" = 1 ] || [ "$1" = 2 ] || [ "$3" = 2 ] || [ "$5" = "$session" ] || kill -KILL "$1"
        done 2>/dev/null
        $bb usleep 1000
    done
}

read -r stat </proc/self/stat
set -- ${stat##*) }
session=$4

exec 9>/dev/vport0p3
end_rest &
echo "start $($bb uname -r)" >&9
relay
echo "exit $($bb cat $own/status)" >&9
exec 9>&-
exec $bb poweroff -f
