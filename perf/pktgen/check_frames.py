#!/usr/bin/env python3
"""Builds every frame of captures again, by scapy, and compares: check_frames.py acks-1000.pcap imix-120.pcap …"""
import ipaddress
import pathlib
import sys

from scapy.utils import RawPcapReader

import frames


def client(shape, frame):
    """Whose it is: an IPv4 address and a port."""
    if shape == "v6":
        return str(ipaddress.IPv4Address(frame[34:38])), int.from_bytes(frame[54:56], "big")
    return str(ipaddress.IPv4Address(frame[26:30])), int.from_bytes(frame[34:36], "big")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in map(pathlib.Path, sys.argv[1:]):
        shape, flows = frames.kind(path.stem)
        clients = set()
        count = 0
        for count, (there, _) in enumerate(RawPcapReader(str(path)), 1):
            address, port = client(shape, there)
            clients.add((address, port))
            payload = frames.IMIX[(count - 1) % len(frames.IMIX)] if shape == "imix" else 0
            built = frames.frame(shape, address, port, payload=payload)
            if built != there:
                sys.exit(f"{path}: frame {count} of {address}:{port}\n  capture {there.hex()}\n  scapy   {built.hex()}")
        expected = count if shape == "syns" else flows
        if len(clients) != expected:
            sys.exit(f"{path}: {len(clients)} flows, expected {expected}")
        outside = [a for a, _ in clients if ipaddress.IPv4Address(a) not in ipaddress.IPv4Network("198.18.0.0/15")]
        if outside:
            sys.exit(f"{path}: clients outside 198.18.0.0/15: {outside[:3]}")
        print(f"{path.name}: {count} frames of {len(clients)} flows are what scapy builds")


main()
