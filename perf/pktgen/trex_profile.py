"""The bench's traffic for TRex (stateless):

    start -f trex_profile.py -m 10mpps -d 60 -t --kind acks-1000,--mac=02:00:00:00:00:01

Frames are those of frames.py. Flows are not drawn at random, as the bench's are, but step through a range of addresses and one of ports;
there are as many.
"""
import argparse
import ipaddress
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from trex.stl.api import (
    CTRexVmInsFixHwCs,
    STLPktBuilder,
    STLScVmRaw,
    STLStream,
    STLTXCont,
    STLVmFixChecksumHw,
    STLVmTupleGen,
    STLVmWrFlowVar,
)

# After TRex's library: it brings a scapy of its own, and needs that one.
import frames


def program(shape, flows):
    """What TRex changes from frame to frame: the client, and the checksums with it."""
    addresses, ports = frames.split(flows)
    first = int(ipaddress.IPv4Address(frames.CLIENT))
    network = "IPv6" if shape == "v6" else "IP"
    transport = "UDP" if shape == "udp" else "TCP"
    protocol = CTRexVmInsFixHwCs.L4_TYPE_UDP if shape == "udp" else CTRexVmInsFixHwCs.L4_TYPE_TCP
    instructions = [
        STLVmTupleGen(
            name="client",
            ip_min=str(ipaddress.IPv4Address(first)),
            ip_max=str(ipaddress.IPv4Address(first + addresses - 1)),
            port_min=frames.FIRST_PORT,
            port_max=frames.FIRST_PORT + ports - 1,
            limit_flows=flows,
        ),
        # Of an IPv6 address the last four bytes.
        STLVmWrFlowVar(fv_name="client.ip", pkt_offset=network + ".src", offset_fixup=12 if shape == "v6" else 0),
        STLVmWrFlowVar(fv_name="client.port", pkt_offset=transport + ".sport"),
        # The NIC's work, or TRex's own where it cannot.
        STLVmFixChecksumHw(l3_offset=network, l4_offset=transport, l4_type=protocol),
    ]
    return STLScVmRaw(instructions)


def padded(packet):
    """As long as Ethernet wants it. TRex drops what scapy calls padding; so it is payload here, of a packet whose lengths and checksums are
    set already, as they are without."""
    short = frames.SHORTEST - len(packet)
    return frames.Ether(bytes(packet)) / frames.Raw(b"\0" * short) if short > 0 else packet


def streams(kind, mac=frames.NODE):
    """The streams of acks-1000 and its like; of an IMIX three, whose rates are 7 to 4 to 1."""
    shape, flows = frames.kind(kind)
    payloads = sorted(set(frames.IMIX)) if shape == "imix" else [0]
    made = []
    for payload in payloads:
        share = frames.IMIX.count(payload) if shape == "imix" else 1
        packet = padded(frames.packet(shape, mac=mac, payload=payload))
        builder = STLPktBuilder(pkt=packet, vm=program(shape, flows))
        made.append(STLStream(packet=builder, mode=STLTXCont(pps=share)))
    return made


class Bench:
    def get_streams(self, direction=0, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description="the bench's traffic")
        parser.add_argument("--kind", default="acks-1000")
        parser.add_argument("--mac", default=frames.NODE, help="the node's")
        options = parser.parse_args(tunables)
        return streams(options.kind, options.mac)


def register():
    return Bench()
