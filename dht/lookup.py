"""One reading of a name at its replica points, until enough of them have said what they hold.

    plain:  each point is asked by the one greedy route; a majority's word is enough
    robust: as plain, but a point that has shown no record after ROUND_S is asked again through deputies, new ones in
            each round, and from the second round on half of them beside the point, where the record's other keeper
            is; over when a majority of the points has answered and there is a record, or every deputy was asked and
            has answered or failed

Points are equally spaced, so that routes to them have few nodes in common; with deputies, neither have routes to one
point. Records are signed and numbered: whatever members on the way or at a point do, they can only withhold, and the
newest record that any honest answer brings wins. Knows nothing of how questions travel.
Sources: Harvesf and Blough, "The effect of replica placement on routing robustness in distributed hash tables" (P2P
2006), for equally spaced replicas; `dht.delegation` for deputies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from dht.certificate import Network
from dht.errors import BadDatagram
from dht.host import Host
from dht.ids import RING, key_of
from dht.messages import MAX_RECORDS, Fetch, Fetched, Message, Store, Stored
from dht.peer import Peer
from dht.records import REPLICAS, Record, replica_points

MAJORITY: Final = REPLICAS // 2 + 1
ROUND_S: Final = 0.8  # a lookup over the ring is mostly back by then
DEPUTIES_A_ROUND: Final = 2  # for each point
ROUNDS: Final = 6
WITHDRAWN_LIVES_S: Final = 5.0  # what replaces a withdrawn record, and is not worth mending

Ask = Callable[[int, Message, Sequence[type[Message]], Callable[[Message | None], None]], None]


class Deputies(Protocol):
    """Who can ask the ring in our place: `dht.delegation.Delegation`."""

    def deputies(self, count: int) -> list[Peer]:
        """Up to `count` different ones, in random order."""

    def fetch(self, deputy: Peer, point: int, key: int, done: Callable[[Message | None], None]) -> None:
        """`done` gets Fetched or None."""


@dataclass(frozen=True, slots=True)
class GetResult:
    """The newest valid record of each owner, newest first, and how many replica points answered."""

    records: tuple[Record, ...]
    answered: int


class Lookup:
    """One get on its way. `done` is called once: with what a majority says, or (`first`) as soon as any valid record is
    there. `deputies` is given when the reading is to be robust; `spacing` is how far apart members are on average."""

    def __init__(
        self,
        host: Host,
        network: Network,
        clock: Callable[[], float],
        name: str,
        ask_nearest: Ask,
        done: Callable[[GetResult], None],
        *,
        first: bool = False,
        deputies: Deputies | None = None,
        spacing: int = 0,
    ) -> None:
        self._host, self._network, self._clock, self._name = host, network, clock, name
        self._ask_nearest, self._done, self._first, self._deputies = ask_nearest, done, first, deputies
        self._spacing = spacing
        self._key = key_of(name)
        self._points = replica_points(self._key)
        self._newest: dict[int, Record] = {}  # by owner
        self._held: dict[int, dict[int, int]] = {}  # point -> owner -> sequence, of the points that answered
        self._under_way = 0
        self._rounds = 0 if deputies is None else ROUNDS  # still to come
        self._left: list[Peer] = []  # deputies not yet asked
        self._told = False

    def start(self) -> None:
        self._under_way = len(self._points)  # at once: a point of our own answers before the next is asked
        for point in self._points:
            self._ask_nearest(point, Fetch(self._key), (Fetched,), partial(self._answered, point))
        if self._deputies is not None:
            # One deputy serves one point: four that fail together must not have failed through the same node.
            self._left = self._deputies.deputies(ROUNDS * DEPUTIES_A_ROUND * REPLICAS)
            self._host.call_later(ROUND_S, self._round)

    def _round(self) -> None:
        if self._deputies is None or not self._rounds or self._told:
            return
        needy = [point for point in self._points if not self._held.get(point)]
        for number in range(DEPUTIES_A_ROUND):
            for point in needy:
                if not self._left:
                    self._left = self._deputies.deputies(REPLICAS * DEPUTIES_A_ROUND)
                if self._left:
                    self._under_way += 1
                    beside = bool(number % 2) and self._rounds < ROUNDS and self._spacing > 0
                    place = self._beside(point) if beside else point
                    done = partial(self._answered_beside if beside else self._answered, point)
                    self._deputies.fetch(self._left.pop(), place, self._key, done)
        self._rounds = self._rounds - 1 if needy else 0
        if self._rounds:
            self._host.call_later(ROUND_S, self._round)
        else:
            self._judge()

    def _beside(self, point: int) -> int:
        """Where the nearest member is often the second nearest to `point`: the first may be what withholds."""
        return (point + self._host.rng.randrange(-self._spacing, self._spacing)) % RING

    def _answered_beside(self, point: int, answer: Message | None) -> None:
        """Who shows nothing there need not be a keeper: only a record speaks for the point."""
        shown = isinstance(answer, Fetched) and any(self._read(raw) is not None for raw in answer.records)
        self._answered(point, answer if shown else None)

    def _answered(self, point: int, answer: Message | None) -> None:
        self._under_way -= 1
        if isinstance(answer, Fetched):
            held = self._held.setdefault(point, {})
            for raw in answer.records:
                record = self._read(raw)
                if record is not None:
                    owner = record.owner.id
                    held[owner] = max(held.get(owner, 0), record.sequence)
                    known = self._newest.get(owner)
                    if known is None or known.sequence < record.sequence:
                        self._newest[owner] = record
        self._judge()

    def _judge(self) -> None:
        over = self._under_way == 0 and self._rounds == 0
        believed = self._deputies is None or bool(self._newest)
        enough = (believed and len(self._held) >= MAJORITY) or (self._first and bool(self._newest))
        if not self._told and (enough or over):
            self._told = True
            over, self._rounds = self._under_way == 0, 0
            records = sorted(self._newest.values(), key=lambda record: -record.sequence)
            self._done(GetResult(tuple(records), len(self._held)))
        if over:
            self._mend()

    def _read(self, raw: bytes) -> Record | None:
        # A replica that sends rubbish is as good as one that sends nothing: the others decide.
        try:
            record = Record.parse(self._network, raw, self._clock())
        except BadDatagram:
            return None
        return record if record.name == self._name else None

    def _mend(self) -> None:
        worth_it = self._clock() + WITHDRAWN_LIVES_S  # what is withdrawn must not be spread, only to expire on the way
        for point, held in self._held.items():
            for owner, record in self._newest.items():
                if held.get(owner, -1) < record.sequence and len(held) < MAX_RECORDS and record.expires_at > worth_it:
                    self._ask_nearest(point, Store(point, record.raw, True), (Stored,), lambda answer: None)
