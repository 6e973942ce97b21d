"""Frames for every member of a ring: best effort, at the least cost, each member once.

The sender gives each of its edges a part of the ring (`dht.arcs`); whoever receives a frame with its part does the same
within it. N - 1 datagrams for N members, from any of them; the largest part is sent first. Nothing is acknowledged or
repeated: edges that don't answer are gone around, and what is lost is lost. `dht.notices` is for what must arrive.

    kind (1) | channel (1) | hops (1) | origin id (20) | low (8) | high (8) | number (8) | payload

`channel` says what the payload is; a member passes on channels it does not know. The number is random, so that nobody
can use up the next one of somebody else; the latest WINDOW of each origin are remembered. Parts shrink with every hop,
so nothing goes in circles, and one that holds its sender, its origin, or not the receiver, is refused.

**What a lying member can do**: name another origin (the sender of a hop is proven, the origin only said: a frame that
must be its origin's needs a signature inside), keep its part for itself, or repeat a frame to members that have
forgotten its number. It can make others send no more than it could send in its own name: rates are per origin as each
hop passes it on, and per hop (`dht.metering`); a hop sends at most `fan_out` copies.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from struct import Struct
from typing import Final, NamedTuple, Protocol

from dht.arcs import Arc, around, divide, place_of, without
from dht.edge import Edge
from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.fragments import MAX_MESSAGE_BYTES
from dht.host import Host
from dht.ids import ID_BYTES, id_bytes
from dht.metering import DEFAULT_LIMITS, Limits, Meter

FAN_OUT: Final = 8
MAX_HOPS: Final = 40
WINDOW: Final = 1024
MAX_ORIGINS: Final = 256
MAX_PLANS: Final = 64
PLAN_S: Final = 0.25
_HEAD = Struct(f">BBB{ID_BYTES}sQQ")
_NUMBER_BYTES: Final = 8
HEAD_BYTES: Final = _HEAD.size  # what is the same for all frames of one origin that came by one way
HEADER_BYTES: Final = HEAD_BYTES + _NUMBER_BYTES
MAX_PAYLOAD_BYTES: Final = MAX_MESSAGE_BYTES - HEADER_BYTES - 64  # a group's tag, and an envelope's header, come before
_ROUTE = itemgetter(slice(0, HEAD_BYTES))


class Members(Protocol):
    """What this needs of a ring: `dht.overlay.Overlay`."""

    me: int

    @property
    def joined(self) -> bool: ...

    def edges(self) -> list[Edge]: ...


class Head(NamedTuple):
    """What stands before a frame's number and payload."""

    channel: int
    hops: int
    origin: int
    arc: Arc

    def pack(self) -> bytes:
        return _HEAD.pack(Inner.BROADCAST, self.channel, self.hops, id_bytes(self.origin), *self.arc)

    @classmethod
    def parse(cls, plaintext: bytes) -> Head:
        """Reads the head of a plaintext of kind BROADCAST. Raises BadDatagram."""
        if len(plaintext) < HEADER_BYTES:
            raise BadDatagram(f"a broadcast frame has at least {HEADER_BYTES} bytes, not {len(plaintext)}")
        _, channel, hops, origin, low, high = _HEAD.unpack_from(plaintext)
        return cls(channel, hops, int.from_bytes(origin, "big"), Arc(low, high))


Receive = Callable[[int, Sequence[bytes]], None]


class _Plan(NamedTuple):
    """How one arc is divided, for a short while."""

    until: float
    children: list[tuple[Edge, Arc]]


class Broadcast:
    """The frames of one ring. `fan_out`: how many copies of a frame this node sends at most."""

    def __init__(
        self, host: Host, ring: Members, counters: Counter[str], limits: Limits = DEFAULT_LIMITS, fan_out: int = FAN_OUT
    ) -> None:
        self._host, self._ring, self._counters = host, ring, counters
        self._place = place_of(ring.me)
        self._meter = Meter(limits)
        self.fan_out = fan_out
        self._channels: dict[int, Receive] = {}
        self._seen: OrderedDict[int, OrderedDict[int, None]] = OrderedDict()  # by origin: numbers, the latest last
        self._plans: OrderedDict[Arc, _Plan] = OrderedDict()

    def use_limits(self, limits: Limits) -> None:
        """Other rates from now on."""
        self._meter = Meter(limits)

    def on(self, channel: int, receive: Receive) -> None:
        """Give frames of `channel` (0 to 255) to `receive(origin id, payloads)`. Raises ValueError when somebody has
        it."""
        if not 0 <= channel <= 255:
            raise ValueError("a channel is a number from 0 to 255")
        if channel in self._channels:
            raise ValueError(f"channel {channel} is taken")
        self._channels[channel] = receive

    def off(self, channel: int) -> None:
        """Nobody here wants `channel` any more; it is still passed on."""
        self._channels.pop(channel, None)

    def send(self, channel: int, payloads: Sequence[bytes], traffic_class: int = 0) -> int:
        """Send frames to every other member; how many were sent, the others being over this node's own rate. Raises
        ValueError for a payload of more than MAX_PAYLOAD_BYTES."""
        if any(len(payload) > MAX_PAYLOAD_BYTES for payload in payloads):
            raise ValueError(f"a broadcast frame carries at most {MAX_PAYLOAD_BYTES} bytes")
        me = self._ring.me
        if not self._ring.joined:
            self._counters["broadcast_outside"] += len(payloads)
            return 0
        numbered = [self._host.rng.getrandbits(64).to_bytes(_NUMBER_BYTES, "big") + payload for payload in payloads]
        allowed = self._metered(me, me, numbered)
        if allowed:
            self._counters["broadcast_sent"] += len(allowed)
            self._pass_on(Head(channel, 0, me, Arc(self._place, self._place)), allowed, traffic_class)
        return len(allowed)

    def receive(self, hop: int, plaintexts: Sequence[bytes], traffic_class: int = 0) -> None:
        """Take frames that member `hop` passed on together, each with its kind in front. Raises BadDatagram."""
        for _, alike in groupby(plaintexts, _ROUTE):
            self._take(hop, list(alike), traffic_class)

    def children(self, arc: Arc) -> list[tuple[Edge, Arc]]:
        """Who gets which part of an arc around this node (equal ends: the whole ring), the largest part first."""
        plan = self._plans.get(arc)
        now = self._host.now()
        if plan is None or plan.until < now or any(edge.suspect or not edge.up for edge, _ in plan.children):
            regions = around(self._place) if arc.low == arc.high else without(arc, self._place)
            edges = [(place_of(edge.id), edge) for edge in self._ring.edges() if edge.in_trees and not edge.suspect]
            plan = _Plan(now + PLAN_S, divide(regions, edges, self.fan_out))
            self._plans.pop(arc, None)
            if len(self._plans) >= MAX_PLANS:
                self._plans.popitem(last=False)
            self._plans[arc] = plan
        return plan.children

    def _take(self, hop: int, plaintexts: list[bytes], traffic_class: int) -> None:
        head = Head.parse(min(plaintexts, key=len))
        me, arc = self._ring.me, head.arc
        if head.origin == me:
            raise BadDatagram("a broadcast frame of ours came back")
        if head.hops >= MAX_HOPS:
            raise BadDatagram(f"a broadcast frame after {head.hops} hops")
        if arc.low == arc.high or not arc.holds(self._place):
            raise BadDatagram("a broadcast frame for a part of the ring that is not ours")
        if arc.holds(place_of(hop)) or arc.holds(place_of(head.origin)):
            raise BadDatagram("a broadcast frame whose part of the ring does not shrink")
        numbered = [plaintext[HEAD_BYTES:] for plaintext in plaintexts]
        # Rates before duplicates: repeating something is no way to be heard more often.
        fresh = self._fresh(head.origin, self._metered(hop, head.origin, numbered))
        if not fresh:
            return
        self._pass_on(head, fresh, traffic_class)
        receive = self._channels.get(head.channel)
        if receive is None:
            self._counters["broadcast_unread"] += len(fresh)
        else:
            self._counters["broadcast_received"] += len(fresh)
            receive(head.origin, [each[_NUMBER_BYTES:] for each in fresh])

    def _metered(self, hop: int, origin: int, numbered: list[bytes]) -> list[bytes]:
        now, meter = self._host.now(), self._meter
        allowed = [each for each in numbered if meter.take(hop, origin, len(each) + HEAD_BYTES, now)]
        if len(allowed) < len(numbered):
            self._counters["broadcast_over_rate"] += len(numbered) - len(allowed)
        return allowed

    def _fresh(self, origin: int, numbered: list[bytes]) -> list[bytes]:
        """Those that did not come before."""
        seen = self._seen.get(origin)
        if seen is None:
            if len(self._seen) >= MAX_ORIGINS:
                self._seen.popitem(last=False)
            seen = self._seen[origin] = OrderedDict()
        else:
            self._seen.move_to_end(origin)
        fresh = []
        for each in numbered:
            number = int.from_bytes(each[:_NUMBER_BYTES], "big")
            if number in seen:
                self._counters["broadcast_duplicate"] += 1
                continue
            seen[number] = None
            if len(seen) > WINDOW:
                seen.popitem(last=False)
            fresh.append(each)
        return fresh

    def _pass_on(self, head: Head, numbered: list[bytes], traffic_class: int) -> None:
        children = self.children(head.arc)
        for edge, part in children:
            before = Head(head.channel, head.hops + 1, head.origin, part).pack()
            edge.send_all([before + each for each in numbered], traffic_class)
        self._counters["broadcast_copies"] += len(children) * len(numbered)
