"""Which peers deserve a shortcut, judged by traffic: a leaky bucket a peer, the fullest K are connected.

    a packet -> score + 1, the first one connects at once   |   time -> score - LEAK_PER_S a second, never below 0
    WAITING -> (room, or clearly busier than the least busy) -> HELD -> (idle, or outranked) -> WAITING or forgotten

Every decision comes with its reason, for `why` and `shortcuts`. Pure: nothing is connected or trimmed here, only said.
Sources: Brunet's ChotaConnectionOverlord (+1 a packet, -2 a second, the top 200 connected, once the score passes a
threshold) and the OnDemandConnectionOverlord that replaced it (connected at the first packet, dropped after 450 s
idle), davidiw/brunet; Ganguly et al., "WOW" (HPDC 2006).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

MAX_SHORTCUTS: Final = 200  # K, unless the node is told another
MAX_PEERS: Final = 1024  # remembered in all, connected or not
LEAK_PER_S: Final = 2.0
MAX_SCORE: Final = 1200.0  # ten minutes of leaking: what somebody did long ago must not count for ever
IDLE_S: Final = 450.0
MIN_HELD_S: Final = 30.0  # before this, nobody outranks a shortcut: it has cost a handshake and checks
OUTRANK_TIMES: Final = 2.0  # a newcomer takes another's place with this many times its score
OUTRANK_MARGIN: Final = 20.0  # and this many more
CONNECTS_PER_S: Final = 5.0
CONNECT_BURST: Final = 20.0


class Reason(Enum):
    """Why a peer is connected, kept, made to wait or trimmed."""

    FIRST_PACKET = "first packet"
    BUSIER = "clearly busier than another"
    IN_USE = "in use"
    LINGERING = "quiet, but not yet idle"
    OVER_BUDGET = "all shortcuts are taken by busier peers"
    OVER_RATE = "too many new shortcuts a second"
    IDLE = "idle"
    OUTRANKED = "outranked by a busier peer"


class Decision(NamedTuple):
    """What is to become of one peer's shortcut, and why."""

    peer_id: int
    reason: Reason
    score: float


@dataclass(frozen=True, slots=True)
class Decisions:
    """Whom to connect (busiest first), keep, make wait, and trim. No peer is in two of them, except that one just
    connected is also among those kept the next time."""

    connect: tuple[Decision, ...]
    keep: tuple[Decision, ...]
    wait: tuple[Decision, ...]
    trim: tuple[Decision, ...]


class _Bucket:
    """What one peer has lately asked for. `held_since` is None while it has no shortcut."""

    __slots__ = ("at", "held_since", "last_packet", "reason", "score")

    def __init__(self, now: float) -> None:
        self.score = 0.0
        self.at = now  # when `score` was right
        self.last_packet = now
        self.held_since: float | None = None
        self.reason = Reason.FIRST_PACKET

    def drained(self, now: float) -> float:
        return max(0.0, self.score - LEAK_PER_S * max(0.0, now - self.at))


class Demand:
    """The demand of one node for shortcuts, at most `max_shortcuts` of them held at a time."""

    def __init__(self, max_shortcuts: int = MAX_SHORTCUTS) -> None:
        if not 0 <= max_shortcuts <= MAX_PEERS // 2:
            raise ValueError(f"{max_shortcuts} shortcuts are not 0 to {MAX_PEERS // 2}")
        self.max_shortcuts = max_shortcuts
        self._buckets: dict[int, _Bucket] = {}  # who sent or received last is last
        self._tokens = CONNECT_BURST
        self._tokens_at: float | None = None

    def __len__(self) -> int:
        """How many peers are remembered."""
        return len(self._buckets)

    def note(self, now: float, peer_id: int, packets: int) -> bool:
        """Packets went to or came from a peer. True for a peer not remembered: time to decide."""
        bucket = self._buckets.pop(peer_id, None)
        is_new = bucket is None
        if bucket is None:
            bucket = _Bucket(now)
            if len(self._buckets) >= MAX_PEERS:
                self._make_room(now)
        bucket.score = min(MAX_SCORE, bucket.drained(now) + packets)
        bucket.at = bucket.last_packet = now
        self._buckets[peer_id] = bucket
        return is_new

    def score(self, now: float, peer_id: int) -> float:
        """Packets not yet leaked away; 0 for strangers."""
        bucket = self._buckets.get(peer_id)
        return 0.0 if bucket is None else bucket.drained(now)

    def reason(self, peer_id: int) -> Reason | None:
        """What was decided last about a peer; None for strangers."""
        bucket = self._buckets.get(peer_id)
        return None if bucket is None else bucket.reason

    def forget(self, peer_id: int) -> None:
        """The peer is gone; its place is free. Its next packet is a first one."""
        self._buckets.pop(peer_id, None)

    def decide(self, now: float) -> Decisions:
        """Whom to connect, keep and trim now. What it says counts as done: tell `forget` of what came to nothing."""
        trim = self._trim_idle(now)
        held = {peer_id: bucket for peer_id, bucket in self._buckets.items() if bucket.held_since is not None}
        waiting = [peer_id for peer_id, bucket in self._buckets.items() if bucket.held_since is None]
        waiting.sort(key=lambda peer_id: self.score(now, peer_id), reverse=True)
        losers = self._replaceable(now, held)
        room = self.max_shortcuts - len(held)
        self._refill(now)
        connect: list[Decision] = []
        wait: list[Decision] = []
        for peer_id in waiting:
            bucket = self._buckets[peer_id]
            outranks = room <= 0 and bool(losers) and self._outranks(now, peer_id, losers[0])
            if room <= 0 and not outranks:
                bucket.reason = Reason.OVER_BUDGET
            elif self._tokens < 1.0:
                bucket.reason = Reason.OVER_RATE
            else:
                bucket.reason = Reason.BUSIER if outranks else Reason.FIRST_PACKET
            decision = Decision(peer_id, bucket.reason, bucket.drained(now))
            if bucket.reason in (Reason.OVER_BUDGET, Reason.OVER_RATE):
                wait.append(decision)
                continue
            if outranks:
                loser = losers.popleft()
                trim.append(self._release(now, loser, held.pop(loser)))
            else:
                room -= 1
            self._tokens -= 1.0
            bucket.held_since = now
            connect.append(decision)
        for bucket in held.values():
            bucket.reason = Reason.IN_USE if bucket.drained(now) > 0.0 else Reason.LINGERING
        keep = tuple(Decision(peer_id, bucket.reason, bucket.drained(now)) for peer_id, bucket in held.items())
        return Decisions(tuple(connect), keep, tuple(wait), tuple(trim))

    def _trim_idle(self, now: float) -> list[Decision]:
        idle = [peer_id for peer_id, bucket in self._buckets.items() if now - bucket.last_packet >= IDLE_S]
        buckets = [(peer_id, self._buckets.pop(peer_id)) for peer_id in idle]
        return [
            Decision(peer_id, Reason.IDLE, bucket.drained(now))
            for peer_id, bucket in buckets
            if bucket.held_since is not None
        ]

    def _refill(self, now: float) -> None:
        passed_s = 0.0 if self._tokens_at is None else max(0.0, now - self._tokens_at)
        self._tokens = min(CONNECT_BURST, self._tokens + CONNECTS_PER_S * passed_s)
        self._tokens_at = now

    def _replaceable(self, now: float, held: dict[int, _Bucket]) -> deque[int]:
        """The shortcuts held for long enough, the one that is least missed first."""
        old = [
            (bucket.drained(now), bucket.last_packet, peer_id)
            for peer_id, bucket in held.items()
            if bucket.held_since is not None and now - bucket.held_since >= MIN_HELD_S
        ]
        return deque(peer_id for _, _, peer_id in sorted(old))

    def _outranks(self, now: float, peer_id: int, other_id: int) -> bool:
        mine, other = self.score(now, peer_id), self.score(now, other_id)
        return mine >= OUTRANK_TIMES * other and mine >= other + OUTRANK_MARGIN

    def _release(self, now: float, peer_id: int, bucket: _Bucket) -> Decision:
        bucket.held_since = None
        bucket.reason = Reason.OUTRANKED
        return Decision(peer_id, Reason.OUTRANKED, bucket.drained(now))

    def _make_room(self, now: float) -> None:
        """Forget the peer without a shortcut that asks for least: there is one, by the bound on shortcuts."""
        waiting = [
            (bucket.drained(now), bucket.last_packet, peer_id)
            for peer_id, bucket in self._buckets.items()
            if bucket.held_since is None
        ]
        del self._buckets[min(waiting)[2]]
