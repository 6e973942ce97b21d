"""One ring as one node has it: routing, near lists, fingers, and the questions that members of a ring ask each other.

    Find, FindFor -> who is nearest to an id?      NeighborsRequest, Neighbors -> Chord's stabilize and notify
    Suspect -> somebody may be dead: look          Leave -> an edge, or a member, is no more

The same class serves the main ring and every group's ring; what differs lies behind the seams of `dht.edge`. It knows
nothing of records, paths, handshakes or memberships, and never times edges out: whoever notices that one is up or down
tells it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dht.aggregate import Aggregates
from dht.broadcast import Broadcast
from dht.contact import Contact
from dht.edge import Edge, Edges, Links
from dht.envelope import Envelope
from dht.exchange import Exchange, Incoming, Way
from dht.fingers import Fingers
from dht.hearsay import digest
from dht.host import Host
from dht.messages import Find, FindFor, Found, Leave, Message, Neighbors, NeighborsRequest, Suspect, Unchanged
from dht.near import Near, Place
from dht.router import Router

MAX_FINDS_A_PEER = 8
MAX_FINDS_FOR_OTHERS = 256
LOST_S = 10.0
MAX_LOST = 128


class Overlay:
    """A ring, seen from the node `me`. `arrived(envelope, hops)` takes what is routed here; `link_by(router)` gives who
    makes edges; `own_contact()` is how others of this ring may reach this node.

    `became(place)` is told when this node's place changes; `doubted(node_id)`, that a member found a node dead.
    """

    def __init__(
        self,
        host: Host,
        me: int,
        edges: Edges,
        arrived: Callable[[Envelope, int], None],
        link_by: Callable[[Router], Links],
        own_contact: Callable[[], Contact],
        counters: Counter[str],
    ) -> None:
        self.me = me
        self._host, self._edges, self._counters = host, edges, counters
        self.router = Router(me, edges, arrived, counters)
        self.exchange = Exchange(host, self.router, counters)
        self.links = link_by(self.router)
        self.near = Near(host, me, edges, self.links, self.exchange.ask, self.exchange.tell, own_contact, counters)
        self.fingers = Fingers(host, me, edges, self.links, self.near.lists, self.find)
        self.broadcast = Broadcast(host, self, counters)
        self.aggregates = Aggregates(host, self, counters)
        self._asking_for: Counter[int] = Counter()  # by node id: the lookups under way for others
        self._lost: dict[int, float] = {}  # by node id: when it was found dead, the latest last
        self.became: Callable[[Place], None] = lambda place: None
        self.doubted: Callable[[int], None] = lambda node_id: None
        self.near.became = self._became
        self.router.joined = lambda: self.near.joined
        handle = self.exchange.handle
        handle(Find, Way.ROUTED, self._on_find)
        handle(FindFor, Way.SESSION, self._on_find_for)
        handle(NeighborsRequest, Way.SESSION, self._on_neighbors_request)
        handle(Neighbors, Way.SESSION, self._on_neighbors)
        handle(Leave, Way.SESSION, self._on_leave)
        handle(Suspect, Way.SESSION, self._on_suspect)

    @property
    def joined(self) -> bool:
        """Whether this node has its place on this ring."""
        return self.near.joined

    def edges(self) -> list[Edge]:
        """The members of this ring to whom this node has a live edge."""
        return [edge for edge in self._edges.edges() if edge.joined and edge.up]

    def edge(self, node_id: int) -> Edge | None:
        """The live edge to one node, whether it has joined or not."""
        edge = self._edges.peers.get(node_id)
        return edge if edge is not None and edge.path is not None and edge.up else None

    def session(self, node_id: int) -> Edge | None:
        """A node of this ring that can be written to, be it an edge of the ring or not."""
        edge = self._edges.peers.get(node_id)
        return edge if edge is not None and edge.up else None

    def lost(self) -> list[int]:
        """The members that this node found dead within LOST_S, and has no edge to again."""
        since = self._host.now() - LOST_S
        return [node_id for node_id, at in self._lost.items() if at >= since and self.edge(node_id) is None]

    def stop(self) -> None:
        """Cancel every timer. Nothing is sent."""
        self.aggregates.stop()
        self.near.stop()
        self.fingers.stop()
        self.exchange.stop()
        self.links.stop()

    def find(self, message: Find, done: Callable[[Message | None], None]) -> None:
        """Route a Find; `done` gets Found or None."""
        self.exchange.ask_nearest(message.target, message, (Found,), done)

    def wants(self, node_id: int) -> bool:
        """Whether this ring needs its edge to a node."""
        return node_id in self.near.lists or node_id in self.fingers or not self.near.joined or self.near.lists.alone

    def edge_down(self, edge: Edge, *, dead: bool) -> None:
        """An edge is gone. A `dead` node is left alone for a while, and the neighbours are told."""
        if dead and edge.joined:
            self._lost.pop(edge.id, None)
            self._lost[edge.id] = self._host.now()
            if len(self._lost) > MAX_LOST:
                del self._lost[next(iter(self._lost))]
        self.fingers.lost(edge.id)
        self.near.edge_down(edge, dead=dead)

    def left(self, node_id: int) -> None:
        """A node left, or gave its edge up."""
        edge = self._edges.peers.get(node_id)
        if edge is None:
            return
        was_edge = edge.path is not None
        self._edges.drop(node_id)
        if was_edge:
            self.edge_down(edge, dead=False)

    def _became(self, place: Place) -> None:
        if place is Place.MEMBER:
            self.fingers.start()
        self.became(place)

    def _on_find(self, incoming: Incoming, message: Find) -> Found:
        return Found(tuple(self.near.nearest_contacts()), incoming.hops)

    def _on_find_for(self, incoming: Incoming, message: FindFor) -> None:
        asker = incoming.source
        if self._asking_for[asker] >= MAX_FINDS_A_PEER or self._asking_for.total() >= MAX_FINDS_FOR_OTHERS:
            self._counters["find_for_refused"] += 1
            return

        def found(answer: Message | None) -> None:
            self._asking_for[asker] -= 1
            if self._asking_for[asker] <= 0:
                del self._asking_for[asker]
            if isinstance(answer, Found):
                incoming.reply(answer)

        self._asking_for[asker] += 1
        self.find(Find(message.target), found)

    def _on_neighbors_request(self, incoming: Incoming, message: NeighborsRequest) -> Message:
        neighbors = self.near.neighbors()
        return Unchanged() if message.digest == digest(neighbors) else neighbors

    def _on_neighbors(self, incoming: Incoming, message: Neighbors) -> None:
        edge = self._edges.peers.get(incoming.source)
        if edge is not None:
            self.near.told(edge, message)

    def _on_leave(self, incoming: Incoming, message: Leave) -> None:
        edge = self._edges.peers.get(incoming.source)
        if message.ring and edge is not None:
            self.links.shun(edge.contact())  # others' lists still hold it, for as long as word takes to spread
        self.left(incoming.source)

    def _on_suspect(self, incoming: Incoming, message: Suspect) -> None:
        self.doubted(message.id)
