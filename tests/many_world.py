"""Members in a simulated world that send packets for many, and what arrives at their hosts."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from dht.host import Endpoint
from dht.storage import MemoryStorage
from ipop.config import VpnConfig
from ipop.destination import mac_of
from ipop.ethernet import checksum, ipv4_packet, ipv6_packet, wrap
from ipop.igmp import PROTOCOL_IGMP, Change
from ipop.neighbor import mac_for
from ipop.node import VpnNode, build_node
from ipop.tap import MemoryTap
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from tests.identities import make_identities
from tests.test_igmp_mld import report3, report_mld2

UDP = 17
RTT_MS = 20
GROUP = IPv4Address("239.1.2.3")
GROUP6 = IPv6Address("ff15::1:3")

Address = IPv4Address | IPv6Address


class ManyWorld:
    """`count` members that know one bootstrap."""

    def __init__(self, count: int, seed: int) -> None:
        self.seed = seed
        self.engine = Engine(seed)
        self.network = Network(self.engine, Constant(RTT_MS))
        self.identities = make_identities(count, seed, now=self.engine.now)
        self.nodes: list[VpnNode] = []
        self.taps: list[MemoryTap] = []
        self.bootstraps: Sequence[Endpoint] = ()
        for number in range(count):
            self.start(number)
        self.engine.run_until(lambda: all(node.is_ready() for node in self.nodes), limit_s=30)
        self.engine.run_for(3)
        self.clear()

    def start(self, number: int) -> None:
        """Start a member that is not there yet, or begin it anew at another place."""
        host, tap = self.network.host(), MemoryTap()
        node = build_node(host, tap, VpnConfig(self.identities[number], MemoryStorage()))
        node.start(self.bootstraps)
        self.bootstraps = self.bootstraps or (host.endpoint,)
        if number < len(self.nodes):
            self.nodes[number], self.taps[number] = node, tap
        else:
            self.nodes.append(node)
            self.taps.append(tap)

    def clear(self) -> None:
        for tap in self.taps:
            tap.written.clear()

    def send(self, source: int, destination: Address, payload: bytes, ttl: int = 1) -> bytes:
        """The kernel of a member sends a datagram; gives the packet."""
        member = self.nodes[source].member
        datagram = struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload
        if destination.version == 4:
            packet = ipv4_packet(datagram, UDP, member.address4.packed, destination.packed, ttl)
        else:
            packet = ipv6_packet(datagram, UDP, member.address6.packed, destination.packed, ttl)
        self.taps[source].inject(wrap(packet, mac_of(destination.packed), mac_for(member.address4.packed)))
        return packet

    def join(self, *numbers: int, group: Address = GROUP, change: Change = Change.TO_EXCLUDE) -> None:
        """Hosts say that they want a group (or, with TO_INCLUDE, want it no longer)."""
        for number in numbers:
            report = (report3 if group.version == 4 else report_mld2)((change, group.packed, ()))
            destination = bytes((224, 0, 0, 22)) if group.version == 4 else b"\xff\x02" + bytes(13) + b"\x16"
            self.taps[number].inject(wrap(report, mac_of(destination), mac_for(b"\x0a\x4d\0\x01")))

    def arrived(self, number: int) -> list[bytes]:
        """The packets for many that a member's kernel got, without queries, and no longer has to get."""
        frames = list(self.taps[number].written)
        self.taps[number].written.clear()
        packets = []
        for frame in frames:
            packet = frame[14:]
            if not frame[0] & 1 or is_query(packet):
                continue
            destination = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
            source = packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]
            assert frame[:6] == mac_of(destination) and frame[6:12] == mac_for(source), f"seed {self.seed}"
            packets.append(packet)
        return packets

    def counted(self, name: str) -> list[int]:
        return [node.counters[name] for node in self.nodes]

    def totals(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for node in self.nodes:
            total.update(node.counters)
        return total


def is_query(packet: bytes) -> bool:
    """Whether this is a question of the node's own to its host."""
    if packet[0] >> 4 == 4:
        return packet[9] == PROTOCOL_IGMP and checksum(packet[24:]) == 0 and packet[24] == 0x11
    return packet[6] == 0 and packet[48] == 130
