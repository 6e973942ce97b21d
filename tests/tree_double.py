"""Rings without sessions: whole ones, drawn from above, whose edges carry plaintexts through a simulated engine.

What `dht.broadcast` and `dht.aggregate` do at 1,000 members needs no cryptography to be seen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from dht.aggregate import Aggregates
from dht.broadcast import Broadcast
from dht.contact import Contact
from dht.edge import Edge
from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.exchange import Incoming, Way
from dht.host import Endpoint
from dht.ids import RING, closer
from dht.messages import FindFor, Found, Kind, Message, pack_control, split_control
from dht.packing import Fields
from dht.ring import NEAR
from sims.engine import Engine, HostState, SimHost

ONE_WAY_S = 0.025


class EdgeDouble:
    """One member as another sees it."""

    def __init__(self, owner: MemberDouble, other: MemberDouble) -> None:
        self._owner, self._other = owner, other
        self.joined = self.told_joined = self.up = self.direct = self.in_trees = True
        self.declared: tuple[Endpoint, ...] = ()
        self.suspect = False
        self.path: object | None = "direct"
        self.path_heard_at = 0.0
        self.rtt_s: float | None = 2 * ONE_WAY_S

    @property
    def id(self) -> int:
        return self._other.me

    def contact(self) -> Contact:
        return self._other.contact()

    def send(self, plaintext: bytes, *, expects_answer: bool = False, traffic_class: int = 0) -> bool:
        self._owner.world.carry(self._owner, self._other, (plaintext,))
        return True

    def send_all(self, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool:
        self._owner.world.carry(self._owner, self._other, tuple(plaintexts))
        return True

    def answer(self, plaintext: bytes, path: object) -> bool:
        return self.send(plaintext)


class ExchangeDouble:
    """Questions and answers between doubles, encoded as on the wire, with the timeouts asked for."""

    def __init__(self, member: MemberDouble) -> None:
        self._member = member
        self._handlers: dict[int, tuple[type[Message], Callable[..., Message | None]]] = {}
        self._pending: dict[int, tuple[Sequence[type[Message]], Callable[[Message | None], None]]] = {}

    def handle(self, message: type[Message], way: Way, handler: Callable[..., Message | None]) -> None:
        self._handlers[message.CODE] = (message, handler)

    def ask(
        self,
        edge: Edge,
        message: Message,
        answers: Sequence[type[Message]],
        done: Callable[[Message | None], None],
        timeouts_s: Sequence[float] = (1.0, 1.5, 2.5),
        *,
        vital: bool = False,
    ) -> None:
        host = self._member.host
        transaction = host.rng.getrandbits(64)
        self._pending[transaction] = answers, done
        packed = bytes((Inner.CONTROL,)) + pack_control(message, Kind.ASK, transaction)

        def attempt(left: Sequence[float]) -> None:
            if transaction not in self._pending:
                return
            if not left:
                del self._pending[transaction]
                done(None)
                return
            edge.send(packed, expects_answer=True)
            host.call_later(left[0], lambda: attempt(left[1:]))

        attempt(tuple(timeouts_s))

    def received(self, source: MemberDouble, data: bytes) -> None:
        control = split_control(data)
        if control.kind is Kind.ANSWER:
            pending = self._pending.pop(control.transaction, None)
            if pending is not None:
                answers, done = pending
                kind = next(kind for kind in answers if control.code == kind.CODE)
                done(kind.read(Fields.parse(control.body)))
            return
        message_type, handler = self._handlers[control.code]
        message = message_type.read(Fields.parse(control.body))

        def reply(answer: Message) -> None:
            packed = pack_control(answer, Kind.ANSWER, control.transaction)
            self._member.edge_to(source).send(bytes((Inner.CONTROL,)) + packed)

        answer = handler(Incoming(source.me, None, None, 1, reply), message)
        if answer is not None and control.kind is Kind.ASK:
            reply(answer)


class MemberDouble:
    """As `dht.overlay.Overlay`, as far as trees look; itself its `links`."""

    def __init__(self, world: TreeWorld, node_id: int) -> None:
        self.world, self.me = world, node_id
        self.host = SimHost(world.engine, world, Endpoint("10.0.0.1", 1), index=len(world.members))
        self.counters: Counter[str] = Counter()
        self.joined = True
        self.known: dict[int, EdgeDouble] = {}
        self.exchange: Any = ExchangeDouble(self)
        self.links: Any = self
        self.exchange.handle(FindFor, Way.SESSION, self._on_find_for)
        self.broadcast = Broadcast(self.host, self, self.counters)
        self.aggregates = Aggregates(self.host, self, self.counters)

    def edges(self) -> list[Edge]:
        return list(self.known.values())

    def session(self, node_id: int) -> Edge | None:
        return self.known.get(node_id)

    def lost(self) -> list[int]:
        return []

    def edge_to(self, other: MemberDouble) -> EdgeDouble:
        return self.known.get(other.me) or EdgeDouble(self, other)

    def contact(self) -> Contact:
        return Contact(self.me, bytes(32), ())

    def link(self, contact: Contact, done: Callable[[Edge | None], None]) -> None:
        other = self.world.members[contact.id]
        if other.host.state is HostState.RUNNING:
            self.world.join(self, other)
            self.host.call_later(4 * ONE_WAY_S, lambda: done(self.known[contact.id]))
        else:
            self.host.call_later(5.0, lambda: done(None))

    def _on_find_for(self, incoming: Incoming, message: FindFor) -> Found:
        ring = self.world.ordered
        nearest = ring[0]
        for candidate in ring:
            if closer(message.target, candidate, nearest):
                nearest = candidate
        place = ring.index(nearest)
        near = [ring[(place + step) % len(ring)] for step in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5)]
        return Found(tuple(self.world.members[node_id].contact() for node_id in near), 1)


class TreeWorld:
    """A whole ring of doubles: near lists, and one finger a distance, chosen at random, edges on both sides."""

    def __init__(self, members: int, seed: int) -> None:
        self.engine = Engine(seed)
        self.members: dict[int, MemberDouble] = {}
        self.refused: list[BadDatagram] = []
        rng = self.engine.rng
        for _ in range(members):
            node_id = rng.getrandbits(160)
            self.members[node_id] = MemberDouble(self, node_id)
        self.ordered = sorted(self.members)
        for place, node_id in enumerate(self.ordered):
            member = self.members[node_id]
            for step in range(1, min(NEAR, members - 1) + 1):
                self.join(member, self.members[self.ordered[(place + step) % members]])
            for exponent in range(159, 140, -1):
                target = (node_id + (1 << exponent) + rng.getrandbits(exponent)) % RING
                finger = self.ordered[bisect_left(self.ordered, target) % members]
                if 1 << exponent <= (finger - node_id) % RING < 2 << exponent:
                    self.join(member, self.members[finger])

    def join(self, one: MemberDouble, other: MemberDouble) -> None:
        one.known.setdefault(other.me, EdgeDouble(one, other))
        other.known.setdefault(one.me, EdgeDouble(other, one))

    def all(self) -> list[MemberDouble]:
        return list(self.members.values())

    def carry(self, source: Any, to: Any, datagram: Any, traffic_class: int = 0) -> None:
        if source.host.state is HostState.RUNNING:
            self.engine.post(ONE_WAY_S, self._arrive, source, to, datagram)

    def _arrive(self, source: MemberDouble, to: MemberDouble, plaintexts: tuple[bytes, ...]) -> None:
        if to.host.state is not HostState.RUNNING:
            return
        try:
            if plaintexts[0][0] == Inner.BROADCAST:
                to.broadcast.receive(source.me, plaintexts)
            else:
                for plaintext in plaintexts:
                    to.exchange.received(source, plaintext[1:])
        except BadDatagram as refusal:
            self.refused.append(refusal)
