"""Whether a frame that came along a tree is its origin's, and new: one answer for every frame, now or a little later.

    frame -> who holds its source address? (known | looked up, frames wait) -> that member's signature? -> seen before?

A member is known by the certificate that its address's record shows (`ipop.resolve`). Frames with a time of more than
FRESH_S ago are refused, and what was seen is remembered for longer than that, so that nothing passes twice, not even
what a member kept. Checks are bounded, because only they can cost much. Never looks into packets.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import ip_address

from dht.budget import Budget
from dht.certificate import Member, Network
from dht.errors import BadDatagram
from dht.host import Host
from dht.replay import ReplayWindow
from ipop.cast_wire import Cast
from ipop.resolve import Address, Located

FRESH_S = 60.0
REMEMBER_S = 2 * FRESH_S + 10.0
KNOWN_S = 300.0  # then the address's record is looked at again
UNKNOWN_S = 2.0
MAX_ORIGINS = 1024  # addresses; two a member
MAX_ASKED = 32
MAX_WAITING = 128  # frames of one origin that is being looked up
MAX_BATCHES = 32  # of one origin, whose signature was found good
CHECKS_PER_S = 2000.0
CHECKS_AT_ONCE = 4000.0

Took = Callable[[Member], None]


class _Origin:
    """One member: what was seen of it, and which signatures were good."""

    __slots__ = ("good", "heard_at", "known_at", "member", "window")

    def __init__(self, member: Member, now: float) -> None:
        self.member = member
        self.window = ReplayWindow()
        self.good: OrderedDict[bytes, tuple[int, int, tuple[bytes, ...]]] = OrderedDict()
        self.heard_at = self.known_at = now


class Witness:
    """`locate(address, done)` finds who holds an address; `network_time()` is what peers agree on, in seconds."""

    def __init__(
        self,
        host: Host,
        network: Network,
        locate: Callable[[Address, Callable[[Located], None]], None],
        network_time: Callable[[], float],
        counters: Counter[str],
    ) -> None:
        self._host, self._network, self._counters = host, network, counters
        self._locate, self._network_time = locate, network_time
        self._origins: OrderedDict[int, _Origin] = OrderedDict()  # by node id
        self._by_address: dict[bytes, _Origin] = {}
        self._waiting: dict[bytes, list[tuple[Cast, Callable[[bool], None]]]] = {}
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._checks = Budget(CHECKS_PER_S, CHECKS_AT_ONCE, host.now())
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self._waiting.clear()

    def judge(self, cast: Cast, proven: Callable[[bool], None]) -> None:
        """Calls `proven(new)` when `cast` is its origin's: at once, or when the origin has been looked up; never when
        it is not."""
        origin = self._by_address.get(cast.source)
        now = self._host.now()
        if origin is not None and now - origin.known_at <= KNOWN_S:
            self._judge(origin, cast, proven)
            return
        waiting = self._waiting.get(cast.source)
        if waiting is not None:
            if len(waiting) < MAX_WAITING:
                waiting.append((cast, proven))
            else:
                self._counters["cast_waiting_dropped"] += 1
            return
        if self._unknown.get(cast.source, 0.0) > now:
            self._counters["cast_origin_unknown"] += 1
            return
        if len(self._waiting) >= MAX_ASKED:
            self._counters["cast_origin_not_asked"] += 1
            return
        self._waiting[cast.source] = [(cast, proven)]
        self._locate(ip_address(cast.source), lambda found: self._located(cast.source, found))

    def _located(self, source: bytes, found: Located) -> None:
        waiting = self._waiting.pop(source, [])
        if self._stopped:
            return
        now = self._host.now()
        if not isinstance(found, Member):
            self._counters["cast_origin_unknown"] += len(waiting)
            self._unknown[source] = now + UNKNOWN_S
            if len(self._unknown) > MAX_ORIGINS:
                self._unknown.popitem(last=False)
            return
        origin = self._origins.get(found.id)
        if origin is None:
            origin = self._origins[found.id] = _Origin(found, now)
            self._make_room(now)
        origin.member, origin.known_at = found, now
        self._by_address[source] = origin
        for cast, proven in waiting:
            self._judge(origin, cast, proven)

    def _judge(self, origin: _Origin, cast: Cast, proven: Callable[[bool], None]) -> None:
        now = self._host.now()
        if abs(self._network_time() - cast.time) > FRESH_S:
            self._counters["cast_stale"] += 1
            return
        text = (cast.first, cast.time, cast.digests)
        if origin.good.get(cast.signature) != text:
            if not self._checks.take(now):
                self._counters["cast_checks_limited"] += 1
                return
            try:
                cast.check(self._network, origin.member)
            except BadDatagram:
                self._counters["cast_forged"] += 1
                return
            origin.good[cast.signature] = text
            if len(origin.good) > MAX_BATCHES:
                origin.good.popitem(last=False)
        if now - origin.heard_at > REMEMBER_S:
            origin.window = ReplayWindow()  # a clock that was set back must not silence its host for good
        new = origin.window.accept(cast.sequence)
        if new:
            origin.heard_at = now
            self._origins.move_to_end(origin.member.id)
        else:
            self._counters["cast_repeated"] += 1
        proven(new)

    def _make_room(self, now: float) -> None:
        """Forget who has been silent; within REMEMBER_S of its last frame nobody, unless there are too many."""
        while len(self._origins) > MAX_ORIGINS // 2:
            _, gone = self._origins.popitem(last=False)
            self._by_address = {address: each for address, each in self._by_address.items() if each is not gone}
            if now - gone.heard_at <= REMEMBER_S:
                self._counters["cast_origins_full"] += 1
