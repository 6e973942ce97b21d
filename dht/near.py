"""Keeps a node's place on the ring: joining, stabilizing, healing.

    OUTSIDE -> (an edge to a member) -> JOINING: who is near my id? link to the successor, take over its list
            -> MEMBER | nobody answers: start again with another member
    OUTSIDE -> (no member found for ALONE_AFTER_S) -> MEMBER of a ring of one, which merges with any ring it meets
    MEMBER -> (a ring of one met another; a side of the lists is lost) -> OUTSIDE, and every edge is told at once

A member stabilizes with its immediate neighbours soon after every change and then less and less often, tells them at
once when its lists change, and now and then asks a far node who is near its own id: this is what heals rings that
split.
Sources: Chord (SIGCOMM 2001) section 4.4; Zave (TSE 2017) for what may change a list (`dht.ring`); ring merging
after Shafaat et al., "Handling network partitions and mergers in structured overlay networks" (P2P 2007).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from functools import partial
from hashlib import blake2b

from dht.contact import Contact
from dht.edge import Edge, Edges, Links
from dht.host import Host, Timer
from dht.joining import Ask, Join
from dht.messages import FindFor, Found, Message, Neighbors, NeighborsRequest, Suspect, Unchanged
from dht.ring import NearLists

ALIVE_S = 2.0  # who was heard this recently is surely there
# After a change, then twice as long each time, up to the second. Changes are told at once, but only to who is adjacent:
# of nodes that come together, each learns by asking who came between.
STABILIZE_S = (0.5, 30.0)
PUSH_AFTER_S = 0.05  # changes that come together are told together
LOOK_AROUND_S = 120.0
ALONE_AFTER_S = 3.0


class Place(Enum):
    """Where a node stands towards the ring."""

    OUTSIDE = auto()
    JOINING = auto()
    MEMBER = auto()


def digest(neighbors: Neighbors) -> bytes:
    """What a NeighborsRequest names the last answer by."""
    summary = bytearray((neighbors.joined, len(neighbors.predecessors)))
    for contact in (neighbors.sender, *neighbors.predecessors, *neighbors.successors):
        packed = contact.pack()
        summary += len(packed).to_bytes(2, "big") + packed
    return blake2b(summary, digest_size=8).digest()


class Near:
    """The near side of one node. `ask(peer, message, answers, done)` and `tell(peer, message)` go one hop;
    `changed()` is told after every change of a list, `became(place)` after every change of place."""

    def __init__(
        self,
        host: Host,
        me: int,
        edges: Edges,
        links: Links,
        ask: Ask,
        tell: Callable[[Edge, Message], bool],
        own_contact: Callable[[], Contact],
        counters: Counter[str],
    ) -> None:
        self._host, self._me, self._edges, self._links = host, me, edges, links
        self._ask, self._tell, self._own_contact, self._counters = ask, tell, own_contact, counters
        self.lists = NearLists(me)
        self.place = Place.OUTSIDE
        self.running = False
        self.eager_s, self.stabilize_s = STABILIZE_S
        self.look_around_s = LOOK_AROUND_S
        self._pause_s = 0.0
        self.changed: Callable[[], None] = lambda: None
        self.became: Callable[[Place], None] = lambda place: None
        self._contacts: dict[int, Contact] = {}  # of entries that have no edge (yet)
        self._heard: dict[int, Neighbors] = {}  # what the adjacent nodes last told of themselves
        self._timers: dict[str, Timer] = {}
        self._join: Join | None = None

    @property
    def joined(self) -> bool:
        return self.place is Place.MEMBER

    def start(self, *, alone: bool) -> None:
        """Begin outside the ring, or (`alone`) as the first member of a new one."""
        self.running = True
        self._later("stabilize", self.stabilize_s * self._host.rng.random(), self._stabilize)
        self._later("look", self.look_around_s * self._host.rng.uniform(0.5, 1.0), self._look_around)
        if alone:
            self._become(Place.MEMBER)
        else:
            self._later("alone", ALONE_AFTER_S, self._settle_alone)

    def stop(self) -> None:
        self.running = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def reset(self) -> None:
        """Forget the ring, after a sleep for example: the node joins anew."""
        self.lists.join((), ())
        self._contacts.clear()
        self._heard.clear()
        self._become(Place.OUTSIDE)
        self._later("alone", ALONE_AFTER_S, self._settle_alone)
        self.changed()

    def neighbors(self) -> Neighbors:
        """What this node tells of itself."""
        return Neighbors(
            self.joined,
            self._own_contact(),
            tuple(self._known(self.lists.predecessors)),
            tuple(self._known(self.lists.successors)),
        )

    def nearest_contacts(self) -> list[Contact]:
        """This node and its near lists: the answer to a Find that ends here."""
        return [self._own_contact(), *self._known(self.lists.members())]

    # What happens to the node

    def edge_up(self, peer: Edge) -> None:
        """A new edge, or a peer that joined or restarted behind an old one."""
        self._links.forgive(peer.contact())
        if self.joined and not peer.told_joined:
            self._tell_of_us(peer)  # we joined between the handshake and now
        if not peer.joined:
            return
        match self.place:
            case Place.OUTSIDE:
                self._join_through(peer)
            case Place.JOINING:
                pass
            case Place.MEMBER if self.lists.alone and peer.id > self._me:
                # Two rings of one must not both give themselves up: the lower id stays; but a real ring is joined.
                self._ask_neighbors(peer)
            case Place.MEMBER if self.lists.alone:
                self._become(Place.OUTSIDE)
                self._join_through(peer)
            case Place.MEMBER:
                self._consider(peer)
                self._look_if_foreign(peer)

    def edge_down(self, peer: Edge, *, dead: bool) -> None:
        """An edge is gone. A `dead` node is left alone for a while, and the neighbours are told."""
        if dead:
            self._links.shun(peer.contact())
        if dead and peer.id in self.lists:
            for neighbor in self._near_edges():
                if neighbor is not peer:
                    self._tell(neighbor, Suspect(peer.id))
        self._drop(peer.id)
        if self.place is not Place.OUTSIDE and not any(other.joined for other in self._edges.edges()):
            self._orphaned()

    def standing(self, peer: Edge, joined: bool) -> None:
        """A ping or its answer said whether the peer is a member: ask for more when that is news."""
        if joined and not peer.joined and peer.path is not None:
            self._ask_neighbors(peer)
        elif peer.joined and not joined:
            peer.joined = False
            self._drop(peer.id)

    def restarted(self, peer: Edge) -> None:
        """A peer's process began anew: it is no member until it says so."""
        self._drop(peer.id)

    def announce(self) -> None:
        """Our own contact changed: tell the neighbours."""
        if self.joined:
            self._tell_change()

    def told(self, peer: Edge, message: Neighbors) -> None:
        """A neighbour told of its lists, asked or not."""
        came_in = message.joined and not peer.joined
        peer.joined = message.joined
        peer.declared = message.sender.endpoints
        self._heard[peer.id] = message
        if len(self._heard) > 4 * self.lists.length:
            self._heard = {key: value for key, value in self._heard.items() if key in self.lists}
        if not message.joined:
            if self._drop(peer.id):
                self._tell_change()
            if self._join is not None:
                self._join.no_member(peer)
            return
        if not self.joined:
            if came_in and self.place is Place.OUTSIDE:
                self._join_through(peer)
            return
        if self.lists.alone and (message.successors or peer.id < self._me):
            mine = any(contact.id == self._me for contact in (*message.successors, *message.predecessors))
            if not mine:
                self._become(Place.OUTSIDE)
                self._join_through(peer)
                return
        self._consider(peer)
        changed = False
        if self.lists.successors[:1] == [peer.id]:
            changed |= self.lists.follow_successor(self._usable(message.successors))
        if self.lists.predecessors[:1] == [peer.id]:
            changed |= self.lists.follow_predecessor(self._usable(message.predecessors))
        self._learn((*message.predecessors, *message.successors))
        if came_in:
            self._look_if_foreign(peer)
        if changed:
            self._tell_change()

    def _look_if_foreign(self, peer: Edge) -> None:
        """In a ring small enough to be known whole, a member who isn't in the lists belongs to another ring."""
        if len(self.lists.members()) < 2 * self.lists.length and peer.id not in self.lists:
            self.look_through(peer)

    def look_through(self, peer: Edge) -> None:
        """Ask a member who is near our id, as it sees the ring: finds what a split or a merge hid from us."""
        if not self.joined:
            return

        def found(answer: Message | None) -> None:
            if isinstance(answer, Found) and self.joined:
                self._learn(answer.contacts)

        self._ask(peer, FindFor(self._me), (Found,), found)

    def neighbors_of(self, node_id: int) -> set[int]:
        """The members that named this node as their neighbour when they last told of their lists."""
        return {
            teller
            for teller, told in self._heard.items()
            if any(contact.id == node_id for contact in (*told.successors, *told.predecessors))
        }

    # Joining

    def _join_through(self, peer: Edge) -> None:
        if not self.running:
            return
        self._become(Place.JOINING)
        self._later("alone", 4 * ALONE_AFTER_S, self._settle_alone)
        self._join = Join(self._me, self._links, self._ask, self._enter, self._join_failed)
        self._join.begin(peer)

    def _enter(self, successor: Edge, its: Neighbors) -> None:
        successors = [successor.id, *self._usable(its.successors)]
        # Our own id may stand there still, from before a restart; unlike behind a successor, nothing ends with it.
        before_us = [contact for contact in its.predecessors if contact.id != self._me]
        predecessors = self._usable(before_us) or [successor.id]
        self.lists.join(successors, predecessors)
        self._remember((*its.successors, *its.predecessors))
        self._become(Place.MEMBER)
        for contact in (*its.predecessors, *its.successors):
            if contact.id in self.lists:
                self._links.link(contact)
        self._tell_change()
        for peer in list(self._edges.edges()):
            if peer.up:
                self._tell_of_us(peer)
                if peer.joined:
                    self._consider(peer)

    def _join_failed(self) -> None:
        self._counters["join_failed"] += 1
        self._become(Place.OUTSIDE)
        self._later("retry", self._host.rng.uniform(0.5, 1.0), self._retry)
        if not self._members():
            self._alone_soon()

    def _alone_soon(self) -> None:
        """All that we know may have given themselves up for each other: one must be the first to begin anew."""
        self._later("alone", self._host.rng.uniform(0.2, 1.0) * ALONE_AFTER_S, self._settle_alone)

    def _retry(self) -> None:
        if self.place is not Place.OUTSIDE:
            return
        members = self._members()
        if members:
            self._join_through(self._host.rng.choice(members))

    def _settle_alone(self) -> None:
        """Nobody to join: a ring of one, which others can join and which merges with any ring it meets."""
        if self.joined:
            return
        if self._members():
            self._become(Place.OUTSIDE)
            self._retry()
            self._later("alone", 4 * ALONE_AFTER_S, self._settle_alone)
            return
        self.lists.join((), ())
        self._become(Place.MEMBER)
        for peer in list(self._edges.edges()):
            if peer.up:
                self._tell_of_us(peer)

    def _orphaned(self) -> None:
        """The last edge to a member is gone."""
        self._counters["orphaned"] += 1
        self.reset()

    # Stabilizing

    def _stabilize(self) -> None:
        self._stabilize_later(max(2 * self._pause_s, self.eager_s))
        if not self.joined:
            self._retry()
            return
        adjacent = [peer for peer in map(self._edge, self.lists.adjacent()) if peer is not None]
        if self.lists.alone:
            adjacent = [peer for peer in self._edges.edges() if peer.joined and peer.up][:1]
        for peer in adjacent:
            self._ask_neighbors(peer)
        self._link_missing()

    def _stabilize_later(self, pause_s: float) -> None:
        self._pause_s = min(pause_s, self.stabilize_s)
        self._later("stabilize", self._pause_s * self._host.rng.uniform(0.8, 1.0), self._stabilize)

    def _ask_neighbors(self, peer: Edge) -> None:
        last = self._heard.get(peer.id)

        def heard(answer: Message | None) -> None:
            if isinstance(answer, Neighbors):
                self.told(peer, answer)
            elif isinstance(answer, Unchanged) and last is not None:
                self.told(peer, last)  # nothing new there, but we may have dropped one of them meanwhile

        self._ask(peer, NeighborsRequest(b"" if last is None else digest(last)), (Neighbors, Unchanged), heard)

    def _look_around(self) -> None:
        self._later("look", self.look_around_s * self._host.rng.uniform(0.8, 1.2), self._look_around)
        far = [peer for peer in self._edges.edges() if peer.joined and peer.up and peer.id not in self.lists]
        if far and self.joined:
            self.look_through(self._host.rng.choice(far))

    def _consider(self, peer: Edge) -> None:
        """Take a live member with an edge into the lists if it belongs there."""
        first = self.lists.adjacent()
        if self.lists.insert(peer.id):
            self._tell_change()
            if peer.id not in first and peer.id in self.lists.adjacent():
                self._ask_neighbors(peer)
            self._tell_of_us(peer)

    def _tell_of_us(self, peer: Edge) -> None:
        peer.told_joined = self.joined
        self._tell(peer, self.neighbors())

    def _learn(self, contacts: Iterable[Contact]) -> None:
        """Link to every contact that would belong into the lists; they enter when the edge is up."""
        contacts = [contact for contact in contacts if contact.id != self._me]
        self._remember(contact for contact in contacts if contact.id in self.lists)
        for contact in contacts:
            peer = self._edge(contact.id)
            if peer is not None:
                if peer.joined and self.lists.takes(peer.id):
                    self._consider(peer)
            elif (contact.id in self.lists or self.lists.takes(contact.id)) and not self._links.shunned(contact):
                self._links.link(contact, partial(self._linked, contact.id))

    def _linked(self, node_id: int, peer: Edge | None) -> None:
        if peer is None and self._drop(node_id):
            self._tell_change()

    def _link_missing(self) -> None:
        for node_id in self.lists.members():
            contact = self._contacts.get(node_id)
            if self._edge(node_id) is not None:
                continue
            if contact is None or self._links.shunned(contact):
                if self._drop(node_id):
                    self._tell_change()
            else:
                self._links.link(contact, partial(self._linked, node_id))

    def _drop(self, node_id: int) -> bool:
        first = self.lists.adjacent()
        self._heard.pop(node_id, None)
        if not self.lists.remove(node_id):
            return False
        for adjacent in self.lists.adjacent():
            peer = self._edge(adjacent)
            if adjacent not in first and peer is not None:
                self._heard.pop(adjacent, None)
                self._ask_neighbors(peer)
        self._tell_change()
        if self.joined and (not self.lists.successors or not self.lists.predecessors) and not self.lists.alone:
            self._lost_a_side()
        return True

    def _lost_a_side(self) -> None:
        """All successors (or predecessors) went at once: find the way round through anybody else, or begin anew."""
        self._counters["near_list_lost"] += 1
        members = self._members()
        if members:
            self._become(Place.OUTSIDE)
            self._join_through(self._host.rng.choice(members))
        else:
            self.reset()
            self._alone_soon()

    def _tell_change(self) -> None:
        self.changed()
        if self.running:
            self._stabilize_later(self.eager_s)
        if "push" not in self._timers:
            self._later("push", PUSH_AFTER_S, self._push)

    def _push(self) -> None:
        self._timers.pop("push", None)
        if not self.joined:
            return
        # Who did not belong between any two entries when its edge came up may do so now; but not who may be dead.
        since = self._host.now() - ALIVE_S
        for edge in list(self._edges.edges()):
            if edge.joined and edge.path_heard_at > since and not edge.suspect and self.lists.takes(edge.id):
                self._consider(edge)
        message = self.neighbors()
        for node_id in self.lists.adjacent():
            peer = self._edge(node_id)
            if peer is not None:
                self._tell(peer, message)

    # Small things

    def _become(self, place: Place) -> None:
        if self._join is not None and place is not Place.JOINING:
            self._join.abandon()
            self._join = None
        if place is not self.place:
            was_member, self.place = self.joined, place
            self.lists.version += 1
            if was_member:
                self._tell_that_we_are_out()
            self.became(place)

    def _tell_that_we_are_out(self) -> None:
        """Who thinks us a member routes what is for our place to us: even our own question for a way back in."""
        for peer in list(self._edges.edges()):
            if peer.told_joined and peer.up and peer.path is not None:
                self._tell_of_us(peer)

    def _later(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        self._timers[name] = self._host.call_later(delay_s, callback)

    def _edge(self, node_id: int) -> Edge | None:
        peer = self._edges.peers.get(node_id)
        return peer if peer is not None and peer.path is not None and peer.up else None

    def _members(self) -> list[Edge]:
        return [peer for peer in self._edges.edges() if peer.joined and peer.up]

    def _near_edges(self) -> list[Edge]:
        edges = (self._edge(node_id) for node_id in self.lists.members())
        return [peer for peer in edges if peer is not None]

    def _known(self, ids: Iterable[int]) -> list[Contact]:
        known = []
        for node_id in ids:
            edge = self._edge(node_id)
            contact = edge.contact() if edge is not None else None
            # Behind a tunnel, an edge that has not told us where it is names no way.
            if contact is None or not self._links.names_a_way(contact):
                contact = self._contacts.get(node_id)
            if contact is not None and self._links.names_a_way(contact):
                known.append(contact)
        return known

    def _remember(self, contacts: Iterable[Contact]) -> None:
        for contact in contacts:
            self._contacts[contact.id] = contact
        if len(self._contacts) > 8 * self.lists.length:
            self._contacts = {key: value for key, value in self._contacts.items() if key in self.lists}

    def _usable(self, contacts: Sequence[Contact]) -> list[int]:
        """The ids up to ourselves, without those found dead."""
        ids: list[int] = []
        for contact in contacts:
            if contact.id == self._me:
                break
            if not self._links.shunned(contact):
                ids.append(contact.id)
        return ids
