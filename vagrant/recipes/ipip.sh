#!/bin/sh
# What a server needs to receive "ipip", as printed by
#   penstock backend recipe --mode ipip --vip 192.0.2.1 --device servers
# To be run as root, at each start of the server; it may be run again.
set -eu

# The server's own address that packets are sent to: the first of servers. (--backend names another.)
own4=$(ip -4 -o address show dev servers scope global | sed -n '1s/.* inet \([^/ ]*\).*/\1/p')
[ -n "$own4" ] || { echo 'servers has no IPv4 address; name the one that the definitions have, by --backend' >&2; exit 1; }

# The VIP is the server's own, on its loopback: replies carry it.
# arp_ignore, arp_announce: it must not answer ARP for it, nor ask in its name.
ip link set lo up
ip address replace 192.0.2.1/32 dev lo
sysctl -qw net.ipv4.conf.servers.arp_ignore=1
sysctl -qw net.ipv4.conf.servers.arp_announce=2

# Takes the outer header off. It takes packets from anyone: let a firewall admit them from the load balancers only,
# that is, from [encap] ipv4_source, ipv6_source and rss_source_….
# rp_filter: clients are not reached by that device, which a strict filter takes for a forgery. 2 is a loose one; even that
# refuses what comes in by a device without an address, so it has the VIP, too.
ip link show dev vip-ipip >/dev/null 2>&1 || ip link add vip-ipip type ipip local $own4 remote any
ip address replace 192.0.2.1/32 dev vip-ipip
ip link set vip-ipip up
sysctl -qw net.ipv4.conf.vip-ipip.rp_filter=2

# Clients' IPv4 packets grow by 20 bytes on their way here, and 1500 bytes are all that the network carries. So the server lets
# its clients send segments of at most 1440 bytes. Its replies do not grow, and stay as they are.
# (A route that a daemon learns, by router advertisements say, is set anew by it: advmss belongs into its configuration.)
ip -4 -o route show default | grep -v ' proto ra ' | tr -d '\\' |
    sed 's/ advmss [0-9]*//; s/^default/& advmss 1440/' |
    while read -r route; do ip -4 route replace $route; done

# Now whatever listens on the service's port of the VIP, or of all addresses, serves it. (One that answers UDP must do so from the address that
# it was asked at.)
