"""The DHT over the ring: put, get and create of owner-signed records at four replica points.

A record lives at each of `replica_points(key)`: on the node nearest the point and on that node's nearest neighbour,
which is nearest when the first dies. Owners renew what they publish, through deputies too when a majority did not take
it; neighbours hand records on when the ring changes between them; a read takes the newest valid record and mends the
points that lack it (`dht.lookup`).
Source: Brunet's DHT (equally spaced replicas, majority, exclusive create); signed and numbered records are BEP 44's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil

from dht.delegation import Delegation
from dht.errors import BadDatagram
from dht.host import Host, Timer
from dht.identity import Identity
from dht.ids import RING, nearest
from dht.lookup import MAJORITY, WITHDRAWN_LIVES_S, Ask, GetResult, Lookup
from dht.messages import MAX_RECORDS, Fetch, Fetched, Message, Store, Stored
from dht.near import Near
from dht.records import MAX_LIFETIME_S, REPLICAS, Record, is_group_entry, replica_points
from dht.store import Outcome, RecordStore

__all__ = ["MAJORITY", "GetResult", "PutResult", "Replicas"]

KEEPERS = 2  # a point's nearest node and the one that would be nearest without it
HAND_OVER_AFTER_S = 0.5
RETRY_S = 5.0
MAX_PUBLICATIONS = 192  # of its own, and one a group
MAX_RAISES = 3
BELIEVED_AHEAD_S = 7 * 86400.0  # how far ahead of now an earlier life of ours may have published


@dataclass(frozen=True, slots=True)
class PutResult:
    """How many of the replica points took the record, and the last refusal if there was one."""

    stored: int
    refusal: Outcome | None

    @property
    def ok(self) -> bool:
        """Whether a majority holds it."""
        return self.stored >= MAJORITY


@dataclass(slots=True)
class _Publication:
    name: str
    value: bytes
    lifetime_s: float
    exclusive: bool
    sequence: int = 0
    raises: int = 0
    failures: int = 0  # in a row: less than a majority took it
    stored: bool = False  # by a majority
    timer: Timer | None = None
    waiting: list[Callable[[PutResult], None]] = field(default_factory=list)


class Replicas:
    """One node's part in the DHT. `ask_nearest(target, message, answers, done)` routes a question; `ask_peer` asks
    a neighbour over its edge; `clock()` is the time that peers agree on, by which records expire."""

    def __init__(
        self,
        host: Host,
        identity: Identity,
        near: Near,
        ask_nearest: Ask,
        ask_neighbor: Ask,
        delegation: Delegation,
        clock: Callable[[], float],
    ) -> None:
        self._host, self._identity, self._near, self._clock = host, identity, near, clock
        self._ask_nearest, self._ask_neighbor, self._delegation = ask_nearest, ask_neighbor, delegation
        self.store = RecordStore()
        self._publications: dict[str, _Publication] = {}
        self._keepers_seen: tuple[int, ...] = ()
        self._hand_over_timer: Timer | None = None

    # For the node's owner

    def put(
        self,
        name: str,
        value: bytes,
        lifetime_s: float,
        done: Callable[[PutResult], None] | None = None,
        *,
        exclusive: bool = False,
    ) -> None:
        """Publish `value` under `name` and keep it renewed until `withdraw(name)`.

        Raises ValueError for a name or value that no node would take, or too many of them.
        """
        if not 1 <= lifetime_s <= MAX_LIFETIME_S:
            raise ValueError(f"a record lives from 1 to {MAX_LIFETIME_S} s, not {lifetime_s}")
        old = self._publications.get(name)
        if old is None and len(self._publications) >= MAX_PUBLICATIONS:
            raise ValueError(f"a node publishes at most {MAX_PUBLICATIONS} records")
        publication = _Publication(name, value, lifetime_s, exclusive)
        if old is not None:
            publication.sequence = old.sequence
            publication.waiting = old.waiting
        self._sign(publication)  # refuses what nobody would take before anything is sent or replaced
        if old is not None:
            self._stop(old)
        if done is not None:
            publication.waiting.append(done)
        self._publications[name] = publication
        if self._near.joined:
            self._publish(publication)

    def withdraw(self, name: str, left: bytes = b"") -> None:
        """Stop renewing `name` and let it expire within seconds, with `left` in its value's place."""
        publication = self._publications.pop(name, None)
        if publication is None:
            return
        self._stop(publication)
        publication.value, publication.lifetime_s, publication.exclusive = left, WITHDRAWN_LIVES_S, False
        record = self._sign(publication)
        for point in replica_points(record.key):
            self._ask_nearest(point, Store(point, record.raw, True), (Stored,), lambda answer: None)

    def lapse(self, name: str) -> None:
        """Stop renewing `name`: what is out there stays until it expires."""
        publication = self._publications.pop(name, None)
        if publication is not None:
            self._stop(publication)

    def get(self, name: str, done: Callable[[GetResult], None], *, first: bool = False, robust: bool = False) -> None:
        """Look `name` up at all replica points. `done` is called once: with what a majority says, or (`first`) as
        soon as any valid record is there. `robust`: points that show nothing are asked again through deputies."""
        Lookup(
            self._host,
            self._identity.network,
            self._clock,
            name,
            self._ask_nearest,
            done,
            first=first,
            deputies=self._delegation if robust else None,
            spacing=RING // self._near.lists.size_estimate(),
        ).start()

    def republish(self) -> None:
        """The node has just become a member: publish everything."""
        for publication in list(self._publications.values()):
            self._publish(publication)

    def published(self, name: str) -> bytes | None:
        """The value this node keeps published under `name`."""
        publication = self._publications.get(name)
        return None if publication is None else publication.value

    def stored(self, name: str) -> bool:
        """Whether a majority took what this node last published under `name`."""
        publication = self._publications.get(name)
        return publication is not None and publication.stored

    def stop(self) -> None:
        for publication in self._publications.values():
            self._stop(publication)
        if self._hand_over_timer is not None:
            self._hand_over_timer.cancel()

    # For the ring

    def asked_to_store(self, message: Store) -> Stored:
        """A Store ended here. Raises BadDatagram for a record that is not what it claims."""
        now = self._clock()
        record = Record.parse(self._identity.network, message.record, now)
        if message.point not in replica_points(record.key):
            raise BadDatagram(f"'{record.name}' has no replica at the point it was sent to")
        outcome = self.store.offer(record, now)
        # Only news is passed on: old records sent again must cost nobody anything.
        if message.copy and outcome is Outcome.STORED:
            neighbor = self._second_keeper(message.point)
            if neighbor is not None:
                copy = Store(message.point, message.record, False)
                self._ask_neighbor(neighbor, copy, (Stored,), lambda answer: None)
        return Stored(outcome, self.store.sequence(record.key, record.owner.id))

    def asked_to_fetch(self, message: Fetch, hops: int) -> Fetched:
        """A Fetch ended here."""
        records = self.store.find(message.key, self._clock())
        if len(records) > MAX_RECORDS and is_group_entry(records[0].name):
            # By chance, not the newest: who was expelled, and may publish until its certificate ends, must not be able
            # to hide the others behind newer records.
            records = self._host.rng.sample(records, MAX_RECORDS)
        return Fetched(tuple(record.raw for record in records[:MAX_RECORDS]), hops)

    def neighbors_changed(self) -> None:
        """The near lists changed: records may have new keepers."""
        if self._hand_over_timer is None:
            self._hand_over_timer = self._host.call_later(HAND_OVER_AFTER_S, self._hand_over)

    def _hand_over(self) -> None:
        self._hand_over_timer = None
        lists = self._near.lists
        before, self._keepers_seen = self._keepers_seen, tuple(lists.members())
        if not self._near.joined or lists.alone or not lists.predecessors or not lists.successors:
            return
        left, right = lists.predecessors[-1], lists.successors[-1]
        if len(lists.members()) < 2 * lists.length:
            left = right = lists.me  # the lists reach round the whole ring
        now = self._clock()
        for point, record in self.store.between(left, right, now):
            old, new = self._keepers(point, before), self._keepers(point, self._keepers_seen)
            if lists.me not in old and lists.me not in new:
                continue
            for keeper in new:
                if keeper not in old and keeper != lists.me:
                    self._ask_neighbor(keeper, Store(point, record.raw, False), (Stored,), lambda answer: None)

    def _keepers(self, point: int, members: Sequence[int]) -> tuple[int, ...]:
        return tuple(nearest(point, (self._near.lists.me, *members), KEEPERS))

    def _second_keeper(self, point: int) -> int | None:
        for keeper in self._keepers(point, self._near.lists.members()):
            if keeper != self._near.lists.me:
                return keeper
        return None

    # Publishing

    def _sign(self, publication: _Publication) -> Record:
        now = self._clock()
        publication.sequence = max(publication.sequence + 1, int(now * 1000))
        expires_at = ceil(now + publication.lifetime_s)
        return Record.sign(
            self._identity,
            publication.name,
            publication.value,
            publication.sequence,
            expires_at,
            publication.exclusive,
        )

    def _publish(self, publication: _Publication) -> None:
        self._stop(publication)
        record = self._sign(publication)
        outcomes: dict[int, Outcome | None] = {}  # by point
        newest = 0
        told = False
        deputies = self._delegation.deputies(REPLICAS) if publication.failures else []
        under_way = REPLICAS + len(deputies)

        def answered(point: int, answer: Message | None) -> None:
            nonlocal newest, told, under_way
            under_way -= 1
            if self._publications.get(publication.name) is not publication:
                return
            outcome: Outcome | None = None
            if isinstance(answer, Stored):
                # Only claimed, not proven: nobody may push us to where no sequence is left.
                newest = max(newest, min(answer.sequence, int((self._clock() + BELIEVED_AHEAD_S) * 1000)))
                outcome = Outcome(answer.outcome) if answer.outcome in Outcome._value2member_map_ else None
            if outcomes.get(point) not in (Outcome.STORED, Outcome.SAME):
                outcomes[point] = outcome
            stored = sum(outcome in (Outcome.STORED, Outcome.SAME) for outcome in outcomes.values())
            if not told and (stored >= MAJORITY or not under_way):
                told = True
                self._published(publication, outcomes, stored, newest)

        points = replica_points(record.key)
        for point in points:
            self._ask_nearest(point, Store(point, record.raw, True), (Stored,), partial(answered, point))
        for point, deputy in zip(points, deputies, strict=False):
            self._delegation.store(deputy, point, record.raw, partial(answered, point))

    def _published(
        self, publication: _Publication, outcomes: Mapping[int, Outcome | None], stored: int, newest: int
    ) -> None:
        refusals = [outcome for outcome in outcomes.values() if outcome not in (None, Outcome.STORED, Outcome.SAME)]
        refusal = Outcome.TAKEN if Outcome.TAKEN in refusals else refusals[-1] if refusals else None
        result = PutResult(stored, refusal)
        publication.stored = result.ok
        publication.failures = 0 if result.ok else publication.failures + 1
        if not result.ok and newest >= publication.sequence and publication.raises < MAX_RAISES:
            # We published a higher sequence in an earlier life, by a clock that was ahead of this one.
            publication.raises += 1
            publication.sequence = newest
            self._publish(publication)
            return
        waiting, publication.waiting = publication.waiting, []
        if publication.exclusive and not result.ok and waiting:
            self.withdraw(publication.name)  # of two who create at once at most one may keep it
        else:
            delay_s = publication.lifetime_s / 3 if result.ok else RETRY_S
            delay_s *= self._host.rng.uniform(0.8, 1.0)
            publication.timer = self._host.call_later(delay_s, lambda: self._publish(publication))
        for done in waiting:
            done(result)

    @staticmethod
    def _stop(publication: _Publication) -> None:
        if publication.timer is not None:
            publication.timer.cancel()
            publication.timer = None
