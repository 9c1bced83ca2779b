#!/usr/bin/env bash
# Adds a route, in the words of ip: route.sh PREFIX via GATEWAY …
#
# The default route is the provider's. What a server's recipe does to it, a smaller segment size (advmss), belongs to the clients' here.
set -euo pipefail

ip route replace "$@"
