#!/bin/sh
# The first process of the lab's guest kernel (User Mode Linux): runs the commands that come by the serial line, one a line, and
# tells each one's number and exit code. At the end of the line the machine goes down.
#
# The host's files are there to be read; only the lab's own directory, $LAB, can be written to. Of the network it has one
# card, vec0, and a bridge, "fabric", to which servers are connected.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t hostfs -o "$LAB" lab "$LAB"
cd "$LAB/guest" || exit

# Modules lie elsewhere than modprobe looks, by hand or for the kernel.
export MODPROBE_OPTIONS="-d $LAB/guest"
echo "$LAB/guest/modprobe" >/proc/sys/kernel/modprobe
modprobe ipv6

ip link set lo up
ip link add fabric type bridge
ip link set vec0 master fabric
ip link set vec0 up
ip link set fabric up

stty -F /dev/ttyS0 raw -echo
exec </dev/ttyS0 >/dev/ttyS0 2>/dev/ttyS0
echo "guest: Linux $(uname -r) is ready"
while read -r number command; do
    (eval "$command") </dev/null >"out.$number" 2>&1
    echo "guest: $number ended with $?"
done
echo o >/proc/sysrq-trigger
# It takes a moment, and the first process must not end before.
exec sleep 60
