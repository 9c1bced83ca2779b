#!/usr/bin/env python3
"""Builds the streams of trex_profile.py by TRex's own library, to which PYTHONPATH leads, and compares their frames with those of frames.py."""
import base64

import trex_profile
from trex_profile import frames

for kind in ("acks-1", "acks-1000", "acks-10000000", "syns-1000000", "udp-1000", "v6-100000", "imix-1000"):
    shape, flows = frames.kind(kind)
    made = [stream.to_json() for stream in trex_profile.register().get_streams(tunables=["--kind", kind])]
    packets = [base64.b64decode(stream["packet"]["binary"]) for stream in made]
    payloads = sorted(set(frames.IMIX)) if shape == "imix" else [0]
    assert packets == [frames.frame(shape, payload=payload) for payload in payloads], kind
    for stream in made:
        steps = stream["vm"]["instructions"][0]
        clients = (steps["ip_max"] - steps["ip_min"] + 1) * (steps["port_max"] - steps["port_min"] + 1)
        assert clients == flows == steps["limit_flows"], (kind, steps)
    print(f"{kind}: {len(made)} stream{'s'[:len(made) > 1]}, {flows} flows; frames of {', '.join(str(len(p)) for p in packets)} bytes")
