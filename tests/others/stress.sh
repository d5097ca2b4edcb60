# Plays stressors of stress-ng's classes filesystem, network and scheduler, each for a few operations, and prints
# how each ended.
set -u
cd "$(mktemp -d)"
for stressor in \
    access chmod chown dentry dir fallocate file-ioctl flock getdent link mknod open rename symlink touch utime xattr \
    sock sockfd sockpair udp \
    affinity clone exec fork futex pipe schedpolicy vfork yield; do
    stress-ng --quiet --timeout 5 --"$stressor" 1 --"$stressor"-ops 4 >/dev/null 2>&1
    echo "$stressor ended with $?"
done
