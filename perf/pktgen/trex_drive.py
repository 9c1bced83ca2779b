#!/usr/bin/env python3
"""Drives TRex for perf/throughput, by lines: `load acks-1000`, `trial RATE SECONDS WAIT`; PYTHONPATH leads to TRex's library
(automation/trex_control_plane/interactive)."""
import argparse
import sys
import time

from trex.stl.api import STLClient

import trex_profile


def say(*words):
    print(*words, flush=True)


def trial(client, ports, rate, seconds, wait):
    sends, receives = ports
    client.clear_stats(ports=list({sends, receives}))
    begun = time.monotonic()
    client.start(ports=[sends], mult=f"{rate:.0f}pps", duration=seconds, force=True)
    client.wait_on_traffic(ports=[sends], timeout=seconds * 2 + 20)
    # Who ends early, or late, sent at another rate.
    took = time.monotonic() - begun
    time.sleep(wait)
    stats = client.get_stats()
    # What its NIC had no room for came back all the same, and proves nothing about the forwarder.
    return stats[sends]["opackets"], stats[receives]["ipackets"], stats[receives]["ierrors"], took


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1")
    parser.add_argument("--sends", type=int, default=0)
    parser.add_argument("--receives", type=int, default=0)
    parser.add_argument("--mac", default=trex_profile.frames.NODE, help="the node's")
    options = parser.parse_args()
    ports = (options.sends, options.receives)
    client = STLClient(server=options.server)
    client.connect()
    try:
        client.acquire(ports=list(set(ports)), force=True)
        client.reset(ports=list(set(ports)))
        # What comes back is addressed to the router, which TRex's port is not.
        client.set_port_attr(ports=list(set(ports)), promiscuous=True)
        say("ready")
        for line in sys.stdin:
            words = line.split()
            if words[:1] == ["load"] and len(words) == 2:
                client.remove_all_streams(ports=[options.sends])
                client.add_streams(trex_profile.streams(words[1], options.mac), ports=[options.sends])
                say("loaded", words[1])
            elif words[:1] == ["trial"] and len(words) == 4:
                rate, seconds, wait = map(float, words[1:])
                sent, returned, missed, took = trial(client, ports, rate, seconds, wait)
                say(f"trial sent={sent} returned={returned} missed={missed} seconds={took:.6f}")
            elif words:
                sys.exit(f"{line!r}: expected load KIND, or trial RATE SECONDS WAIT")
    finally:
        client.disconnect()


main()
