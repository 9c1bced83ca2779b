#!/usr/bin/env bash
# Reserves huge pages of 2 MiB, which DPDK keeps packets in: hugepages.sh COUNT
set -euo pipefail
count=$1

[ "$(cat /proc/sys/vm/nr_hugepages)" -ge "$count" ] || sysctl -qw vm.nr_hugepages="$count"
got=$(cat /proc/sys/vm/nr_hugepages)
if [ "$got" -lt "$count" ]; then
    echo "only $got of $count huge pages are to be had: memory is short, or in pieces (a reboot mends that)" >&2
    exit 1
fi
mkdir -p /dev/hugepages
mountpoint -q /dev/hugepages || mount -t hugetlbfs hugetlbfs /dev/hugepages
