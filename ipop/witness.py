"""Whether a frame that came along a tree is its origin's, and new: one answer for every frame, now or a little later.

    frame -> its seal: inside it | in a warrant, perhaps still on its way: it waits
          -> who holds its source address? known | looked up: it waits
          -> that member's signature? -> seen before?

A member is known by the certificate that its address's record shows (`ipop.resolve`). Frames with a time of more than
FRESH_S ago are refused, and what was seen is remembered for longer than that, so that nothing passes twice, not even
what a member kept. Checks are bounded, because only they can cost much. Never looks into packets.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from dht.budget import Budget
from dht.certificate import Member, Network
from dht.errors import BadDatagram
from dht.host import Host
from dht.replay import ReplayWindow
from ipop.cast_wire import Cast, Seal, Warrant
from ipop.resolve import Address, Located

FRESH_S: Final = 60.0
REMEMBER_S: Final = 2 * FRESH_S + 10.0
KNOWN_S: Final = 300.0  # then the address's record is looked at again
UNKNOWN_S: Final = 2.0
MAX_ORIGINS: Final = 512  # members; each has two addresses
MAX_UNKNOWN: Final = 1024
MAX_ASKED: Final = 32
# One forged frame makes all its receivers look its source up: whoever invents addresses must not make a storm of that.
LOOKUPS_PER_S: Final = 20.0
LOOKUPS_AT_ONCE: Final = 2.0 * MAX_ASKED
MAX_WAITING: Final = 128  # for one origin that is being looked up
MAX_SEALS: Final = 64  # of one origin, found good
MAX_HELD: Final = 256  # frames whose warrant has not come
CHECKS_PER_S: Final = 2000.0
CHECKS_AT_ONCE: Final = 4000.0

Proven = Callable[[Cast, bool], None]


class _Origin:
    """One member: what was seen of it, and which seals were good."""

    __slots__ = ("heard_at", "known_at", "member", "seals", "window")

    def __init__(self, member: Member, now: float) -> None:
        self.member = member
        self.window = ReplayWindow()
        self.seals: OrderedDict[int, Seal] = OrderedDict()  # by their first sequence
        self.heard_at = self.known_at = now


class Witness:
    """`proven(cast, new)` is told of each frame that is its origin's, once or, not `new`, again; nobody is told of
    others. `locate(address, done)` finds who holds an address; `network_time()` is what peers agree on, in seconds."""

    def __init__(
        self,
        host: Host,
        network: Network,
        locate: Callable[[Address, Callable[[Located], None]], None],
        network_time: Callable[[], float],
        proven: Proven,
        counters: Counter[str],
    ) -> None:
        self._host, self._network, self._counters, self._proven = host, network, counters, proven
        self._locate, self._network_time = locate, network_time
        self._origins: OrderedDict[int, _Origin] = OrderedDict()  # by node id
        self._by_address: dict[bytes, _Origin] = {}
        self._waiting: dict[bytes, list[Cast | Warrant]] = {}
        # By source, first sequence, index and digest, so that no forged frame takes the place of a true one.
        self._held: OrderedDict[tuple[bytes, int, int, bytes], Cast] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._checks = Budget(CHECKS_PER_S, CHECKS_AT_ONCE, host.now())
        self._lookups = Budget(LOOKUPS_PER_S, LOOKUPS_AT_ONCE, host.now())
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self._waiting.clear()
        self._held.clear()

    def take(self, came: Cast | Warrant) -> None:
        """Judge a frame, or take a warrant for others."""
        origin = self._by_address.get(came.source)
        now = self._host.now()
        if origin is not None and now - origin.known_at <= KNOWN_S:
            self._take(origin, came)
            return
        waiting = self._waiting.get(came.source)
        if waiting is not None:
            if len(waiting) < MAX_WAITING:
                waiting.append(came)
            else:
                self._counters["cast_waiting_dropped"] += 1
        elif self._unknown.get(came.source, 0.0) > now:
            self._counters["cast_origin_unknown"] += 1
        elif len(self._waiting) >= MAX_ASKED or not self._lookups.take(now):
            self._counters["cast_origin_not_asked"] += 1
        else:
            self._waiting[came.source] = [came]
            self._locate(ip_address(came.source), lambda found: self._located(came.source, found))

    def _located(self, source: bytes, found: Located) -> None:
        waiting = self._waiting.pop(source, [])
        if self._stopped:
            return
        now = self._host.now()
        if not isinstance(found, Member):
            self._counters["cast_origin_unknown"] += len(waiting)
            self._unknown[source] = now + UNKNOWN_S
            if len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
            return
        origin = self._origins.get(found.id)
        if origin is None:
            origin = self._origins[found.id] = _Origin(found, now)
            self._make_room(now)
        origin.member, origin.known_at = found, now
        self._by_address[source] = origin
        for came in waiting:
            self._take(origin, came)

    def _take(self, origin: _Origin, came: Cast | Warrant) -> None:
        if isinstance(came, Warrant):
            if self._is_good(origin, came.seal):
                for index, digest in enumerate(came.seal.digests):
                    held = self._held.pop((came.source, came.seal.first, index, digest), None)
                    if held is not None:
                        self._judge(origin, held, came.seal)
            return
        if came.seal is not None:
            if self._is_good(origin, came.seal):
                self._judge(origin, came, came.seal)
            return
        seal = origin.seals.get(came.first)
        if seal is not None:
            self._judge(origin, came, seal)
            return
        if len(self._held) >= MAX_HELD:
            self._held.popitem(last=False)
            self._counters["cast_without_warrant"] += 1
        self._held[came.source, came.first, came.index, came.digest] = came

    def _is_good(self, origin: _Origin, seal: Seal) -> bool:
        """Whether the origin signed this, lately."""
        if abs(self._network_time() - seal.time) > FRESH_S:
            self._counters["cast_stale"] += 1
            return False
        if origin.seals.get(seal.first) == seal:
            return True
        if not self._checks.take(self._host.now()):
            self._counters["cast_checks_limited"] += 1
            return False
        try:
            seal.check(self._network, origin.member)
        except BadDatagram:
            self._counters["cast_forged"] += 1
            return False
        origin.seals[seal.first] = seal
        if len(origin.seals) > MAX_SEALS:
            origin.seals.popitem(last=False)
        return True

    def _judge(self, origin: _Origin, cast: Cast, seal: Seal) -> None:
        """`seal` is its origin's: is it this frame's?"""
        now = self._host.now()
        if not cast.is_covered(seal):
            self._counters["cast_forged"] += 1
            return
        if abs(self._network_time() - seal.time) > FRESH_S:
            self._counters["cast_stale"] += 1
            return
        if now - origin.heard_at > REMEMBER_S:
            origin.window = ReplayWindow()  # a clock that was set back must not silence its host for good
        new = origin.window.accept(cast.sequence)
        if new:
            origin.heard_at = now
            self._origins.move_to_end(origin.member.id)
        else:
            self._counters["cast_repeated"] += 1
        self._proven(cast, new)

    def _make_room(self, now: float) -> None:
        """Forget who has been silent for longest."""
        while len(self._origins) > MAX_ORIGINS:
            _, gone = self._origins.popitem(last=False)
            self._by_address = {address: each for address, each in self._by_address.items() if each is not gone}
            if now - gone.heard_at <= REMEMBER_S:
                self._counters["cast_origins_full"] += 1
