"""Members that turn against the ring: objects put where a node's own would be, so that the product knows nothing of it.

    drop      takes its edges' packets and passes none on: no lookup, answer or store gets through it or ends at it
    misroute  passes them on to a random edge instead of a nearer one, and answers nothing that ends at it
    lie       says of every lookup that passes that it ends here, and that nothing is found; stores nothing; lets the
              rest (answers on their way to one node, sealed packets) through, to look sound

All of them keep their edges, answer pings and tell neighbours the truth: nothing that a node measures of its edges
gives them away. None can forge a record or read a sealed packet. As deputies they say that nothing is found.
Sources: the faults of Castro et al. (OSDI 2002) and of S/Kademlia (Baumgart and Mies, P2P-NVE 2007).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

from dht.envelope import HOP_LIMIT, Content, Envelope, Inner, Mode
from dht.exchange import Incoming, Way
from dht.host import Endpoint, Rng
from dht.messages import Fetched, FetchFor, Message, Stored, StoreFor
from dht.node import Node
from dht.records import REPLICAS, Record
from dht.router import Router
from dht.store import Outcome, RecordStore

_ROUTED = bytes((Inner.ROUTED,))


class Attack(Enum):
    """What a hostile member does with what is not its own."""

    DROP = "drop"
    MISROUTE = "misroute"
    LIE = "lie"


def turn(node: Node, attack: Attack, rng: Rng) -> HostileRouter:
    """Make a member of the ring hostile, for good. Returns what now stands in its way of packets."""
    router = HostileRouter(node, attack, rng)
    node.parts.demux.router = router
    node.parts.demux.router.arrived_batch = node.parts.demux.arrived_batch
    node.parts.exchange.handle(FetchFor, Way.SESSION, router.fetch_for, instead=True)
    node.parts.exchange.handle(StoreFor, Way.SESSION, router.store_for, instead=True)
    node.parts.replicas.store = Withholding()
    return router


class Withholding(RecordStore):
    """Says that it stores what it is offered, and that nothing is there."""

    def offer(self, record: Record, now: float) -> Outcome:
        return Outcome.STORED

    def find(self, key: int, now: float) -> list[Record]:
        return []

    def between(self, left: int, right: int, now: float, replicas: int = REPLICAS) -> Iterator[tuple[int, Record]]:
        return iter(())


class HostileRouter(Router):
    """Takes the packets that a node's edges bring. What the node itself sends goes by its own router, as ever."""

    def __init__(self, node: Node, attack: Attack, rng: Rng) -> None:
        super().__init__(node.id, node.parts.sessions, node.parts.demux.arrived, node.counters)
        self.joined = node.parts.router.joined
        self._node, self._attack, self._rng = node, attack, rng
        self.taken = 0  # packets that did not go where they should

    def receive(self, data: bytes, traffic_class: int = 0) -> None:
        envelope = Envelope.parse(data)
        if envelope.mode == Mode.EXACT and envelope.target == self._node.id:
            super().receive(data, traffic_class)  # the answers to its own questions it wants
        elif self._attack is Attack.LIE:
            self._lie(envelope, data, traffic_class)
        else:
            self.taken += 1
            if self._attack is Attack.MISROUTE:
                self._pass_on(envelope)

    def receive_batch(self, plaintexts: Sequence[bytes], traffic_class: int = 0) -> None:
        for plaintext in plaintexts:
            self.receive(plaintext[1:], traffic_class)

    def fetch_for(self, incoming: Incoming, message: FetchFor) -> Message | None:
        """A peer wants us as its deputy."""
        self.taken += 1
        return Fetched((), 1) if self._attack is Attack.LIE else None

    def store_for(self, incoming: Incoming, message: StoreFor) -> Message | None:
        """A peer wants us as its deputy."""
        self.taken += 1
        return Stored(Outcome.STORED, 0) if self._attack is Attack.LIE else None

    def _lie(self, envelope: Envelope, data: bytes, traffic_class: int) -> None:
        if envelope.mode == Mode.NEAREST and envelope.content == Content.CONTROL:
            self.taken += 1
            self._arrived(envelope, HOP_LIMIT - envelope.hop_limit)
        else:
            super().receive(data, traffic_class)

    def _pass_on(self, envelope: Envelope) -> None:
        sessions = self._node.parts.sessions
        edges = [peer for peer in sessions.edges() if peer.up and isinstance(peer.path, Endpoint)]
        if edges and envelope.hop_limit:
            onward = envelope._replace(hop_limit=envelope.hop_limit - 1)
            sessions.send(self._rng.choice(edges), _ROUTED + onward.pack())
