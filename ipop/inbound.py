"""Packets from peers to the TAP: what happens for every one of them.

The fast way is one dict lookup: `Origin`, a source address that a peer has proved to hold, prepared outside it and
replaced whole. Segments come out again as super-packets, run by run, no run held back for what may still come. What a
peer may not send is counted and dropped. Never sends anything to peers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from dht.certificate import Member
from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.host import Host
from ipop.destination import is_discovery
from ipop.ecn import ECN_MASK, MAY_CHANGE, decapsulated
from ipop.ethernet import PROTOCOL_ICMP6, hop_limit, ip_ends
from ipop.neighbor import Segment, mac_for
from ipop.origins import Origin, Origins
from ipop.resolve import Resolver
from ipop.superpacket import PACKET_AT, Run, read_partial
from ipop.tap import Tap
from ipop.vnet import fill, partial_header


class Arrivals(Protocol):
    """What gives packets: `dht.traffic.Traffic`."""

    def on_packet(self, callback: Callable[[Member, bytes], None]) -> None: ...
    def on_traffic(self, callback: Callable[[Member, Sequence[bytes]], None]) -> None: ...
    def on_run(self, callback: Callable[[Member, memoryview, int], None]) -> None: ...


class Inbound:
    """The way in for one member. `counters` names everything that was dropped, and why."""

    def __init__(
        self, host: Host, tap: Tap, ring: Arrivals, resolver: Resolver, segment: Segment, counters: Counter[str]
    ) -> None:
        self._host, self._tap, self._ring, self._counters = host, tap, ring, counters
        self._own4, self._own6 = segment.own4, segment.own6
        self._proofs = Origins(segment, mac_for(segment.own4), resolver.learn, counters)
        self.origins = self._proofs.known
        self.running = False
        self.packets = 0  # A plain integer: it changes with every packet.

    def start(self) -> None:
        self.running = True
        self._ring.on_packet(self.take)
        self._ring.on_traffic(self.take_traffic)
        self._ring.on_run(self.take_run)

    def stop(self) -> None:
        """Nothing is written after this."""
        self.running = False
        self.origins.clear()

    def take_traffic(self, member: Member, plaintexts: Sequence[bytes]) -> None:
        """What a peer sent together."""
        run: Run | None = None
        origin: Origin | None = None
        if not self.running:
            return
        outer = self._host.received_class & ECN_MASK
        if outer & MAY_CHANGE:
            marked = (decapsulated(each, PACKET_AT[each[0]], outer, self._counters) for each in plaintexts)
            plaintexts = [each for each in marked if each]
        for plaintext in plaintexts:
            if run is not None:
                if run.extend(plaintext):
                    continue
                self._write_run(run, origin)
                run = None
            try:
                if plaintext[0] == Inner.PACKET:
                    self._take(member, plaintext[1:])
                elif plaintext[0] == Inner.SEGMENT:
                    run = Run(plaintext)
                    origin = self._proofs.of(member, run.head.source, run.head.destination, hop_limit(run.head.bytes))
                else:
                    self._take_partial(member, plaintext)
            except BadDatagram:
                self._counters["inner_malformed"] += 1
        if run is not None:
            self._write_run(run, origin)

    def take_run(self, member: Member, plaintexts: memoryview, size: int) -> None:
        """As `take_traffic`, for segments that lie one behind the other, each of `size` bytes but for the last."""
        if self._host.received_class & MAY_CHANGE:
            each = [bytes(plaintexts[at : at + size]) for at in range(0, len(plaintexts), size)]
            self.take_traffic(member, each)
            return
        if not self.running:
            return
        at = 0
        while at < len(plaintexts):
            try:
                run = Run(bytes(plaintexts[at : at + size]))
                origin = self._proofs.of(member, run.head.source, run.head.destination, hop_limit(run.head.bytes))
            except BadDatagram:
                self._counters["inner_malformed"] += 1
                at += size
                continue
            at += size
            at += run.extend_all(plaintexts, at, size)
            self._write_run(run, origin)

    def _write_run(self, run: Run, origin: Origin | None) -> None:
        if origin is None:
            return  # Refused, and counted.
        self.packets += run.segments
        if self._tap.offloads.tcp if run.head.tcp else self._tap.offloads.udp:
            self._tap.write_virtual(run.virtual(origin.header))
        else:
            for packet in run.packets():
                self._tap.write(origin.header + packet)

    def _take_partial(self, member: Member, plaintext: bytes) -> None:
        packet, transport, checksum_at = read_partial(plaintext)
        source, destination = ip_ends(packet)
        if is_discovery(packet):
            self._counters["inner_discovery_refused"] += 1
            return
        origin = self._proofs.of(member, source, destination, hop_limit(packet))
        if origin is None:
            return
        self.packets += 1
        if self._tap.offloads.checksum:
            self._tap.write_virtual((partial_header(transport, checksum_at), origin.header, packet))
        else:
            self._tap.write(origin.header + fill(packet, transport, checksum_at))

    def take(self, member: Member, packet: bytes) -> None:
        """One packet from a peer; `member` is who the session proved it to be."""
        outer = self._host.received_class & ECN_MASK
        if outer & MAY_CHANGE and not (packet := decapsulated(packet, 0, outer, self._counters)):
            return
        self._take(member, packet)

    def _take(self, member: Member, packet: bytes) -> None:
        if packet[:1] == b"\x45":  # IPv4 without options
            source = packet[12:16]
            plain = packet[16:20] == self._own4 and len(packet) == packet[2] << 8 | packet[3] and packet[8]
        elif len(packet) >= 40:
            source = packet[8:24]
            plain = (
                packet[24:40] == self._own6
                and packet[0] >> 4 == 6
                and len(packet) == 40 + (packet[4] << 8 | packet[5])
                and packet[7]
                and (packet[6] != PROTOCOL_ICMP6 or not is_discovery(packet))
            )
        else:
            source, plain = b"", False
        origin = self.origins.get(source)
        if plain and origin is not None and origin.member is member:
            self.packets += 1
            self._tap.write(origin.header + packet)
        else:
            self._take_first(member, packet)

    def _take_first(self, member: Member, packet: bytes) -> None:
        """A packet from an address not yet proved, or one to refuse."""
        if not self.running:
            return
        try:
            source, destination = ip_ends(packet)
        except BadDatagram:
            self._counters["inner_malformed"] += 1
            return
        if is_discovery(packet):
            self._counters["inner_discovery_refused"] += 1  # Who has which Ethernet address is decided here alone.
            return
        origin = self._proofs.of(member, source, destination, hop_limit(packet))
        if origin is not None:
            self.packets += 1
            self._tap.write(origin.header + packet)
