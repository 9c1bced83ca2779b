"""The bench's frames, built by scapy: what perf/src/traffic.rs builds, byte for byte (check_frames.py compares them).

Needs scapy alone: Debian's python3-scapy, or that which comes with TRex.
"""
import ipaddress

try:
    from scapy.all import IP, TCP, UDP, Ether, IPv6, Raw
except ImportError:  # TRex's own lacks some of it
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

VIP, VIP6, PORT = "192.0.2.1", "2001:db8::1", 80
NODE, ROUTER = "02:70:63:61:70:00", "02:00:00:00:00:fe"
SHORTEST = 60
# Payload of the frames of an IMIX, twelve in turn: frames of 60, 590 and 1494 bytes, 7 to 4 to 1.
IMIX = (0, 536, 0, 536, 0, 1440, 0, 536, 0, 536, 0, 0)
SHAPES = ("acks", "syns", "udp", "v6", "imix")
# The first client; a flow is an address from here on, and a port from here on.
CLIENT, FIRST_PORT = "198.18.0.0", 32768


def kind(text):
    """("acks", 1000) of acks-1000."""
    shape, _, flows = text.partition("-")
    if shape not in SHAPES or not flows.isdigit() or int(flows) < 1:
        raise ValueError(f"{text!r}: expected acks-1000, one of {', '.join(SHAPES)} and a number of flows")
    return shape, int(flows)


def v6_of(address):
    """The IPv6 client that has the IPv4 client's bits as the end of its address."""
    return str(ipaddress.IPv6Address((0x20010002 << 96) | int(ipaddress.IPv4Address(address))))


def packet(shape, address=CLIENT, port=FIRST_PORT, mac=NODE, payload=0):
    """A packet of scapy's; `address` is IPv4, whatever the shape."""
    ethernet = Ether(dst=mac, src=ROUTER)
    if shape == "v6":
        ip = IPv6(src=v6_of(address), dst=VIP6, hlim=64)
    else:
        ip = IP(src=address, dst=VIP, ttl=64, id=0, flags="DF")
    if shape == "udp":
        above = UDP(sport=port, dport=PORT)
    elif shape == "syns":
        above = TCP(sport=port, dport=PORT, flags="S", seq=1_000_000, ack=0, window=512)
    else:
        above = TCP(sport=port, dport=PORT, flags="A", seq=1_000_000, ack=2_000_000, window=512)
    frame = ethernet / ip / above
    return frame / Raw(b"\x55" * payload) if payload else frame


def frame(*arguments, **named):
    """Its bytes, padded to the shortest that Ethernet carries. (Padding is no payload: the IP header does not count it.)"""
    return bytes(packet(*arguments, **named)).ljust(SHORTEST, b"\0")


def split(flows, addresses=1 << 17):
    """So many flows as a number of addresses, at most that of 198.18.0.0/15, times one of ports."""
    for ports in range(1, 32769):
        if flows % ports == 0 and flows // ports <= addresses:
            return flows // ports, ports
    raise ValueError(f"{flows} flows are no product of at most {addresses} addresses and 32768 ports")
