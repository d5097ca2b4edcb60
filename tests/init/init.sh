#!/bin/busybox sh
# Process 1 of a guest whose root is in memory: mounts what a Linux system has, then runs the command.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
export PATH
/bin/busybox mkdir -p /dev /proc /sys /tmp /run /root /home /var/log /var/tmp /usr/sbin /usr/local/bin /mnt
/bin/busybox mount -t devtmpfs -o nosuid,mode=755 devtmpfs /dev
exec </dev/console >/dev/console 2>&1
# Applets of busybox stand in for every tool that the packages of the root don't bring.
/bin/busybox --install -s /usr/bin
ln -sf ../bin/busybox /usr/sbin/modprobe

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mkdir -p /dev/pts /dev/shm /dev/net
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev tmpfs /tmp
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
chmod 1777 /var/tmp
ln -s /run /var/run
# What a kernel lacks is not mounted; the tests that need it say so themselves.
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf /sys/fs/bpf 2>/dev/null
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /sys/fs/cgroup 2>/dev/null

cat >/etc/passwd <<'EOF'
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
agent:x:1000:1000:agent:/home/agent:/bin/sh
EOF
cat >/etc/group <<'EOF'
root:x:0:
tty:x:5:
nogroup:x:65534:
agent:x:1000:
EOF
cat >/etc/shadow <<'EOF'
root:*:19000:0:99999:7:::
agent:*:19000:0:99999:7:::
EOF
chmod 640 /etc/shadow
printf '127.0.0.1 localhost guest\n::1 localhost guest\n' >/etc/hosts
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >/etc/nsswitch.conf
: >/etc/resolv.conf
: >/etc/ld.so.conf
mkdir -p /home/agent
chown 1000:1000 /home/agent
chmod 700 /root

chmod 755 /
hostname guest
. /usr/lib/agentguard-guest/prepare.sh
exec /usr/lib/agentguard-guest/run.sh
