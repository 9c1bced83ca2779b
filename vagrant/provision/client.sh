#!/usr/bin/env bash
# Gives the client its command: demo.
set -euo pipefail

ln -sf "$(realpath "${0%/*}/../demo")" /usr/local/bin/demo
