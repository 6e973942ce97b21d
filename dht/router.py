"""Greedy recursive routing over the edges: each hop lies strictly nearer to the target, so there are no loops.

A packet for the node *nearest* a target ends where no edge leads nearer; one for *exactly* one node ends there or,
when nobody nearer is known, its source is told. Edges that don't answer are gone around, and control messages that were
given to one since it was last heard are sent another way as soon as it is suspected: who asked would only try the same
way again.
Source: Brunet's greedy routing by distance in both directions; hop by hop, as Chord's recursive style.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

from dht.edge import Edge, Edges
from dht.envelope import HEADER_BYTES, HOP_LIMIT, Content, Envelope, Inner, Mode
from dht.errors import BadDatagram
from dht.ids import closer
from dht.messages import HEAD_BYTES, Kind, Message, Unreachable, pack_control

MAX_IN_DOUBT = 16  # control messages an edge
MAX_EDGES_IN_DOUBT = 4096

_ROUTED = bytes((Inner.ROUTED,))
_MODES = tuple(Mode)

# Another choice of the next hop, of the edges that could be one: None ends the packet here. For who studies routing.
Policy = Callable[[Sequence[Edge], int, Mode], Edge | None]


class Router:
    """Passes envelopes on; `arrived(envelope, hops)` takes those that end here."""

    def __init__(self, me: int, edges: Edges, arrived: Callable[[Envelope, int], None], counters: Counter[str]) -> None:
        self._me = me
        self._edges = edges
        self._arrived = arrived
        self._counters = counters
        self._in_doubt: dict[int, tuple[float, list[Envelope]]] = {}  # by edge: when it was last heard, given since
        self._ids: list[int] = []  # of the peers, as the table has them,
        self._sorted: list[int] = []  # and in the ring's order
        self.joined: Callable[[], bool] = lambda: False
        self.entrusted: Callable[[Edge], None] = lambda edge: None  # it was given a control message to pass on
        self.policy: Policy | None = None  # instead of greedy routing, once this node has joined
        self.arrived_batch: Callable[[Envelope, Sequence[bytes], int], None] = self._arrived_each

    def next_hop(self, target: int, mode: Mode) -> Edge | None:
        """The edge that leads nearest to `target`; None when no edge leads nearer than this node is."""
        if self.policy is not None and self.joined():
            return self.policy(self._usable(target, mode), target, mode)
        peers = self._edges.peers
        doubtful: Edge | None = None
        peer = peers.get(target)
        if peer is not None and peer.path is not None and peer.up and (peer.joined or mode == Mode.EXACT):
            if not peer.suspect:
                return peer
            doubtful = peer  # only if nobody else leads nearer
        if (ids := list(peers)) != self._ids:
            self._ids, self._sorted = ids, sorted(ids)
        # The nearest is the first that may be taken on either side of the target.
        ring = self._sorted
        place = bisect_left(ring, target)
        best: Edge | None = None
        for side in (range(place, place + len(ring)), range(place - 1, place - 1 - len(ring), -1)):
            for index in side:
                peer = peers[ring[index % len(ring)]]
                if peer.joined and not peer.suspect and peer.up and peer.path is not None and peer.id != target:
                    if best is None or closer(target, peer.id, best.id):
                        best = peer
                    break
        # A node that has not joined owns no part of the ring: it is never the nearest.
        if best is not None and self.joined() and not closer(target, best.id, self._me):
            best = None
        return best or doubtful

    def _usable(self, target: int, mode: Mode) -> list[Edge]:
        """The edges that a packet may take."""
        return [
            peer
            for peer in self._edges.peers.values()
            if peer.path is not None and peer.up and not peer.suspect
            if peer.joined or (peer.id == target and mode == Mode.EXACT)
        ]

    def send(self, mode: Mode, content: Content, target: int, payload: bytes) -> None:
        """Send a packet of this node's own on its way; it may end here."""
        try:
            self._forward(Envelope(HOP_LIMIT, mode, content, self._me, target, payload))
        except BadDatagram:
            # It ended here, and we refuse from ourselves what others would refuse from us: an expired certificate's
            # record, say. The question stays without an answer, as it would elsewhere.
            self._counters["own_envelope_refused"] += 1

    def go_around(self, edge: Edge) -> None:
        """`edge` is suspect: what it was given since it was last heard goes another way."""
        heard_at, again = self._in_doubt.pop(edge.id, (0.0, []))
        if heard_at != edge.path_heard_at:
            return
        for envelope in again:
            self._counters["envelope_sent_around"] += 1
            try:
                self._forward(envelope)
            except BadDatagram:
                self._counters["own_envelope_refused"] += 1  # it ended here

    def tell(self, target: int, message: Message) -> None:
        """Send a message that wants no answer to exactly `target`."""
        self.send(Mode.EXACT, Content.CONTROL, target, pack_control(message, Kind.TELL))

    def receive(self, data: bytes, traffic_class: int = 0) -> None:
        """Handle an envelope from an edge. What is passed on keeps the traffic class it came with, and with it a
        congestion mark, as behind any router. Raises BadDatagram."""
        envelope = Envelope.parse(data)
        if envelope.source == self._me:
            self._counters["envelope_came_back"] += 1
            return
        self._forward(envelope, traffic_class)

    def send_batch(self, target: int, sealed: Sequence[bytes], traffic_class: int = 0) -> None:
        """Send sealed packets of this node's own on their way to exactly `target`, together."""
        self._forward_batch(
            Envelope(HOP_LIMIT, Mode.EXACT, Content.SEALED, self._me, target, b""), sealed, traffic_class
        )

    def receive_batch(self, plaintexts: Sequence[bytes], traffic_class: int = 0) -> None:
        """Handle envelopes that came together and differ in their payloads only, each with its kind in front. Raises
        BadDatagram."""
        envelope = Envelope.parse(plaintexts[0][1:])
        if envelope.source == self._me:
            self._counters["envelope_came_back"] += len(plaintexts)
            return
        self._forward_batch(envelope, [plaintext[1 + HEADER_BYTES :] for plaintext in plaintexts], traffic_class)

    def _forward_batch(self, envelope: Envelope, payloads: Sequence[bytes], traffic_class: int) -> None:
        if envelope.content == Content.SEALED and envelope.target == self._me:
            self.arrived_batch(envelope, payloads, HOP_LIMIT - envelope.hop_limit)
            return
        hop = self.next_hop(envelope.target, Mode(envelope.mode)) if envelope.target != self._me else None
        if hop is None or envelope.hop_limit == 0 or envelope.content != Content.SEALED:
            for payload in payloads:
                self._forward(envelope._replace(payload=payload), traffic_class)
            return
        if envelope.source != self._me:
            self._counters["envelopes_relayed"] += len(payloads)
        header = _ROUTED + envelope._replace(hop_limit=envelope.hop_limit - 1, payload=b"").pack()
        hop.send_all([header + payload for payload in payloads], traffic_class)

    def _arrived_each(self, envelope: Envelope, payloads: Sequence[bytes], hops: int) -> None:
        for payload in payloads:
            self._arrived(envelope._replace(payload=payload), hops)

    def _forward(self, envelope: Envelope, traffic_class: int = 0) -> None:
        target = envelope.target
        if target == self._me:
            self._arrived(envelope, HOP_LIMIT - envelope.hop_limit)
            return
        hop = self.next_hop(target, _MODES[envelope.mode])
        if hop is None:
            if envelope.mode == Mode.NEAREST:
                if self.joined():
                    self._arrived(envelope, HOP_LIMIT - envelope.hop_limit)
                else:
                    self._counters["envelope_before_joining"] += 1
                return
            self._counters["envelope_unreachable"] += 1
            # Only packets are answered, never control messages: no answer begets another.
            if envelope.content == Content.SEALED:
                self.tell(envelope.source, Unreachable(target, envelope.payload[:HEAD_BYTES]))
            return
        if envelope.hop_limit == 0:
            self._counters["envelope_out_of_hops"] += 1
            return
        if envelope.source != self._me:
            self._counters["envelopes_relayed"] += 1
        if envelope.content == Content.CONTROL:
            self._remember(hop, envelope)
        onward = envelope._replace(hop_limit=envelope.hop_limit - 1)
        hop.send(_ROUTED + onward.pack(), expects_answer=True, traffic_class=traffic_class)
        if envelope.content == Content.CONTROL:
            self.entrusted(hop)

    def _remember(self, hop: Edge, envelope: Envelope) -> None:
        heard_at, kept = self._in_doubt.get(hop.id, (0.0, []))
        if heard_at != hop.path_heard_at:
            kept = []  # it was heard since
            if len(self._in_doubt) >= MAX_EDGES_IN_DOUBT:
                self._in_doubt.clear()
            self._in_doubt[hop.id] = hop.path_heard_at, kept
        if len(kept) < MAX_IN_DOUBT and envelope not in kept:
            kept.append(envelope)
