#!/usr/bin/env bash
# Prints the name of the network card of a MAC address: nic.sh MAC
#
# Names depend on the provider and on the kernel; the MAC address is what the plan gives. Penstock's kernel twin, a tap, has the
# address of its card.
set -euo pipefail

for nic in /sys/class/net/*; do
    read -r mac <"$nic/address"
    if [ "$mac" = "$1" ] && [ ! -e "$nic/tun_flags" ]; then
        echo "${nic##*/}"
        exit
    fi
done
echo "no network card here has the MAC address $1" >&2
exit 1
