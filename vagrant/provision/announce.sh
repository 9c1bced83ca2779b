#!/usr/bin/env bash
# Tells the router by BGP that the VIP is here, as long as penstock says that it is ready: announce.sh ADDRESS
#
# The session runs over the kernel twin; what it learns, the networks behind the router, is where penstock finds its next hops.
set -euo pipefail
address=$1

sed -i 's/^bgpd=no/bgpd=yes/' /etc/frr/daemons
cat >/etc/frr/frr.conf <<CONF
frr defaults datacenter
router bgp 65001
 bgp router-id $address
 no bgp ebgp-requires-policy
 no bgp network import-check
 timers bgp 1 3
 neighbor 10.0.0.254 remote-as 65000
CONF
service frr restart

cat >/usr/local/sbin/announce <<'LOOP'
#!/bin/bash
# Announces the VIP while penstock is ready. A VIP is on no interface: "no bgp network import-check" lets bgpd announce it all the same.
say() { vtysh -c 'configure terminal' -c 'router bgp 65001' -c 'address-family ipv4 unicast' -c "$1" >/dev/null; }
announced=
while sleep 0.5; do
    if curl --silent --fail --max-time 1 --output /dev/null http://127.0.0.1:9341/readyz; then
        [ -n "$announced" ] || ! say 'network 192.0.2.1/32' || announced=yes
    else
        [ -z "$announced" ] || ! say 'no network 192.0.2.1/32' || announced=
    fi
done
LOOP
chmod +x /usr/local/sbin/announce

daemon=(start-stop-daemon --pidfile /run/announce.pid)
"${daemon[@]}" --stop --oknodo --quiet --retry TERM/5/KILL/5
"${daemon[@]}" --start --background --make-pidfile --startas /usr/local/sbin/announce
