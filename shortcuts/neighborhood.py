"""Says who is near this node, to members that seek a relay to it, and to each of them only so often.

Named are nodes to which this one has a direct path, with the round trip as measured, the nearest first. Who may use
them as relays is theirs to decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from dht.budget import Budget
from dht.exchange import Incoming, Way
from dht.host import Endpoint, Host
from dht.parts import Parts
from dht.peer import Peer
from shortcuts.messages import MAX_NEARBY, Nearby, NearbyRequest, Neighbor
from shortcuts.whereabouts import Whereabouts

ANSWERS_PER_S: Final = 0.2  # a member
ANSWER_BURST: Final = 4.0
MAX_ASKERS: Final = 1024


class Neighborhood:
    """Answers for one node."""

    def __init__(self, host: Host, parts: Parts, whereabouts: Whereabouts, counters: Counter[str]) -> None:
        self._host, self._parts, self._whereabouts, self._counters = host, parts, whereabouts, counters
        self._askers: dict[int, Budget] = {}  # who asked last is last
        parts.exchange.handle(NearbyRequest, Way.SESSION, self._on_request)

    def _on_request(self, incoming: Incoming, message: NearbyRequest) -> Nearby | None:
        asker = incoming.peer
        assert asker is not None
        now = self._host.now()
        budget = self._askers.pop(asker.id, None) or Budget(ANSWERS_PER_S, ANSWER_BURST, now)
        self._askers[asker.id] = budget
        if len(self._askers) > MAX_ASKERS:
            del self._askers[next(iter(self._askers))]
        if not budget.take(now):
            self._counters["nearby_over_budget"] += 1
            return None
        vivaldi = self._whereabouts.vivaldi
        here = vivaldi.coordinate if len(vivaldi) else None
        return Nearby(self._parts.reach.contact(), here, tuple(self._nearest(asker)))

    def _nearest(self, asker: Peer) -> Iterator[Neighbor]:
        edges = [
            peer
            for peer in self._parts.sessions.edges()
            if peer.id != asker.id and peer.up and not peer.suspect and isinstance(peer.path, Endpoint)
        ]
        measured = [(self._whereabouts.rtt_ms(edge), edge) for edge in edges]
        known = [(rtt_ms, edge) for rtt_ms, edge in measured if rtt_ms is not None]
        nearest = sorted(known, key=lambda each: each[0])[:MAX_NEARBY]
        return (Neighbor(edge.contact(), rtt_ms, edge.coordinate) for rtt_ms, edge in nearest)
