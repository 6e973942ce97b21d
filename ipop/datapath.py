"""Frames from the TAP to peers: what happens for every one of them. The other way is `ipop.inbound`.

The fast way is one dict lookup: `Flow`, where packets for one address go, prepared outside it and replaced whole. No
message objects, no logging and no parsing beyond fixed offsets happen there. What the TAP gives in one go and is for
one peer is sealed and sent together; super-packets go as segments (`ipop.superpacket`). TCP data waits in a queue of
its own while the TAP has anything else.
A packet without a flow waits, in bounded queues, while `ipop.resolve` looks for its destination; if that fails its
sender is told by ICMP. Never looks into the DHT.

Hop limits stay as they are: to hosts this is one link, where nobody forwards (RFC 2003, section 3.1). 0 is refused.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Protocol

from dht.certificate import Member, Network
from dht.envelope import Inner
from dht.host import Host
from ipop.destination import is_discovery
from ipop.ecn import ECN_MASK, class_of
from ipop.ethernet import (
    ETHERNET_HEADER_BYTES,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PROTOCOL_ICMP6,
    BadFrame,
    address_text,
    is_multicast,
    unwrap,
    wrap,
)
from ipop.icmp import Limiter, unreachable
from ipop.inbound import Arrivals, Inbound
from ipop.neighbor import Segment, answer, mac_for
from ipop.resolve import Address, Located, Reason, Resolver
from ipop.superpacket import complete, is_bulk, partial, split
from ipop.tap import Tap
from ipop.waiting import Waiting

log = logging.getLogger(__name__)

MAX_FLOWS = 8192
BATCH_PACKETS = 32  # Sent without waiting for the end of what the TAP has; more gain little.
RUN_PACKETS = 8  # So many segments of one super-packet are sent by themselves, for they are of one length.

# TCP's data waits while anything else is sent, so that a bulk stream does not hold up pings, names and voice.
BULK_BYTES = 192 << 10  # A wake-up: less than a millisecond's work.
MAX_BULK_BYTES = 4 << 20

_PACKET = bytes((Inner.PACKET,))


class Ring(Arrivals, Protocol):
    """What carries packets: `dht.traffic.Traffic`."""

    def send_packet(self, peer_id: int, packet: bytes, traffic_class: int = 0) -> bool: ...
    def send_traffic(self, peer_id: int, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool: ...
    def room_bytes(self, peer_id: int) -> int: ...


class Flow:
    """Where packets for one virtual address go, and how many went."""

    __slots__ = ("address", "octets", "packets", "peer_id")

    def __init__(self, peer_id: int, address: bytes) -> None:
        self.peer_id = peer_id
        self.address = address
        self.packets = 0
        self.octets = 0


class DataPath:
    """Joins a TAP to the ring for one member. `counters` names everything that was dropped, and why."""

    def __init__(
        self,
        host: Host,
        tap: Tap,
        ring: Ring,
        resolver: Resolver,
        network: Network,
        own: Member,
        *,
        copy_dscp: bool = True,
    ) -> None:
        self._host, self._tap, self._ring, self._resolver = host, tap, ring, resolver
        self._own = own
        self.segment = Segment(own.address4, network.subnet, own.address6, network.prefix6)
        self._own4, self._own6 = self.segment.own4, self.segment.own6
        self._own_mac = mac_for(self._own4)
        self._refusals = Limiter()
        self.counters: Counter[str] = Counter()
        self._flows: dict[bytes, Flow] = {}
        self.inbound = Inbound(host, tap, ring, resolver, self.segment, self.counters)
        self._waiting = Waiting()
        self._batch: list[bytes] = []
        self._batch_flow: Flow | None = None
        self._batch_class = 0
        self.class_mask = 0xFF if copy_dscp else ECN_MASK  # what the outer header shows of the inner one
        self._bulk: deque[bytes] = deque()
        self._bulk_bytes = 0
        self.running = False
        self.pave: Callable[[Flow], None] | None = None  # told after a flow's packets were sent: `ipop.fastpath`
        self._used: dict[bytes, Flow] = {}  # since `pave` was last told
        self.to_many: Callable[[bytes, bytes, bytes], None] | None = None  # takes packet, source and destination
        self.packets_out = 0  # A plain integer: it changes with every packet.

    def start(self) -> None:
        self.running = True
        self._tap.on_frame(self.outbound)
        self._tap.on_virtual(self.outbound_virtual)
        self._tap.on_drained(self.drained)
        self.inbound.start()

    def stop(self) -> None:
        """Nothing is sent or written after this."""
        self.running = False
        self._batch, self._batch_flow = [], None
        self._bulk.clear()
        self._used.clear()
        self._flows.clear()
        self.inbound.stop()

    def flow(self, address: Address) -> Flow | None:
        """The present flow towards `address`."""
        return self._flows.get(address.packed)

    def outbound(self, frame: bytes) -> None:
        """One frame from our kernel."""
        kind = frame[12:14]
        if kind == ETHERTYPE_IPV4:
            ours, destination, traffic_class = frame[26:30] == self._own4, frame[30:34], frame[15]
        elif kind == ETHERTYPE_IPV6:
            destination = frame[38:54]
            ours = frame[22:38] == self._own6 and (frame[20] != PROTOCOL_ICMP6 or not is_discovery(frame[14:]))
            traffic_class = (frame[14] & 15) << 4 | frame[15] >> 4
        else:
            ours, destination, traffic_class = False, b"", 0
        if ours:
            flow = self._flows.get(destination)
            if flow is not None:
                self._add(flow, (_PACKET + frame[ETHERNET_HEADER_BYTES:],), traffic_class & self.class_mask)
                return
        self._outbound_first(frame, kind)

    def outbound_virtual(self, frame: bytes) -> None:
        """One frame from our kernel that is still to be completed: a virtio_net header is in front."""
        if not is_bulk(frame):
            self.send_virtual(frame)
        elif self._bulk_bytes + len(frame) > MAX_BULK_BYTES:
            self.counters["outbound_bulk_dropped"] += 1  # The newest goes: its connection sends less from now on.
        else:
            self._bulk.append(frame)
            self._bulk_bytes += len(frame)

    def drained(self) -> bool:
        """The TAP has nothing more for now: send what has been gathered, then some of what could wait. Whether some
        still waits."""
        if self._batch_flow is not None:
            self.flush()
        if self._used:
            used, self._used = self._used, {}
            for flow in used.values():
                if self.pave is not None:
                    self.pave(flow)
        if not self._bulk:
            return False
        self.send_waiting(BULK_BYTES)
        return bool(self._bulk)

    def send_waiting(self, most_bytes: int = MAX_BULK_BYTES) -> None:
        """Send what waits until others are through, as far as the frame in which `most_bytes` are reached."""
        while self._bulk and most_bytes > 0:
            frame = self._bulk.popleft()
            self._bulk_bytes -= len(frame)
            most_bytes -= len(frame)
            self.send_virtual(frame)
        self.flush()

    def send_virtual(self, frame: bytes) -> None:
        """As `outbound_virtual`, now."""
        kind = frame[22:24]
        if kind == ETHERTYPE_IPV4:
            ours, destination, traffic_class = frame[36:40] == self._own4, frame[40:44], frame[25]
        else:
            destination, traffic_class = frame[48:64], (frame[24] & 15) << 4 | frame[25] >> 4
            ours = kind == ETHERTYPE_IPV6 and frame[32:48] == self._own6 and frame[30] != PROTOCOL_ICMP6
        flow = self._flows.get(destination) if ours else None
        try:
            if flow is not None:
                try:
                    # The second byte says how to cut it, if at all.
                    room_bytes = self._ring.room_bytes(flow.peer_id)
                    if not room_bytes:
                        raise BadFrame("the peer takes whole packets only")
                    plaintexts = split(frame, room_bytes) if frame[1] else (partial(frame),)
                    self._add(flow, plaintexts, traffic_class & self.class_mask)
                    return
                except BadFrame:
                    self.counters["outbound_taken_apart"] += 1
            for each in complete(frame):
                self.outbound(each)
        except BadFrame:
            self.counters["outbound_malformed"] += 1

    def flush(self) -> None:
        """Send what has been gathered for one peer."""
        flow, plaintexts = self._batch_flow, self._batch
        if flow is None:
            return
        self._batch_flow, self._batch = None, []
        if self._ring.send_traffic(flow.peer_id, plaintexts, self._batch_class):
            flow.packets += len(plaintexts)
            flow.octets += sum(map(len, plaintexts))
            self.packets_out += len(plaintexts)
            if self.pave is not None:
                self._used[flow.address] = flow
            return
        self._flows.pop(flow.address, None)
        for plaintext in plaintexts:
            if plaintext[0] == Inner.PACKET:
                self._wait(plaintext[1:], flow.address)
            else:
                self.counters["outbound_session_lost"] += 1

    def _add(self, flow: Flow, plaintexts: Sequence[bytes], traffic_class: int) -> None:
        run = len(plaintexts) >= RUN_PACKETS
        if run or flow is not self._batch_flow or traffic_class != self._batch_class:
            self.flush()
            self._batch_flow, self._batch_class = flow, traffic_class
        self._batch += plaintexts
        if run or len(self._batch) >= BATCH_PACKETS:
            self.flush()

    def _outbound_first(self, frame: bytes, kind: bytes) -> None:
        """A frame without a flow: answered here, refused, or kept until its destination is found."""
        if not self.running:
            return
        reply = answer(frame, self.segment)
        if reply is not None:
            self._tap.write(reply)
            return
        if kind not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
            self.counters["outbound_not_ip"] += 1
            return
        try:
            packet, source, destination = unwrap(frame)
        except BadFrame:
            self.counters["outbound_malformed"] += 1
            return
        if frame[0] & 1 or is_multicast(destination):
            if self.to_many is None:
                self.counters["outbound_multicast_dropped"] += 1
            else:
                self.to_many(packet, source, destination)
        elif not self.segment.is_own(source) or is_discovery(packet):
            self.counters["outbound_source_refused"] += 1
        elif not self.segment.is_neighbor(destination):
            self.counters["outbound_outside_network"] += 1
            self._refuse(packet, destination)
        elif self._resolver.failure(ip_address(destination)) is not None:
            self.counters["outbound_unreachable"] += 1
            self._refuse(packet, destination)
        else:
            self._wait(packet, destination)

    def _wait(self, packet: bytes, destination: bytes) -> None:
        looking = destination in self._waiting
        dropped = self._waiting.add(destination, packet)
        if dropped:
            self.counters["outbound_queue_dropped"] += dropped
        if not looking and destination in self._waiting:
            self._resolver.reach(ip_address(destination), lambda found: self._reached(destination, found))

    def _reached(self, destination: bytes, found: Located) -> None:
        """The resolver's answer: everything that waited goes out, or is refused."""
        packets = self._waiting.take(destination)
        if not self.running:
            return
        if isinstance(found, Reason):
            log.debug("%s is unreachable: %s", address_text(destination), found.value)
            self.counters["outbound_unreachable"] += len(packets)
            for packet in packets:
                self._refuse(packet, destination)
            return
        if len(self._flows) >= MAX_FLOWS:
            self._flows.clear()  # Cheap to make again: the resolver remembers who holds what.
        flow = self._flows[destination] = Flow(found.id, destination)
        for packet in packets:
            if self._ring.send_packet(found.id, packet, class_of(packet, 0) & self.class_mask):
                flow.packets += 1
                flow.octets += len(packet)
                self.packets_out += 1
            else:
                self.counters["outbound_session_lost"] += 1

    def _refuse(self, packet: bytes, destination: bytes) -> None:
        """Tell the program behind `packet` at once that it won't arrive, in the name of its destination."""
        if not self._refusals.take(self._host.now()):
            self.counters["refusals_limited"] += 1
            return
        refusal = unreachable(packet, destination, broadcast4=self.segment.broadcast4)
        if refusal is not None:
            self._tap.write(wrap(refusal, self._own_mac, mac_for(destination)))
