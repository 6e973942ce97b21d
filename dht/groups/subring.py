"""One group's ring, as one node has it: `dht.overlay` over edges that were admitted to the group.

    WAITING -> (the main ring has a place for us) -> JOINING -> (entries found: join through one | none: begin a ring)
            -> MEMBER or ALONE -> leave() | expelled by a notice -> over

Every message travels in the session of two members, behind the group's tag:

    Inner.GROUP | tag (8) | CONTROL, ROUTED, BROADCAST or ADMISSION | body
    Inner.GROUP | tag (8) | KEEPALIVE: no edge here

Whoever is not admitted is counted and heard no further; the last form tells an honest member that this end has
forgotten it. It says the same to everybody, whether the group exists here or not. Sessions, their death and their
turnover are the node's: a group hears of them from `dht.groups.table`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from dht.contact import Contact
from dht.edge import Edge, Links
from dht.envelope import Content, Envelope, Inner
from dht.errors import BadDatagram
from dht.exchange import Incoming, Way
from dht.groups.admission import Admission
from dht.groups.edges import MAX_EDGES, GroupEdge, GroupEdges, GroupLinks
from dht.groups.entries import Directory, Entries
from dht.groups.messages import Rekeyed
from dht.groups.right import Right, SecretRight
from dht.groups.views import GroupState, GroupView, MemberView
from dht.host import Host, Timer
from dht.messages import Lapse, Leave
from dht.near import Place
from dht.overlay import Overlay
from dht.path import Path, kind_of
from dht.peer import Peer
from dht.requests import Requests
from dht.views import RingView

if TYPE_CHECKING:
    from dht.router import Router

STABILIZE_S = (3.0, 90.0)  # after a change, and at last: seldomer than in the main ring, as a node is in many groups
LOOK_AROUND_S = 300.0
SWEEP_S = 60.0
UNWANTED_S = 120.0  # an edge that this end has not needed for so long is offered up


class Subring:
    """A group that this node is, or wants to be, in. Made by `dht.groups.table.Groups.join`.

    `ring` is what broadcasts and aggregates run on. `heed(notice)` takes what members pass on, packed.
    """

    def __init__(
        self,
        host: Host,
        me: int,
        right: Right,
        directory: Directory,
        open_session: Callable[[Contact, Callable[[Peer | None], None]], None],
        dial: Callable[[Contact, Callable[[Peer | None], None]], None],
        own_contact: Callable[[], Contact],
        requests: Requests,
        heed: Callable[[bytes], None],
        counters: Counter[str],
    ) -> None:
        self._host, self._right, self._counters = host, right, counters
        self._edges = GroupEdges()
        self._waiting = True
        self._refusals: Counter[str] = Counter()
        self._timer: Timer | None = None
        self.notice = b""  # the newest that we know of
        self.changed: Callable[[], None] = lambda: None
        self._admission = Admission(
            right,
            requests,
            lambda: self.ring.near.joined,
            lambda: self.notice,
            heed,
            self._admit,
            self._edge_up,
            self.refuse,
        )

        def link_by(router: Router) -> Links:
            self._links = GroupLinks(host, me, self._edges, open_session, dial, self._admission.seek, counters)
            return self._links

        self.ring = Overlay(host, me, self._edges, self._arrived, link_by, own_contact, counters)
        near = self.ring.near
        near.eager_s, near.stabilize_s = STABILIZE_S
        near.look_around_s = LOOK_AROUND_S
        near.changed = self._near_changed
        self.ring.became = self._became
        self._entries = Entries(
            host,
            right,
            self.ring.near.lists,
            directory,
            own_contact,
            lambda: self.ring.near.joined,
            lambda: self.notice,
            heed,
            self._found,
            counters,
        )
        self.ring.exchange.handle(Lapse, Way.SESSION, self._on_lapse)
        self.ring.exchange.handle(Rekeyed, Way.SESSION, lambda incoming, message: heed(message.notice))

    # What its owner does

    @property
    def name(self) -> str:
        return self._right.name

    @property
    def right(self) -> Right:
        return self._right

    @property
    def edges(self) -> GroupEdges:
        return self._edges

    @property
    def state(self) -> GroupState:
        if not self._right.holds:
            return GroupState.EXPELLED
        if self._waiting:
            return GroupState.WAITING
        if not self.ring.near.joined:
            return GroupState.JOINING
        return GroupState.ALONE if self.ring.near.lists.alone else GroupState.MEMBER

    def start(self) -> None:
        """The main ring has a place for this node: seek one on the group's."""
        if not self._waiting or not self._right.holds:
            self._entries.hurry()
            return
        self._waiting = False
        self._links.resume()
        self._entries.start()
        self._sweep_later()

    def stop(self, *, leave: bool = False) -> None:
        """Cancel every timer; with `leave`, tell the members and withdraw what is published."""
        if leave:
            for edge in list(self._edges.edges()):
                self.ring.exchange.tell(edge, Leave(ring=True))
            self._entries.withdraw()
        self._waiting = True  # an answer of admission may still be on its way
        self._entries.stop()
        if self._timer is not None:
            self._timer.cancel()
        self.ring.stop()

    def use(self, right: Right) -> None:
        """Another right from now on: begin anew with those who have it too."""
        was_waiting = self._waiting
        self._halt()
        self._right = right
        self._admission.use(right)
        self._entries.use(right)
        if not was_waiting:
            self.start()

    def rekeyed(self) -> None:
        """The right's epoch grew: drop whom it no longer admits, tell the others; perhaps it is us."""
        if not self._right.holds:
            for edge in list(self._edges.edges()):
                self.ring.exchange.tell(edge, Rekeyed(self.notice))
            self._entries.withdraw()
            self._halt()
            return
        self._entries.changed()
        edges = list(self._edges.edges())
        for edge in edges:
            self.ring.exchange.tell(edge, Rekeyed(self.notice))  # to those it expels as well: they must know
        for edge in edges:
            if not self._right.still(edge.peer):
                self._counters["group_expelled"] += 1
                edge.joined = False
                self._drop(edge, dead=True)

    def receive(self, peer: Peer, data: bytes, path: Path | None) -> bool:
        """Handle what came behind the group's tag; False when `peer` has no edge to this group. Raises BadDatagram."""
        kind = data[0] if data else -1
        if self._waiting:
            self.refuse("not_ready")
            return False
        if kind == Inner.ADMISSION:
            self._admission.received(peer, data[1:])
            return True
        edge = self._edges.of(peer)
        if kind == Inner.KEEPALIVE:
            if edge is not None:
                self._ask_again(edge)
            return True
        if edge is None:
            self.refuse("stranger")
            return False
        match kind:
            case Inner.CONTROL:
                self.ring.exchange.from_session(peer, data[1:], path, edge)
            case Inner.BROADCAST:
                self.ring.broadcast.receive(peer.id, (data,), self._host.received_class)
            case Inner.ROUTED:
                self.ring.router.receive(data[1:], self._host.received_class)
            case _:
                raise BadDatagram(f"a plaintext of kind {kind} came to a group from '{peer.member.name}'")
        return True

    def peer_gone(self, node_id: int, *, dead: bool) -> None:
        """The node has no session with this one any more."""
        edge = self._edges.peers.get(node_id)
        if edge is not None:
            self._drop(edge, dead=dead)

    def refuse(self, reason: str) -> None:
        """Count what was not heard."""
        self._refusals[reason] += 1
        self._counters["group_refused"] += 1
        self._counters[f"group_refused_{reason}"] += 1

    def view(self) -> GroupView:
        lists = self.ring.near.lists
        members = [
            MemberView(
                edge.id,
                edge.peer.member.name,
                kind_of(edge.peer.path).name.lower(),
                None if edge.rtt_s is None else edge.rtt_s * 1000.0,
            )
            for edge in self._edges.edges()
        ]
        ring = RingView(
            tuple(lists.successors), tuple(lists.predecessors), tuple(self.ring.fingers.ids()), lists.size_estimate()
        )
        return GroupView(
            self.name,
            isinstance(self._right, SecretRight),
            self._right.epoch,
            self.state,
            ring,
            tuple(members),
            self._entries.published,
            self._refusals.total(),
        )

    # What happens

    def _joined(self) -> bool:
        return self.ring.near.joined

    def _halt(self) -> None:
        """No edges, no place, as before the start."""
        self._waiting = True
        self._entries.stop()
        self._links.stop()
        if self._timer is not None:
            self._timer.cancel()
        for edge in list(self._edges.edges()):
            self._edges.drop(edge.id)
        self.ring.near.reset()
        self.ring.near.stop()
        self.ring.fingers.stop()

    def _found(self, contacts: list[Contact]) -> None:
        near = self.ring.near
        fresh = [contact for contact in contacts if not self._links.shunned(contact)]
        if not near.running:
            near.start(alone=not fresh)
        for contact in fresh:
            self._links.link(contact, self._met)

    def _met(self, edge: Edge | None) -> None:
        if edge is not None and edge.joined:
            self.ring.near.look_through(edge)

    def _admit(self, peer: Peer, joined: bool) -> GroupEdge | None:
        """A peer proved that it is a member."""
        if self._waiting:
            return None
        edge = self._edges.of(peer)
        if edge is None:
            if len(self._edges.peers) >= MAX_EDGES and not self._make_room():
                self.refuse("full")
                return None
            edge = self._edges.add(peer, self._right.tag)
            peer.demand_at = self._host.now()
            peer.packets += 1  # it is worth a shortcut
            self.changed()
        edge.joined |= joined  # who is no member any more says so in Neighbors
        return edge

    def _edge_up(self, edge: GroupEdge) -> None:
        if self._edges.peers.get(edge.id) is edge and edge.up:
            self.ring.near.edge_up(edge)

    def _make_room(self) -> bool:
        unwanted = next((edge for edge in self._edges.edges() if not self.ring.wants(edge.id)), None)
        if unwanted is not None:
            self.ring.exchange.tell(unwanted, Leave())
            self._drop(unwanted, dead=False)
        return unwanted is not None

    def _drop(self, edge: GroupEdge, *, dead: bool) -> None:
        self._edges.drop(edge.id)
        self.ring.edge_down(edge, dead=dead)
        self._entries.hurry()

    def _ask_again(self, edge: GroupEdge) -> None:
        """The other end has no edge to us: it forgot us, or thinks that we have no right any more."""

        if edge.in_question:
            return

        def done(renewed: GroupEdge | None) -> None:
            edge.in_question = False
            if renewed is None and self._edges.peers.get(edge.id) is edge:
                self._drop(edge, dead=False)

        edge.in_question = True
        self._admission.seek(edge.peer, done)

    def _arrived(self, envelope: Envelope, hops: int) -> None:
        if envelope.content != Content.CONTROL:
            raise BadDatagram("a sealed packet was routed over a group's ring")
        self.ring.exchange.from_ring(envelope, hops)

    def _near_changed(self) -> None:
        self._entries.changed()

    def _became(self, place: Place) -> None:
        if place is Place.OUTSIDE:
            self._entries.hurry()
        self._entries.changed()
        self.changed()

    def _on_lapse(self, incoming: Incoming, message: Lapse) -> None:
        """The other end does not need this edge; unless we do, it ends."""
        edge = self._edges.peers.get(incoming.source)
        if edge is not None and not self.ring.wants(edge.id):
            self.ring.exchange.tell(edge, Leave())
            self.ring.left(edge.id)

    def _sweep_later(self) -> None:
        self._timer = self._host.call_later(SWEEP_S * self._host.rng.uniform(0.8, 1.2), self._sweep)

    def _sweep(self) -> None:
        now = self._host.now()
        for edge in list(self._edges.edges()):
            if self.ring.wants(edge.id):
                edge.unwanted_at = None
            elif edge.unwanted_at is None:
                edge.unwanted_at = now
            elif now - edge.unwanted_at >= UNWANTED_S:
                edge.unwanted_at = now
                self.ring.exchange.tell(edge, Lapse())
        self._sweep_later()
