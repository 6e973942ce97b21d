"""Packets for many: from the TAP to a broadcast tree, and from trees to the TAP.

    out: IGMP, MLD -> `membership`, which answers        others -> rates -> queue -> signed together -> tree(s)
    in:  tree -> wanted here? -> its origin's, and new? (`witness`) -> TAP, with the group's hardware address

What is for everybody on the link, and what is for a quiet group, goes along the tree of the whole network; a busy group
has a ring, and a tree, of its own (`busy`). Who doesn't want a group gets none of its packets on the TAP. Rates bound
every sender: beyond them its packets are dropped here, before they cost anybody anything, and again at every hop. This
queue is emptied a few packets at a time, between them everything else has its turn; so a storm delays no unicast.

Never sends what `destination.stays_on_link` keeps here, never gives a packet to the host that sent it, and never looks
into the DHT. Congestion marks are not carried on: packets leave as Not-ECT.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from dht.budget import Budget
from dht.errors import BadDatagram
from dht.host import Host, Timer
from dht.identity import Identity
from ipop.busy import MAX_RINGS, TICK_S, BusyGroups, Way
from ipop.cast_wire import MAX_BATCH, Cast, Kind, Warrant, parse, sign_alone, sign_together
from ipop.destination import Reach, is_membership, mac_of, reach_of, stays_on_link
from ipop.ecn import ECN_MASK, class_of
from ipop.ethernet import hop_limit, wrap
from ipop.membership import Membership
from ipop.neighbor import Segment, mac_for
from ipop.resolve import Address, Located
from ipop.tap import Tap
from ipop.witness import Witness

log = logging.getLogger(__name__)

# What one sender may send, in packets a second, and at once. All of it stays below what trees let through
# (`dht.metering`), so that what this node takes of its host is not dropped on the way. A full 1400-byte packet counts
# once, a longer one for as many as it would make.
EVERYBODY_PER_S, EVERYBODY_AT_ONCE = 200.0, 100.0
QUIET_PER_S, QUIET_AT_ONCE = 600.0, 300.0
BUSY_PER_S, BUSY_AT_ONCE = 900.0, 400.0
PACKET_BYTES = 1400
NOTES_PER_S, NOTES_AT_ONCE = 5.0, 20.0

MAX_QUEUED = 512
SHARE = 2 * MAX_BATCH  # packets sent before others have their turn
GATHER_S = 0.01  # a batch leaves at once, unless another left so lately; then more may share its signature
SEQUENCES_PER_S = 4096  # faster than anybody sends: a new run begins above what the last one used
QUERIER_MAC = b"\x02\x50\x00\x00\x00\x00"


class Casts(Protocol):
    """The trees. `group` is a multicast group's address, None the whole network."""

    def cast(self, group: bytes | None, frames: Sequence[bytes], traffic_class: int) -> None:
        """Send frames to every other member of a ring; lost where this node has no place on it."""

    def be_on(self, groups: set[bytes]) -> set[bytes]:
        """Be on the rings of these groups, and of no others. Which of them this node is on now: a node is in so many
        groups at most."""

    def on_cast(self, callback: Callable[[bytes | None, Sequence[bytes]], None]) -> None:
        """Give what comes along the trees to `callback(group, frames)`. The last call wins."""


class _Queued(NamedTuple):
    """One body on its way out."""

    kind: Kind
    body: bytes
    group: bytes | None  # whose ring carries it; None: none
    network: bool
    traffic_class: int
    source: bytes = b""
    target: bytes = b""  # of a packet


class Multicast:
    """Packets for many of one node. `counters` names everything that was dropped, and why."""

    def __init__(
        self,
        host: Host,
        tap: Tap,
        casts: Casts,
        identity: Identity,
        locate: Callable[[Address, Callable[[Located], None]], None],
        network_time: Callable[[], float],
        counters: Counter[str],
        *,
        copy_dscp: bool = True,
    ) -> None:
        self._host, self._tap, self._casts, self._identity = host, tap, casts, identity
        self._counters, self._network_time = counters, network_time
        member, network = identity.member, identity.network
        self._segment = Segment(member.address4, network.subnet, member.address6, network.prefix6)
        self._own_mac = mac_for(self._segment.own4)
        self._class_mask = 0xFF & ~ECN_MASK if copy_dscp else 0
        self.witness = Witness(host, network, locate, network_time, self._proven, counters)
        now = host.now()
        self.membership = Membership(now)
        self._wanted: set[bytes] = set()
        self.busy = BusyGroups(self._is_wanted, host.rng.uniform, now)
        self._everybody = Budget(EVERYBODY_PER_S, EVERYBODY_AT_ONCE, now)
        self._quiet = Budget(QUIET_PER_S, QUIET_AT_ONCE, now)
        self._on_ring = Budget(BUSY_PER_S, BUSY_AT_ONCE, now)
        self._notes = Budget(NOTES_PER_S, NOTES_AT_ONCE, now)
        self._queue: deque[_Queued] = deque()
        self._pumping: Timer | None = None
        self._ticking: Timer | None = None
        self._querying: Timer | None = None
        self._pumped_at = -1e9
        self._sequence = 0
        self._rings: set[bytes] = set()
        self._running = False
        self.packets_out = self.packets_in = 0

    def start(self) -> None:
        self._running = True
        self._casts.on_cast(self._came)
        self._query()

    def stop(self) -> None:
        """Nothing is sent or written after this; the rings of busy groups are left."""
        self._running = False
        self._queue.clear()
        self.witness.stop()
        for timer in (self._pumping, self._ticking, self._querying):
            if timer is not None:
                timer.cancel()
        self._pumping = self._ticking = self._querying = None
        self._casts.be_on(set())

    @property
    def wanted(self) -> frozenset[bytes]:
        """The groups that hosts here want."""
        return frozenset(self._wanted)

    # From our own hosts

    def outbound(self, packet: bytes, source: bytes, destination: bytes) -> None:
        """An IP packet for many from our kernel."""
        if not self._running:
            return
        if is_membership(packet):
            self._report(packet)
            return
        if stays_on_link(packet):
            self._counters["multicast_kept_on_link"] += 1
            return
        if not self._segment.is_own(source):
            self._counters["outbound_source_refused"] += 1
            return
        now = self._host.now()
        traffic_class = class_of(packet, 0) & self._class_mask
        parts = -(-len(packet) // PACKET_BYTES)
        match reach_of(destination, self._segment.broadcast4):
            case Reach.EVERYBODY:
                if self._everybody.take(now, parts):
                    self._put(_Queued(Kind.PACKET, packet, None, True, traffic_class, source, destination))
                else:
                    self._counters["multicast_over_rate"] += 1
            case Reach.SUBSCRIBERS:
                self._to_group(packet, source, destination, parts, traffic_class)
            case _:
                self._counters["multicast_to_nobody"] += 1

    def _to_group(self, packet: bytes, source: bytes, group: bytes, parts: int, traffic_class: int) -> None:
        now = self._host.now()
        way = self.busy.sent(group, now)
        self._settle_rings()
        network = way is not Way.RING and self._quiet.take(now, parts)
        ring = way is not Way.QUIET and self._on_ring.take(now, parts)
        if not network and not ring:
            self._counters["multicast_over_rate"] += 1
            return
        kind = Kind.TWICE if network and ring else Kind.PACKET
        self._put(_Queued(kind, packet, group if ring else None, network, traffic_class, source, group))

    def _report(self, packet: bytes) -> None:
        for query in self.membership.take(packet, self._host.now()):
            self._write_query(query)
        self._memberships_changed()
        self._query_later()

    def _memberships_changed(self) -> None:
        now = self._host.now()
        groups = self.membership.groups()
        before, self._wanted = self._wanted, {each for each in groups if reach_of(each, b"") is Reach.SUBSCRIBERS}
        for group in sorted(self._wanted - before):
            note = self.busy.begun(group, now)
            if note is not None:
                self._say(note.kind, group)
        for group in before - self._wanted:
            self.busy.ended(group)
        self._settle_rings()

    def _is_wanted(self, group: bytes) -> bool:
        return group in self._wanted

    def _query(self) -> None:
        """Ask what is due, now and when there is something to ask again."""
        self._querying = None
        for query in self.membership.tick(self._host.now()):
            self._write_query(query)
        self._memberships_changed()
        self._query_later()

    def _query_later(self) -> None:
        if self._querying is not None:
            self._querying.cancel()
        wait_s = max(0.01, self.membership.due_at() - self._host.now())
        self._querying = self._host.call_later(wait_s, self._query)

    def _write_query(self, query: bytes) -> None:
        destination = query[16:20] if query[0] >> 4 == 4 else query[24:40]
        self._tap.write(wrap(query, mac_of(destination), QUERIER_MAC))

    # To the trees

    def _say(self, kind: Kind, group: bytes) -> None:
        if self._notes.take(self._host.now()):
            self._put(_Queued(kind, self._segment.own4 + group, None, True, 0))
        else:
            self._counters["multicast_notes_limited"] += 1

    def _put(self, queued: _Queued) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self._counters["multicast_queue_dropped"] += 1
            return
        self._queue.append(queued)
        if self._pumping is None:
            wait_s = max(0.0, self._pumped_at + GATHER_S - self._host.now())
            self._pumping = self._host.call_later(wait_s, self._pump)

    def _pump(self) -> None:
        self._pumping = None
        self._pumped_at = self._host.now()
        left = SHARE
        while self._queue and left:
            first = self._queue[0]
            batch: list[_Queued] = []
            while self._queue and len(batch) < min(MAX_BATCH, left) and _alike(self._queue[0], first):
                batch.append(self._queue.popleft())
                if not first.target:
                    break
            left -= len(batch)
            self._cast(batch)
        if self._queue:
            self._pumping = self._host.call_later(0.0, self._pump)

    def _cast(self, batch: Sequence[_Queued]) -> None:
        """Sign and send what goes the same ways."""
        now, sign = self._network_time(), self._identity.sign
        first = self._sequence or int(now * SEQUENCES_PER_S)
        self._sequence = first + len(batch)
        if len(batch) == 1:
            frames = [sign_alone(sign, batch[0].kind, batch[0].body, first, int(now))]
        else:
            frames = sign_together(sign, batch[0].kind, [each.body for each in batch], first, int(now))
        way = batch[0]
        if way.network:
            self._casts.cast(None, frames, way.traffic_class)
        if way.group is not None:
            self._casts.cast(way.group, frames, way.traffic_class)
        self.packets_out += sum(each.kind in (Kind.PACKET, Kind.TWICE) for each in batch)

    def _tick(self) -> None:
        self._ticking = None
        for note in self.busy.tick(self._host.now()):
            self._say(note.kind, note.group)
        self._settle_rings()

    def _settle_rings(self) -> None:
        """Be on the rings that `busy` calls for."""
        rings = self.busy.rings()
        if rings != self._rings:
            assert len(rings) <= MAX_RINGS
            self._rings = self._casts.be_on(rings)
            for group in rings - self._rings:
                self.busy.refused(group, self._host.now())
        if not self.busy.idle and self._ticking is None and self._running:
            self._ticking = self._host.call_later(TICK_S, self._tick)

    # From the trees

    def _came(self, group: bytes | None, frames: Sequence[bytes]) -> None:
        """Frames came along a tree."""
        if not self._running:
            return
        for frame in frames:
            try:
                self._take(group, parse(frame))
            except BadDatagram:
                self._counters["cast_malformed"] += 1

    def _take(self, ring: bytes | None, cast: Cast | Warrant) -> None:
        if not self._segment.is_neighbor(cast.source):
            # Our own come back from a member that repeats them.
            self._counters["cast_source_refused"] += 1
            return
        if isinstance(cast, Cast) and cast.kind in (Kind.BUSY, Kind.WANTED):
            if ring is None and (cast.target in self._rings or cast.target in self._wanted):
                self.witness.take(cast)
            elif cast.kind is Kind.BUSY:
                self.busy.overheard(cast.target, self._host.now())
            return
        reach = reach_of(cast.target, self._segment.broadcast4)
        if reach is Reach.SUBSCRIBERS:
            if ring is not None and ring != cast.target:
                self._counters["cast_on_another_ring"] += 1
                return
            if not self.membership.wants(cast.target, cast.source, self._host.now()):
                if isinstance(cast, Cast):
                    self._note(ring, cast)
                    self._counters["multicast_unwanted"] += 1
                return
        elif reach is not Reach.EVERYBODY or ring is not None:
            self._counters["cast_refused"] += 1
            return
        if isinstance(cast, Cast):
            if stays_on_link(cast.body) or not hop_limit(cast.body):
                self._counters["cast_refused"] += 1
                return
            # Whoever can forge a frame can make a ring seem to reach us; that costs us this group's frames at most.
            self._note(ring, cast)
        self.witness.take(cast)

    def _note(self, ring: bytes | None, cast: Cast) -> None:
        """Let `busy` see a packet to a group."""
        if reach_of(cast.target, self._segment.broadcast4) is Reach.SUBSCRIBERS:
            twice = cast.kind is Kind.TWICE
            self.busy.came(cast.target, cast.source, self._host.now(), by_ring=ring is not None, twice=twice)

    def _proven(self, cast: Cast, new: bool) -> None:
        """A frame is its origin's."""
        if not new or not self._running:
            return
        if cast.kind in (Kind.BUSY, Kind.WANTED):
            self.busy.heard(cast.kind, cast.target, cast.source, self._host.now())
            self._settle_rings()
            return
        self.packets_in += 1
        self._tap.write(wrap(cast.body, mac_of(cast.target), mac_for(cast.source)))


def _alike(one: _Queued, other: _Queued) -> bool:
    """Whether two share a signature: the same flow, by the same ways."""
    return one.kind is other.kind and one[2:] == other[2:]
