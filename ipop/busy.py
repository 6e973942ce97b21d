"""Which groups have so much traffic that they get a ring of their own, and which ways a node sends to each.

    QUIET --(many packets)--> BOTH --(nobody missed it for OVERLAP_S)--> RING --(few packets for LINGER_S)--> QUIET
                               ^-------(somebody wants it and has not got it by the ring)-------'
    BOTH, RING --(this node can be on no more rings)--> QUIET

A quiet group's packets go to the whole network, and who doesn't want them drops them. A busy one's go along a ring of
those who send to it or want it. The sender decides, and says so every ANNOUNCE_S; for a while it sends both ways, and
receivers know a frame that comes twice. A receiver that gets frames by the network only, or hears that there should be
some and gets none, says so, which makes senders send both ways again: so nothing is lost while rings form or break.
One such word serves all who miss the same group: it is said after a random while, unless somebody else has said it. A
node that can't be on a group's ring sends to the network only, and goes on saying that it misses what it wants.

A pure machine for one node: it takes `now` (seconds), and gives notes to send and rings to be on. Never sends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from ipop.cast_wire import Kind

MAX_RINGS = 16  # of multicast groups, that this node is on
MAX_BUSY = 256  # groups that are busy, with a ring or without
RETRY_S = 30.0  # before a ring is sought again that could not be had
MAX_METERED = 512  # groups whose traffic is counted
MAX_ORIGINS = 64  # of one group, watched
MAX_OVERHEARD = 256  # groups said to be busy, that nobody here wants
BUSY_PACKETS = 16  # within METER_S, of all senders together, are "more than a few a second"
METER_S = 2.0
OVERLAP_S = 8.0
ANNOUNCE_S = 10.0
HEARD_S = 2.5 * ANNOUNCE_S
LINGER_S = 60.0
SENDING_S = 2.0  # who sent so lately is at it
LATE_S = 1.5  # a frame that came by the network should have come by the ring, too, before that
MISSED_AGAIN_S = 2.0
SPREAD_S = 1.0  # of the random wait before a word about a missed group
TICK_S = 0.5


class Way(Enum):
    """How a node sends to one group."""

    QUIET = auto()  # to the whole network
    BOTH = auto()
    RING = auto()


class Sign(Enum):
    """What changes that."""

    BUSY = auto()
    COVERED = auto()  # nobody has missed it for OVERLAP_S
    MISSED = auto()
    CALM = auto()
    REFUSED = auto()  # this node can't be on its ring


NEXT: dict[tuple[Way, Sign], Way] = {
    (Way.QUIET, Sign.BUSY): Way.BOTH,
    (Way.BOTH, Sign.COVERED): Way.RING,
    (Way.BOTH, Sign.CALM): Way.QUIET,
    (Way.RING, Sign.MISSED): Way.BOTH,
    (Way.RING, Sign.CALM): Way.QUIET,
    (Way.BOTH, Sign.REFUSED): Way.QUIET,
    (Way.RING, Sign.REFUSED): Way.QUIET,
}


class Note(NamedTuple):
    """What is to be said to the whole network."""

    kind: Kind
    group: bytes


@dataclass(slots=True)
class _Meter:
    """Packets of one group in this slot of METER_S and in the one before."""

    slot: int = 0
    count: int = 0
    before: int = 0

    def add(self, now: float) -> int:
        """One more; how many in the fuller of the two slots."""
        slot = int(now / METER_S)
        if slot != self.slot:
            self.before = self.count if slot == self.slot + 1 else 0
            self.slot, self.count = slot, 0
        self.count += 1
        return max(self.count, self.before)


@dataclass(slots=True)
class _Origin:
    """A sender of a busy group, as one who wants it sees it. Moments of the last frames by either way."""

    network_at: float = -1e9
    ring_at: float = -1e9


@dataclass(slots=True)
class _Busy:
    """One group that is busy, for us as a sender, as one who wants it, or both."""

    way: Way = Way.QUIET
    ring: bool = True  # whether this node is, or should be, on its ring
    retry_at: float = 0.0  # when to try that again
    busy_at: float = -1e9  # when there was last much to send
    sent_at: float = -1e9
    both_until: float = 0.0
    announced_at: float = -1e9  # by us
    heard_at: float = -1e9  # an announcement of somebody else
    missed_at: float | None = None  # when to say that we miss it
    said_at: float = -1e9  # when that was last said, by whomever
    origins: dict[bytes, _Origin] = field(default_factory=dict)


class BusyGroups:
    """`wanted(group)`: whether hosts here want it; `uniform(a, b)` is chance."""

    def __init__(self, wanted: Callable[[bytes], bool], uniform: Callable[[float, float], float], now: float) -> None:
        self._wanted, self._uniform, self._began_at = wanted, uniform, now
        self._overheard: dict[bytes, float] = {}
        self._meters: dict[bytes, _Meter] = {}
        self._busy: dict[bytes, _Busy] = {}

    def way(self, group: bytes) -> Way:
        busy = self._busy.get(group)
        return Way.QUIET if busy is None else busy.way

    def rings(self) -> set[bytes]:
        """The groups whose rings this node should be on."""
        return {group for group, busy in self._busy.items() if busy.ring}

    def refused(self, group: bytes, now: float) -> None:
        """This node can't be on a group's ring: it is on too many already."""
        busy = self._busy.get(group)
        if busy is not None:
            busy.ring, busy.retry_at = False, now + RETRY_S
            if busy.way is not Way.QUIET:
                self._move(busy, Sign.REFUSED)

    @property
    def idle(self) -> bool:
        """Whether `tick` has nothing to do."""
        return not self._busy

    def sent(self, group: bytes, now: float) -> Way:
        """One packet of ours to `group`: which way it goes."""
        many = self._count(group, now)
        busy = self._busy.get(group)
        if many and (busy is None or busy.way is Way.QUIET):
            busy = self._of(group, now)
            if busy is not None and busy.ring:
                self._move(busy, Sign.BUSY)
                busy.both_until = now + OVERLAP_S
        if busy is None:
            return Way.QUIET
        busy.sent_at = now
        if many:
            busy.busy_at = now
        return busy.way

    def came(self, group: bytes, source: bytes, now: float, *, by_ring: bool, twice: bool) -> None:
        """A packet of somebody else's to a group, by its ring or by the network; `twice`: it says that it goes both
        ways."""
        if not by_ring:
            self._count(group, now)
        busy = self._busy.get(group)
        if busy is None or not self._wanted(group):
            return
        origin = self._origin(busy, source)
        if by_ring:
            origin.ring_at = now
        elif twice:
            origin.network_at = now

    def heard(self, kind: Kind, group: bytes, source: bytes, now: float) -> None:
        """A note from somebody else."""
        if kind is Kind.BUSY and self._wanted(group):
            busy = self._of(group, now)
            if busy is None:
                return
            known = busy.heard_at > now - LINGER_S
            busy.heard_at = now
            # Once it is known, an announcement with nothing to show for it means that the ring does not reach us.
            if known and self._origin(busy, source).ring_at < now - SENDING_S:
                self._miss(busy, now)
        elif kind is Kind.WANTED:
            busy = self._busy.get(group)
            if busy is None:
                return
            busy.said_at, busy.missed_at = now, None
            if busy.way is Way.RING:
                self._move(busy, Sign.MISSED)
            if busy.way is Way.BOTH:
                busy.both_until = now + OVERLAP_S
                busy.announced_at = min(busy.announced_at, now - ANNOUNCE_S + 1.0)  # within a second, not each time

    def overheard(self, group: bytes, now: float) -> None:
        """Somebody, proven or not, says that a group is busy that nobody here wants."""
        self._overheard.pop(group, None)
        self._overheard[group] = now
        if len(self._overheard) > MAX_OVERHEARD:
            del self._overheard[next(iter(self._overheard))]

    def begun(self, group: bytes, now: float) -> Note | None:
        """Hosts here want a group from now on: what to say at once, if it is busy or might be. Whoever is here for
        longer than ANNOUNCE_S has heard of all that are."""
        busy = self._busy.get(group)
        heard_at = self._overheard.pop(group, -1e9)
        if busy is None and now - max(heard_at, self._began_at) > HEARD_S:
            return None
        if busy is not None:
            busy.said_at = now
        return Note(Kind.WANTED, group)

    def ended(self, group: bytes) -> None:
        """Hosts here want it no longer."""
        busy = self._busy.get(group)
        if busy is not None and busy.way is Way.QUIET:
            del self._busy[group]

    def tick(self, now: float) -> list[Note]:
        """Every TICK_S while not `idle`: what to say. Groups that are over are forgotten."""
        notes = []
        for group, busy in list(self._busy.items()):
            if busy.way is not Way.QUIET and now - busy.busy_at > LINGER_S:
                self._move(busy, Sign.CALM)
            if busy.way is Way.BOTH and busy.both_until <= now:
                self._move(busy, Sign.COVERED)
            if busy.way is Way.QUIET and not (self._wanted(group) and now - busy.heard_at <= LINGER_S):
                if busy.ring or busy.retry_at <= now:
                    del self._busy[group]
                continue
            if not busy.ring and busy.retry_at <= now and len(self.rings()) < MAX_RINGS:
                busy.ring = True
            sending = busy.way is not Way.QUIET and now - busy.sent_at <= SENDING_S
            if sending and now - busy.announced_at >= ANNOUNCE_S:
                busy.announced_at = now
                notes.append(Note(Kind.BUSY, group))
            if self._wanted(group) and any(
                origin.network_at > now - LATE_S and origin.ring_at < origin.network_at - LATE_S
                for origin in busy.origins.values()
            ):
                self._miss(busy, now)
            if busy.missed_at is not None and busy.missed_at <= now:
                busy.missed_at, busy.said_at = None, now
                notes.append(Note(Kind.WANTED, group))
        return notes

    def _move(self, busy: _Busy, sign: Sign) -> None:
        busy.way = NEXT[busy.way, sign]

    def _of(self, group: bytes, now: float) -> _Busy | None:
        """The busy group, made if there is room for one more; without a ring if there are too many."""
        busy = self._busy.get(group)
        if busy is None and len(self._busy) < MAX_BUSY:
            ring = len(self.rings()) < MAX_RINGS
            busy = self._busy[group] = _Busy(ring=ring, retry_at=now + RETRY_S)
        return busy

    def _origin(self, busy: _Busy, source: bytes) -> _Origin:
        origin = busy.origins.pop(source, None) or _Origin()
        busy.origins[source] = origin
        if len(busy.origins) > MAX_ORIGINS:
            del busy.origins[next(iter(busy.origins))]
        return origin

    def _miss(self, busy: _Busy, now: float) -> None:
        if busy.missed_at is None and now - busy.said_at >= MISSED_AGAIN_S:
            busy.missed_at = now + self._uniform(0.0, SPREAD_S)

    def _count(self, group: bytes, now: float) -> bool:
        """One packet more over the network; whether that makes the group busy."""
        meter = self._meters.pop(group, None) or _Meter()
        self._meters[group] = meter
        if len(self._meters) > MAX_METERED:
            del self._meters[next(iter(self._meters))]
        return meter.add(now) >= BUSY_PACKETS
