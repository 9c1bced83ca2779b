#!/usr/bin/env bash
# Gets Rust from rustup: Debian's is too old.
set -euo pipefail

export PATH=$HOME/.cargo/bin:$PATH
command -v cargo >/dev/null && exit
"${0%/*}/packages.sh" curl ca-certificates
curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
