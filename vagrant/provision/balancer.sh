#!/usr/bin/env bash
# Runs penstock on the card that bind.sh took: balancer.sh ADDRESS
#
# ADDRESS is the machine's own on the network "edge", given to the kernel twin.
set -euo pipefail
address=$1
here=$(realpath "$(dirname "$0")")

mkdir -p /etc/penstock
cat >/etc/penstock/penstock.toml <<CONF
[node]
name = "$(hostname)"
stop_grace = "15s"                   # time for the router to learn that the VIP is not here any more

[dpdk]
lcores = [1]
mempool_mbufs = 8191
idle = "sleep"                       # a lab shares its CPUs with others

[[port]]
name = "wan0"
device = "$(cat /etc/penstock/device)"
twin = "wan0"

[encap]
ipv4_source = "$address"

[hash]
seed = "dmFncmFudCBsYWIgc2VlZA=="    # the same on both load balancers

[feed]
path = "services.json"

[metrics]
listen = "0.0.0.0:9341"              # the client's demo reads them
CONF
cp "$here/../services.json" /etc/penstock/services.json
install "${CARGO_TARGET_DIR:-$here/../../target}/release/penstock" /usr/local/bin/penstock
penstock check --config /etc/penstock/penstock.toml >/dev/null

# The same with systemd and without.
daemon=(start-stop-daemon --pidfile /run/penstock.pid --exec /usr/local/bin/penstock)
"${daemon[@]}" --stop --oknodo --quiet --retry TERM/30/KILL/5
"${daemon[@]}" --start --background --make-pidfile --output /var/log/penstock.log -- run --config /etc/penstock/penstock.toml

for _ in {1..300}; do
    if curl --silent --fail --output /dev/null http://127.0.0.1:9341/readyz; then
        ip address replace "$address/24" dev wan0
        exit
    fi
    sleep 0.1
done
echo "penstock is not ready after 30 s:" >&2
tail -n 5 /var/log/penstock.log >&2
exit 1
