#!/usr/bin/env bash
# Makes the machine a router that learns by BGP which load balancers there are, and spreads flows over them (ECMP).
set -euo pipefail

# Flows, not packets: addresses and ports decide, or one client's connections would all take one load balancer.
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.fib_multipath_hash_policy=1

sed -i 's/^bgpd=no/bgpd=yes/' /etc/frr/daemons
cat >/etc/frr/frr.conf <<'CONF'
frr defaults datacenter
ip prefix-list vips permit 192.0.2.0/24 le 32
router bgp 65000
 bgp router-id 10.0.0.254
 no bgp ebgp-requires-policy
 timers bgp 1 3
 neighbor balancers peer-group
 neighbor balancers remote-as 65001
 bgp listen range 10.0.0.0/24 peer-group balancers
 address-family ipv4 unicast
  network 198.51.100.0/24
  network 10.1.0.0/24
  neighbor balancers prefix-list vips in
  maximum-paths 8
 exit-address-family
CONF
service frr restart
