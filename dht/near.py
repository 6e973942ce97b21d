"""Keeps a node's place on the ring: stabilizing, healing.

A member stabilizes with its immediate neighbours soon after every change and then less and less often, tells them at
once when its lists change, and now and then asks a far node who is near its own id: this is what heals rings that
split. A member that gives its place up tells every edge at once. How a node comes to its place is `dht.entrance`'s.
Sources: Chord (SIGCOMM 2001) section 4.4; Zave (TSE 2017) for what may change a list (`dht.ring`); ring merging
after Shafaat et al., "Handling network partitions and mergers in structured overlay networks" (P2P 2007).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from dht.alarm import Alarm
from dht.contact import Contact
from dht.edge import Edge, Edges, Links
from dht.entrance import Entrance, Place
from dht.hearsay import Hearsay, digest
from dht.host import Host
from dht.joining import Ask
from dht.messages import FindFor, Found, Message, Neighbors, NeighborsRequest, Suspect, Unchanged
from dht.ring import NearLists

__all__ = ["Near", "Place"]

ALIVE_S = 2.0  # who was heard this recently is surely there
# After a change, then twice as long each time, up to the second. Changes are told at once, but only to who is adjacent:
# of nodes that come together, each learns by asking who came between.
STABILIZE_S = (0.5, 30.0)
PUSH_AFTER_S = 0.05  # changes that come together are told together
LOOK_AROUND_S = 120.0


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
        self.hearsay = Hearsay(self.lists, self._edge, links.names_a_way)
        self._entrance = Entrance(
            host, me, links, ask, self._members, self._enter, self._found_nobody, self._moved, counters
        )
        self.eager_s, self.stabilize_s = STABILIZE_S
        self.look_around_s = LOOK_AROUND_S
        self._pause_s = 0.0
        self.changed: Callable[[], None] = lambda: None
        self.became: Callable[[Place], None] = lambda place: None
        self._stabilizing = Alarm(host, self._stabilize)
        self._looking = Alarm(host, self._look_around)
        self._pushing = Alarm(host, self._push)

    @property
    def joined(self) -> bool:
        return self._entrance.place is Place.MEMBER

    @property
    def running(self) -> bool:
        return self._entrance.running

    def start(self, *, alone: bool) -> None:
        """Begin outside the ring, or (`alone`) as the first member of a new one."""
        self._stabilizing.set(self.stabilize_s * self._host.rng.random())
        self._looking.set(self.look_around_s * self._host.rng.uniform(0.5, 1.0))
        self._entrance.start(alone=alone)

    def stop(self) -> None:
        self._entrance.stop()
        for alarm in (self._stabilizing, self._looking, self._pushing):
            alarm.cancel()

    def reset(self) -> None:
        """Forget the ring, after a sleep for example: the node joins anew."""
        self.lists.join((), ())
        self.hearsay.clear()
        self._entrance.begin_anew()
        self.changed()

    def neighbors(self) -> Neighbors:
        """What this node tells of itself."""
        return Neighbors(
            self.joined,
            self._own_contact(),
            tuple(self.hearsay.known(self.lists.predecessors)),
            tuple(self.hearsay.known(self.lists.successors)),
        )

    def nearest_contacts(self) -> list[Contact]:
        """This node and its near lists: the answer to a Find that ends here."""
        return [self._own_contact(), *self.hearsay.known(self.lists.members())]

    # What happens to the node

    def edge_up(self, peer: Edge) -> None:
        """A new edge, or a peer that joined or restarted behind an old one."""
        self._links.forgive(peer.contact())
        if self.joined and not peer.told_joined:
            self._tell_of_us(peer)  # we joined between the handshake and now
        if not peer.joined:
            return
        match self._entrance.place:
            case Place.OUTSIDE:
                self._entrance.join_through(peer)
            case Place.JOINING:
                pass
            case Place.MEMBER if self.lists.alone and peer.id > self._me:
                # Two rings of one must not both give themselves up: the lower id stays; but a real ring is joined.
                self._ask_neighbors(peer)
            case Place.MEMBER if self.lists.alone:
                self._entrance.change_over(peer)
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
        if self._entrance.place is not Place.OUTSIDE and not any(other.joined for other in self._edges.edges()):
            self._counters["orphaned"] += 1  # The last edge to a member is gone.
            self.reset()

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
        self.hearsay.told(peer.id, message)
        if not message.joined:
            if self._drop(peer.id):
                self._tell_change()
            self._entrance.no_member(peer)
            return
        if not self.joined:
            if came_in and self._entrance.place is Place.OUTSIDE:
                self._entrance.join_through(peer)
            return
        if self.lists.alone and (message.successors or peer.id < self._me):
            mine = any(contact.id == self._me for contact in (*message.successors, *message.predecessors))
            if not mine:
                self._entrance.change_over(peer)
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

    # Joining

    def _enter(self, successor: Edge, its: Neighbors) -> None:
        successors = [successor.id, *self._usable(its.successors)]
        # Our own id may stand there still, from before a restart; unlike behind a successor, nothing ends with it.
        before_us = [contact for contact in its.predecessors if contact.id != self._me]
        predecessors = self._usable(before_us) or [successor.id]
        self.lists.join(successors, predecessors)
        self.hearsay.remember((*its.successors, *its.predecessors))
        self._entrance.become(Place.MEMBER)
        for contact in (*its.predecessors, *its.successors):
            if contact.id in self.lists:
                self._links.link(contact)
        self._tell_change()
        for peer in list(self._edges.edges()):
            if peer.up:
                self._tell_of_us(peer)
                if peer.joined:
                    self._consider(peer)

    def _found_nobody(self) -> None:
        self.lists.join((), ())
        self._entrance.become(Place.MEMBER)
        for peer in list(self._edges.edges()):
            if peer.up:
                self._tell_of_us(peer)

    def _moved(self, place: Place, was_member: bool) -> None:
        self.lists.version += 1
        if was_member:
            self._tell_that_we_are_out()
        self.became(place)

    def _tell_that_we_are_out(self) -> None:
        """Who thinks us a member routes what is for our place to us: even our own question for a way back in."""
        for peer in list(self._edges.edges()):
            if peer.told_joined and peer.up and peer.path is not None:
                self._tell_of_us(peer)

    # Stabilizing

    def _stabilize(self) -> None:
        self._stabilize_later(max(2 * self._pause_s, self.eager_s))
        if not self.joined:
            self._entrance.retry()
            return
        adjacent = [peer for peer in map(self._edge, self.lists.adjacent()) if peer is not None]
        if self.lists.alone:
            adjacent = [peer for peer in self._edges.edges() if peer.joined and peer.up][:1]
        for peer in adjacent:
            self._ask_neighbors(peer)
        self._link_missing()

    def _stabilize_later(self, pause_s: float) -> None:
        self._pause_s = min(pause_s, self.stabilize_s)
        self._stabilizing.set(self._pause_s * self._host.rng.uniform(0.8, 1.0))

    def _ask_neighbors(self, peer: Edge) -> None:
        last = self.hearsay.last_of(peer.id)

        def heard(answer: Message | None) -> None:
            if isinstance(answer, Neighbors):
                self.told(peer, answer)
            elif isinstance(answer, Unchanged) and last is not None:
                self.told(peer, last)  # nothing new there, but we may have dropped one of them meanwhile

        self._ask(peer, NeighborsRequest(b"" if last is None else digest(last)), (Neighbors, Unchanged), heard)

    def _look_around(self) -> None:
        self._looking.set(self.look_around_s * self._host.rng.uniform(0.8, 1.2))
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
        self.hearsay.remember(contact for contact in contacts if contact.id in self.lists)
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
            contact = self.hearsay.contact(node_id)
            if self._edge(node_id) is not None:
                continue
            if contact is None or self._links.shunned(contact):
                if self._drop(node_id):
                    self._tell_change()
            else:
                self._links.link(contact, partial(self._linked, node_id))

    def _drop(self, node_id: int) -> bool:
        first = self.lists.adjacent()
        self.hearsay.forget(node_id)
        if not self.lists.remove(node_id):
            return False
        for adjacent in self.lists.adjacent():
            peer = self._edge(adjacent)
            if adjacent not in first and peer is not None:
                self.hearsay.forget(adjacent)
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
            self._entrance.become(Place.OUTSIDE)
            self._entrance.join_through(self._host.rng.choice(members))
        else:
            self.reset()
            self._entrance.alone_soon()

    def _tell_change(self) -> None:
        self.changed()
        if self.running:
            self._stabilize_later(self.eager_s)
        if not self._pushing.pending:
            self._pushing.set(PUSH_AFTER_S)

    def _push(self) -> None:
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

    def _edge(self, node_id: int) -> Edge | None:
        peer = self._edges.peers.get(node_id)
        return peer if peer is not None and peer.path is not None and peer.up else None

    def _members(self) -> list[Edge]:
        return [peer for peer in self._edges.edges() if peer.joined and peer.up]

    def _near_edges(self) -> list[Edge]:
        edges = (self._edge(node_id) for node_id in self.lists.members())
        return [peer for peer in edges if peer is not None]

    def _usable(self, contacts: Sequence[Contact]) -> list[int]:
        """The ids up to ourselves, without those found dead."""
        ids: list[int] = []
        for contact in contacts:
            if contact.id == self._me:
                break
            if not self._links.shunned(contact):
                ids.append(contact.id)
        return ids
