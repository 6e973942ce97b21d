"""Sees the whole ring: every member's neighbours, version and coordinate, by tree or one after the other.

By tree, everybody is asked at once (`dht.aggregate`); the walk asks one successor after the other over the ring and is
there for comparison, and for whoever doubts the tree. What members say of themselves is not proven.

The consistency index says how far members agree on who is next to whom: of every member's first and second predecessor,
the share that are the members who indeed lie there, (left1 + left2) / 2N. Never asks about what it was not told to.
Source of the index: Brunet's crawler (davidiw/brunet, `Crawl` and its consistency).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from dht.aggregate import About, Aggregates, Kind, Missing, Outcome, Reason
from dht.branch_messages import MAX_BUDGET_MS
from dht.branching import one_place
from dht.coordinate import COORDINATE_BYTES, Coordinate
from dht.errors import BadDatagram
from dht.exchange import Exchange, Incoming, Way
from dht.host import Host
from dht.ids import ID_BYTES, id_bytes
from dht.messages import Message
from dht.packing import Fields, Value, pack

CRAWL_DEADLINE_S: Final = 10.0
MAX_NAME_CHARS: Final = 64
MAX_VERSION_CHARS: Final = 32
MAX_NEIGHBORS: Final = 16
MAX_FINGERS: Final = 160
MAX_WALK: Final = 20_000
WALK_TIMEOUTS_S: Final = (1.0, 1.5)
_ID, _NAME, _VERSION, _COORDINATE, _SUCCESSORS, _PREDECESSORS, _FINGERS, _EDGES = range(8)


@dataclass(frozen=True, slots=True)
class Sight:
    """What one member says of itself: lists as in `dht.views.RingView`; `edges`: how many it has in all."""

    id: int
    name: str
    version: str
    coordinate: Coordinate | None
    successors: tuple[int, ...]
    predecessors: tuple[int, ...]
    fingers: tuple[int, ...]
    edges: int

    def fields(self) -> dict[int, Value]:
        return {
            _ID: id_bytes(self.id),
            _NAME: self.name,
            _VERSION: self.version,
            _COORDINATE: b"" if self.coordinate is None else self.coordinate.pack(),
            _SUCCESSORS: b"".join(map(id_bytes, self.successors[:MAX_NEIGHBORS])),
            _PREDECESSORS: b"".join(map(id_bytes, self.predecessors[:MAX_NEIGHBORS])),
            _FINGERS: b"".join(map(id_bytes, self.fingers[:MAX_FINGERS])),
            _EDGES: self.edges,
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        """The inverse of `fields`. Raises BadDatagram."""
        packed = fields.octets(_COORDINATE, 0, COORDINATE_BYTES)
        return cls(
            int.from_bytes(fields.octets(_ID, ID_BYTES, ID_BYTES), "big"),
            fields.text(_NAME, MAX_NAME_CHARS),
            fields.text(_VERSION, MAX_VERSION_CHARS),
            Coordinate.parse(packed) if packed else None,
            _ids(fields, _SUCCESSORS, MAX_NEIGHBORS),
            _ids(fields, _PREDECESSORS, MAX_NEIGHBORS),
            _ids(fields, _FINGERS, MAX_FINGERS),
            fields.integer(_EDGES, 0, 1 << 20),
        )


def _ids(fields: Fields, key: int, most: int) -> tuple[int, ...]:
    packed = fields.octets(key, 0, most * ID_BYTES)
    if len(packed) % ID_BYTES:
        raise BadDatagram(f"{len(packed)} bytes of ids of {ID_BYTES}")
    return tuple(int.from_bytes(packed[at : at + ID_BYTES], "big") for at in range(0, len(packed), ID_BYTES))


@dataclass(frozen=True, slots=True)
class Look(Message):
    """Say what you see. Routed: whoever is nearest answers Seen."""

    CODE = 44


@dataclass(frozen=True, slots=True)
class Seen(Message):
    """Answers Look."""

    CODE = 45
    sight: Sight

    def fields(self) -> dict[int, Value]:
        return self.sight.fields()

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(Sight.read(fields))


@dataclass(frozen=True, slots=True)
class Crawled:
    """A ring as its members say it is, in the order of their ids. `missing` as in `dht.aggregate.Outcome`."""

    nodes: tuple[Sight, ...]
    missing: tuple[Missing, ...]
    took_s: float
    complete: bool

    @property
    def consistency(self) -> float:
        """The consistency index, from 0 to 1."""
        return consistency(self.nodes)


def consistency(nodes: Sequence[Sight]) -> float:
    """(left1 + left2) / 2N; where a member has but one other, there is one to the left of it, and none in a ring of
    one, which is consistent."""
    ring = sorted(nodes, key=lambda sight: sight.id)
    depth = min(2, len(ring) - 1)
    if depth <= 0:
        return 1.0
    right = sum(
        sight.predecessors[step - 1 : step] == (ring[place - step].id,)
        for place, sight in enumerate(ring)
        for step in range(1, depth + 1)
    )
    return right / (depth * len(ring))


class Crawls:
    """Sees the ring of one node. `look()` is what this node says of itself."""

    def __init__(
        self, host: Host, me: int, aggregates: Aggregates, exchange: Exchange, look: Callable[[], Sight]
    ) -> None:
        self._host, self._me, self._aggregates, self._exchange, self._look = host, me, aggregates, exchange, look
        self._kind: Kind[None, Sight] = Kind(
            "crawl", _nothing, lambda argument, about: look(), lambda sight: pack(sight.fields()), _parse
        )
        aggregates.register(self._kind)
        exchange.handle(Look, Way.ROUTED | Way.SESSION, self._on_look)

    def crawl(self, done: Callable[[Crawled], None], deadline_s: float = CRAWL_DEADLINE_S) -> None:
        """Ask everybody at once; `done` is called once, within `deadline_s` seconds. Raises ValueError for a deadline
        beyond ten minutes."""
        began = self._host.now()

        def gathered(outcome: Outcome[Sight]) -> None:
            # A member answers for itself; whoever says it is another is not believed.
            honest = [sight for node_id, sight in outcome.answers.items() if sight.id == node_id]
            missing = list(outcome.missing)
            missing += [
                Missing(node_id, one_place(node_id), Reason.GARBLED)
                for node_id, sight in outcome.answers.items()
                if sight.id != node_id
            ]
            done(_crawled(honest, missing, self._host.now() - began, outcome.overflowed))

        self._aggregates.ask(self._kind, b"", deadline_s, gathered)

    def walk(self, done: Callable[[Crawled], None], deadline_s: float = CRAWL_DEADLINE_S) -> None:
        """Ask one successor after the other, until the way round is complete or `deadline_s` seconds are over."""
        if not 0.0 < deadline_s <= MAX_BUDGET_MS / 1000:
            raise ValueError("a deadline is up to 600 seconds away")
        _Walk(self._host, self._me, self._exchange, self._look(), deadline_s, done).step()

    def _on_look(self, incoming: Incoming, message: Look) -> Seen:
        return Seen(self._look())


class _Walk:
    """One way round the ring."""

    def __init__(
        self,
        host: Host,
        me: int,
        exchange: Exchange,
        first: Sight,
        deadline_s: float,
        done: Callable[[Crawled], None],
    ) -> None:
        self._host, self._me, self._exchange, self._done = host, me, exchange, done
        self._began = host.now()
        self._seen = {me: first}
        self._missing: list[Missing] = []
        self._ahead = list(first.successors)
        self._over = False
        self._timer = host.call_later(deadline_s, self._late)

    def step(self) -> None:
        """Ask the next successor that is known."""
        if self._over:
            return
        if not self._ahead or self._ahead[0] in self._seen or len(self._seen) >= MAX_WALK:
            self._end(complete=not self._missing and (not self._ahead or self._ahead[0] == self._me))
            return
        target = self._ahead.pop(0)

        def answered(answer: Message | None) -> None:
            if isinstance(answer, Seen) and answer.sight.id == target:
                self._seen[target] = answer.sight
                self._ahead = list(answer.sight.successors)
            else:
                # Silent, or another answered, being the nearest to where it was: go on with who comes next.
                self._missing.append(Missing(target, one_place(target), Reason.SILENT))
            self.step()

        self._exchange.ask_nearest(target, Look(), (Seen,), answered, WALK_TIMEOUTS_S)

    def _late(self) -> None:
        if self._ahead:
            last = one_place(self._ahead[0])
            self._missing.append(Missing(self._ahead[0], last._replace(high=one_place(self._me).low), Reason.LATE))
        self._end(complete=False)

    def _end(self, *, complete: bool) -> None:
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._done(_crawled(self._seen.values(), self._missing, self._host.now() - self._began, not complete))


def _crawled(nodes: Iterable[Sight], missing: Sequence[Missing], took_s: float, lacking: int) -> Crawled:
    ordered = tuple(sorted(nodes, key=lambda sight: sight.id))
    return Crawled(ordered, tuple(missing), took_s, not missing and not lacking)


def _nothing(octets: bytes, about: About) -> None:
    if octets:
        raise BadDatagram("a crawl takes no argument")


def _parse(octets: bytes) -> Sight:
    return Sight.read(Fields.parse(octets, "sight"))
