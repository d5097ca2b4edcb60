#!/bin/busybox sh
# Runs the command of this guest, relays what it prints and how it ends, and turns the guest off.
#
# The three ports carry bytes as they are: standard output, standard error, and the runner's own lines.
# The command gets pipes, because a port can be opened only once and a serial line is a terminal.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
export PATH HOME
unset TERM
cd /root || exit 1

bb=/bin/busybox
$bb mkdir -p /run/agentguard-guest
# Ports appear when the host's device has been found, which nothing announces to a shell.
until [ -c /dev/vport0p3 ]; do $bb usleep 10000; done

$bb mkfifo -m 600 /run/agentguard-guest/stdout /run/agentguard-guest/stderr
$bb cat /run/agentguard-guest/stdout >/dev/vport0p1 &
stdout=$!
$bb cat /run/agentguard-guest/stderr >/dev/vport0p2 &
stderr=$!
exec 9>/dev/vport0p3
echo "start $($bb uname -r)" >&9

$bb setsid $bb sh /usr/lib/agentguard-guest/command.sh \
    </dev/null >/run/agentguard-guest/stdout 2>/run/agentguard-guest/stderr 9>&- &
wait $!
status=$?

# What the command left running ends with it, as in a container; else its pipes would stay open.
$bb killall5 -9
wait $stdout $stderr
echo "exit $status" >&9
exec 9>&-
exec $bb poweroff -f
