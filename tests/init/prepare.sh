# Common to all guests, read by a busybox shell: the network that tests talk to, and the files of this run.

# The relay's device. KERNEL: its drivers are modules in 6.1 and built in later.
modprobe -a virtio_pci virtio_console 2>/dev/null

# "Other hosts" are more addresses of the loopback device. There is no way out of a guest.
ip link set lo up
for address in 10.9.8.7/32 10.20.0.1/32 192.0.2.1/32 198.51.100.1/32 203.0.113.1/32; do
    ip address add "$address" dev lo
done
for address in 2001:db8::1/128 2001:db8::2/128 fd00::1/128; do
    ip -6 address add "$address" dev lo
done

echo 3 >/proc/sys/net/ipv4/tcp_fastopen
echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range

# put SOURCE TARGET: what is in a directory goes into one that is there already.
put() {
    mkdir -p "${2%/*}/"
    if [ -d "$1" ] && [ -d "$2" ]; then
        was=$(stat -c '%u:%g %a' "$2")
        cp -a "$1/." "$2/" && chown "${was% *}" "$2" && chmod "${was#* }" "$2"
    else
        cp -a -T "$1" "$2"
    fi || {
        # A command that misses its files would fail in ways that don't tell why.
        echo "cannot copy to $2" >/dev/console
        poweroff -f
    }
}
. /usr/lib/agentguard-guest/copies.sh
