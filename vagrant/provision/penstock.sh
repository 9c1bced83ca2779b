#!/usr/bin/env bash
# Builds penstock in the project's folder, together with the lab, as all make targets do: so they share one build.
set -euo pipefail
cd "$(dirname "$0")/../.."

export PATH=$HOME/.cargo/bin:$PATH
scripts/setup build
cargo build --release --quiet --package penstock --package penstock-lab
