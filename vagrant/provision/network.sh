#!/usr/bin/env bash
# Connects the machine to a network of the lab: network.sh NAME MAC ADDRESS/LENGTH
#
# The card gets the network's name, so that no other script needs to know what the kernel calls it.
set -euo pipefail
name=$1 mac=$2 address=$3

nic=$("${0%/*}/nic.sh" "$mac")
if [ "$nic" != "$name" ]; then
    ip link set "$nic" down
    ip link set "$nic" name "$name"
fi
ip link set "$name" up
ip address replace "$address" dev "$name"
