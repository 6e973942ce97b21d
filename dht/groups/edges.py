"""A group's edges: peers that were admitted to it, over whatever path their one session takes.

    contact -> (no session yet: over the main ring, and dialled where it says it is, both at once) -> admission -> edge

A session over the main ring is enough for an edge; the direct one, where it can be had, saves the hops. Nobody becomes
an edge without admission. Holds nothing of the ring, which is `dht.overlay`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dht.budget import Budget
from dht.contact import Contact
from dht.edge import Edge
from dht.envelope import Inner
from dht.host import Endpoint, Host
from dht.path import Kind, Path
from dht.peer import Peer

MAX_EDGES = 128  # ten near ones, a finger a distance, and those for whom we are a finger
LINKS_PER_S = 10.0
LINK_BURST = 60.0
SHUN_S = 20.0
MAX_SHUNNED = 128
_GROUP = bytes((Inner.GROUP,))


class GroupEdge:
    """One admitted member, as an edge of one group's ring."""

    __slots__ = ("_head", "declared", "in_question", "joined", "peer", "told_joined", "unwanted_at")

    def __init__(self, peer: Peer, tag: bytes) -> None:
        self.peer = peer
        self._head = _GROUP + tag
        self.joined = self.told_joined = False
        self.in_question = False  # the other end says that it has no such edge, and is asked again
        self.declared: tuple[Endpoint, ...] = ()
        self.unwanted_at: float | None = None  # since when this node has not needed it

    @property
    def id(self) -> int:
        return self.peer.id

    @property
    def path(self) -> Path | Kind:
        return self.peer.path or Kind.OVERLAY

    @property
    def up(self) -> bool:
        return self.peer.up

    @property
    def direct(self) -> bool:
        return True  # whatever the session's path, no other member of the group relays it

    @property
    def suspect(self) -> bool:
        return self.peer.suspect

    @property
    def in_trees(self) -> bool:
        return self.peer.in_trees

    @property
    def path_heard_at(self) -> float:
        return self.peer.path_heard_at

    @property
    def rtt_s(self) -> float | None:
        return self.peer.rtt_s

    def contact(self) -> Contact:
        return self.peer.contact()

    def send(self, plaintext: bytes, *, expects_answer: bool = False, traffic_class: int = 0) -> bool:
        return self.peer.send(self._head + plaintext, expects_answer=expects_answer, traffic_class=traffic_class)

    def send_all(self, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool:
        return self.peer.send_all([self._head + plaintext for plaintext in plaintexts], traffic_class)

    def answer(self, plaintext: bytes, path: Path | None) -> bool:
        return self.peer.answer(self._head + plaintext, path)


class GroupEdges:
    """The edges of one group's ring. `added(edge)` is told of each new one, `dropped(edge)` of each that is no more."""

    def __init__(self) -> None:
        self.peers: dict[int, GroupEdge] = {}
        self.added: Callable[[GroupEdge], None] = lambda edge: None
        self.dropped: Callable[[GroupEdge], None] = lambda edge: None

    def edges(self) -> Iterator[GroupEdge]:
        return iter(self.peers.values())

    def of(self, peer: Peer) -> GroupEdge | None:
        """The edge over this very session; None when the peer was not admitted."""
        edge = self.peers.get(peer.id)
        return edge if edge is not None and edge.peer is peer else None

    def add(self, peer: Peer, tag: bytes) -> GroupEdge:
        """A peer was admitted. The table must have room."""
        assert len(self.peers) < MAX_EDGES or peer.id in self.peers
        self.drop(peer.id)
        edge = self.peers[peer.id] = GroupEdge(peer, tag)
        self.added(edge)
        return edge

    def drop(self, node_id: int) -> None:
        edge = self.peers.pop(node_id, None)
        if edge is not None:
            self.dropped(edge)


@dataclass(slots=True, eq=False)
class _Linking:
    """One wish for an edge: who waits, how many ways to a session are still being tried, and whether one was found."""

    contact: Contact
    waiting: list[Callable[[Edge | None], None]]
    ways: int = 0
    seeking: bool = False


class GroupLinks:
    """Makes edges of one group. `open_session(contact, done)` seeks a session over the main ring; `dial(contact, done)`
    a direct path; `seek(peer, done)` admission over a session."""

    def __init__(
        self,
        host: Host,
        me: int,
        edges: GroupEdges,
        open_session: Callable[[Contact, Callable[[Peer | None], None]], None],
        dial: Callable[[Contact, Callable[[Peer | None], None]], None],
        seek: Callable[[Peer, Callable[[GroupEdge | None], None]], None],
        counters: Counter[str],
    ) -> None:
        self._host, self._me, self._edges, self._counters = host, me, edges, counters
        self._open_session, self._dial, self._seek = open_session, dial, seek
        self._linking: dict[int, _Linking] = {}
        self._shunned: dict[int, float] = {}
        self._budget = Budget(LINKS_PER_S, LINK_BURST, host.now())
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self._linking.clear()

    def resume(self) -> None:
        """Make edges again after `stop`."""
        self._stopped = False
        self._shunned.clear()

    def link(
        self,
        contact: Contact,
        done: Callable[[Edge | None], None] | None = None,
        *,
        direct_only: bool = False,
        at_once: bool = False,
    ) -> None:
        """As in Links; how the session's packets travel is not this ring's business, so both options mean nothing."""
        edge = self._edges.peers.get(contact.id)
        if (edge is not None and edge.up) or contact.id == self._me or self._stopped:
            if done is not None:
                done(edge)
            return
        linking = self._linking.get(contact.id)
        if linking is not None:
            if done is not None:
                linking.waiting.append(done)
            return
        if not self._budget.take(self._host.now()):
            self._counters["group_links_over_budget"] += 1
            if done is not None:
                done(None)
            return
        linking = self._linking[contact.id] = _Linking(contact, [] if done is None else [done])
        linking.ways = 1 + bool(contact.endpoints)
        self._open_session(contact, lambda peer: self._opened(linking, peer))
        if contact.endpoints:
            self._dial(contact, lambda peer: self._opened(linking, peer))

    def names_a_way(self, contact: Contact) -> bool:
        """The main ring leads to any node."""
        return True

    def shun(self, contact: Contact) -> None:
        if len(self._shunned) >= MAX_SHUNNED:
            del self._shunned[next(iter(self._shunned))]
        self._shunned[contact.id] = self._host.now() + SHUN_S

    def forgive(self, contact: Contact) -> None:
        self._shunned.pop(contact.id, None)

    def shunned(self, contact: Contact) -> bool:
        until = self._shunned.get(contact.id)
        if until is not None and until <= self._host.now():
            del self._shunned[contact.id]
            return False
        return until is not None

    def _opened(self, linking: _Linking, peer: Peer | None) -> None:
        linking.ways -= 1
        if linking.seeking or self._linking.get(linking.contact.id) is not linking:
            return
        if peer is not None and peer.up:
            linking.seeking = True
            self._seek(peer, lambda edge: self._settle(linking, edge))
        elif linking.ways == 0:
            self._settle(linking, None)

    def _settle(self, linking: _Linking, edge: GroupEdge | None) -> None:
        if self._linking.get(linking.contact.id) is not linking:
            return
        del self._linking[linking.contact.id]
        if edge is None:
            self.shun(linking.contact)
        else:
            self.forgive(linking.contact)
        for done in linking.waiting:
            done(edge)
