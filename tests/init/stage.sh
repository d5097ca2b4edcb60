#!/bin/busybox sh
# Process 1 of a guest whose root is on a disk, until that root is mounted: adds the files of this run to
# it and hands over to its init.
/bin/busybox --install -s /usr/bin
ln -sf ../bin/busybox /usr/sbin/modprobe
mkdir -p /dev /proc /root
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
# Disks are found while this script already runs.
until [ -b /dev/nvme0n1 ]; do usleep 10000; done
mount -t ext4 -o rw,noatime /dev/nvme0n1 /root || exit 1
cp -a /payload/. /root/
mkdir -p /root/usr/lib/modules
cp -a "/usr/lib/modules/$(uname -r)" /root/usr/lib/modules/
umount /proc
mount --move /dev /root/dev
exec switch_root /root /sbin/init
