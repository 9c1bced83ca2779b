# Each target sets up what it needs (scripts/setup says what and why), may be repeated, and leaves nothing behind.
# Debian 12, as root; Rust from rustup.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin:$(PATH)

.PHONY: help demo test bench bench-full lab lab-down lab-modes lab-changes lab-control lab-soak lab-nic

help:
	@echo 'make demo         HTTP through a DPDK data path, in network namespaces of this machine: every claim is checked'
	@echo 'make lab-modes    every forwarding mode in front of a real receiver: kernels with tunnels, by User Mode Linux where needed'
	@echo 'make lab-changes  2000 connections while backends come and go and the node starts again: none breaks; two minutes'
	@echo 'make lab-control  a live node under an orchestrator in Python and the command line; its control side killed, and stuck'
	@echo 'make lab-nic      two load balancers on PCI network cards of a QEMU guest, by vfio and uio; a router with BGP: the lab of vagrant/'
	@echo 'make lab-soak     500 connections and random changes for half an hour (MINUTES=30), an eye on memory'
	@echo 'make test         all tests but lab-soak and lab-nic'
	@echo 'make bench        packets per second against testpmd; the result goes to perf/RESULTS.md'
	@echo 'make bench-full   the same of everything that can be measured here; half an hour'
	@echo "make lab          the demo's lab, left standing, with hints what to try; make lab-down removes it"

# One `cargo build` for both, so that the lab finds penstock beside itself.
LAB := cargo build --release --quiet --package penstock --package penstock-lab && \
       cargo run --release --quiet --package penstock-lab --

# From a fresh clone to the demo is a matter of compile time: it is built without optimization, which a few hundred requests do not
# miss, and without the API, which it does not show.
demo:
	@scripts/setup demo
	@echo 'Building, without optimization: this is about what happens, not how fast …'
	@cargo build --quiet --package penstock --package penstock-lab \
	    --no-default-features --features penstock/dpdk,penstock/control
	@$${CARGO_TARGET_DIR:-target}/debug/penstock-lab demo

lab:
	@scripts/setup demo
	@echo 'Building …'
	@$(LAB) up

lab-modes:
	@scripts/setup modes
	@echo 'Building …'
	@cargo build --release --quiet --package penstock-lab-quic
	@$(LAB) modes

lab-changes:
	@scripts/setup demo
	@echo 'Building …'
	@$(LAB) changes

lab-control:
	@scripts/setup control
	@echo 'Building …'
	@$(LAB) control

lab-nic:
	@scripts/setup nic
	@echo 'Building …'
	@vagrant/provision/penstock.sh
	@tests/nic/run

MINUTES ?= 30

lab-soak:
	@scripts/setup demo
	@echo 'Building …'
	@$(LAB) soak $(MINUTES)

lab-down:
	@scripts/setup lab-down
	@cargo run --release --quiet --package penstock-lab -- down

test:
	@scripts/setup test
	@scripts/test

bench:
	@scripts/setup bench
	@perf/bench

bench-full:
	@scripts/setup bench
	@perf/bench --full
