"""Keeps one far edge for every distance [2^i, 2^(i+1)) that the near lists don't cover, chosen by latency.

Each round looks at one distance: an empty one is filled, a filled one now and then gets a challenger from another
random point of its range, and the one with the shorter round trip stays. The loser is no longer kept alive by us.
Sources: Chord (SIGCOMM 2001) for the distances; proximity neighbour selection after Dabek et al., "Designing a
DHT for low latency and high throughput" (NSDI 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dht.contact import Contact
from dht.edge import Edge, Edges, Links
from dht.host import Host, Timer
from dht.ids import BITS, RING, clockwise
from dht.messages import Find, Found, Message
from dht.ring import NearLists

ROUND_S = (5.0, 40.0)  # between two looks; doubled from the first to the second while nothing is missing
FILL_S = 0.3  # between two distances while some are empty
EMPTY_RETRY_S = (15.0, 600.0)  # doubled from the first to the second: some distances have no node
CHALLENGE_S = 240.0
WORTH_CHANGING = 0.8  # a challenger must need at most this much of the holder's round trip
FEWEST_NODES = 8  # smaller rings need no fingers


class Fingers:
    """The fingers of one node. `find(message, done)` routes a Find and gives Found or None."""

    def __init__(
        self,
        host: Host,
        me: int,
        edges: Edges,
        links: Links,
        lists: NearLists,
        find: Callable[[Find, Callable[[Message | None], None]], None],
    ) -> None:
        self._host, self._me, self._edges, self._links, self._lists = host, me, edges, links, lists
        self._find = find
        self._holders: dict[int, int] = {}  # exponent -> node id
        self._tried: dict[int, tuple[float, float]] = {}  # exponent -> when to look again, and the wait after that
        self._timer: Timer | None = None
        self._challenge_at = 0.0
        self._pause_s = ROUND_S[0]

    def __contains__(self, node_id: int) -> bool:
        exponent = clockwise(self._me, node_id).bit_length() - 1
        return self._holders.get(exponent) == node_id

    def ids(self) -> list[int]:
        """The nodes held as fingers, the farthest first."""
        return [self._holders[exponent] for exponent in sorted(self._holders, reverse=True)]

    def hold(self, node_id: int) -> None:
        """Take a node for the finger of its distance. There must be an edge to it, or the next round drops it."""
        self._holders[clockwise(self._me, node_id).bit_length() - 1] = node_id

    def start(self) -> None:
        """Begin, or begin anew after the ring changed its shape around us."""
        self.stop()
        self._challenge_at = self._host.now() + CHALLENGE_S * self._host.rng.random()
        self._pause_s = ROUND_S[0]
        self._timer = self._host.call_later(FILL_S * self._host.rng.random(), self._round)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def lost(self, node_id: int) -> None:
        """An edge is gone; its distance is filled again soon."""
        exponent = clockwise(self._me, node_id).bit_length() - 1
        if self._holders.get(exponent) == node_id:
            del self._holders[exponent]
            self._tried.pop(exponent, None)
            if self._timer is not None:
                self.start()

    def _round(self) -> None:
        now = self._host.now()
        wanted = self._wanted()
        self._holders = {
            exponent: node_id
            for exponent, node_id in self._holders.items()
            if exponent in wanted and self._edge(node_id) is not None
        }
        missing = [exponent for exponent in wanted if exponent not in self._holders]
        empty = [exponent for exponent in missing if now >= self._retry_at(exponent)]
        self._pause_s = ROUND_S[0] if empty else min(2 * self._pause_s, ROUND_S[1])
        if empty:
            self._fill(empty[0])
        elif wanted and now >= self._challenge_at:
            self._challenge_at = now + CHALLENGE_S * self._host.rng.uniform(0.8, 1.2)
            self._look_for(self._host.rng.choice(wanted))
        pause_s = FILL_S if len(empty) > 1 else self._pause_s
        if pause_s > ROUND_S[0]:
            next_at = min([self._challenge_at, *map(self._retry_at, missing)])
            pause_s = max(ROUND_S[0], min(pause_s, next_at - now))
        self._timer = self._host.call_later(pause_s * self._host.rng.uniform(0.8, 1.2), self._round)

    def _retry_at(self, exponent: int) -> float:
        """When a node for an empty distance is sought again."""
        return self._tried.get(exponent, (0.0, 0.0))[0]

    def _wanted(self) -> list[int]:
        """The exponents whose range begins behind the last successor, farthest first."""
        if len(self._lists.successors) < self._lists.length or self._lists.size_estimate() < FEWEST_NODES:
            return []
        covered = clockwise(self._me, self._lists.successors[-1])
        return list(range(BITS - 1, covered.bit_length() - 1, -1))

    def _fill(self, exponent: int) -> None:
        # A node that links to us for a reason of its own may serve as well.
        candidates = [
            peer
            for peer in self._edges.edges()
            if peer.up and peer.joined and clockwise(self._me, peer.id).bit_length() - 1 == exponent
        ]
        if candidates:
            best = min(candidates, key=lambda peer: (peer.rtt_s is None, peer.rtt_s or 0.0))
            self._holders[exponent] = best.id
        else:
            self._look_for(exponent)

    def _look_for(self, exponent: int) -> None:
        _, wait_s = self._tried.get(exponent, (0.0, EMPTY_RETRY_S[0]))
        self._tried[exponent] = (self._host.now() + wait_s, min(2 * wait_s, EMPTY_RETRY_S[1]))
        start = 1 << exponent
        target = (self._me + start + self._host.rng.getrandbits(max(1, exponent))) % RING

        def found(answer: Message | None) -> None:
            if isinstance(answer, Found):
                self._try_candidate(exponent, answer.contacts)

        self._find(Find(target), found)

    def _try_candidate(self, exponent: int, contacts: Sequence[Contact]) -> None:
        fit = [
            contact
            for contact in contacts
            if clockwise(self._me, contact.id).bit_length() - 1 == exponent
            and contact.id != self._holders.get(exponent)
            and not self._links.shunned(contact)
        ]
        if not fit:
            return
        candidate = self._host.rng.choice(fit[:4])
        self._links.link(candidate, lambda peer: self._linked(exponent, peer), direct_only=True)

    def _linked(self, exponent: int, peer: Edge | None) -> None:
        if peer is None or not peer.direct:
            return
        held = self._holders.get(exponent)
        holder = None if held is None else self._edge(held)
        if holder is None or (peer.rtt_s or 1e9) < WORTH_CHANGING * (holder.rtt_s or 1e9):
            self._holders[exponent] = peer.id

    def _edge(self, node_id: int) -> Edge | None:
        peer = self._edges.peers.get(node_id)
        return peer if peer is not None and peer.direct and peer.up else None
