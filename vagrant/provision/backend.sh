#!/usr/bin/env bash
# Makes the machine a real server of the VIP: penstock's recipe, and nginx, which says who answers and whom it saw.
set -euo pipefail

sh "${0%/*}/../recipes/ipip.sh"

cat >/etc/nginx/sites-available/lab <<CONF
server {
    listen 80;
    client_max_body_size 8m;
    default_type text/plain;
    location / { return 200 "$(hostname) \$remote_addr \$server_addr\n"; }
    location = /healthz { access_log off; return 200; }
    # Takes what is sent, whole, and then says how many bytes it was.
    location = /upload { proxy_pass http://127.0.0.1/received; }
    location = /received { return 200 "$(hostname) \$http_content_length\n"; }
}
CONF
ln -sf ../sites-available/lab /etc/nginx/sites-enabled/lab
rm -f /etc/nginx/sites-enabled/default
service nginx restart
