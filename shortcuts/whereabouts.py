"""What a node's pings teach it: where it is among round trips, and how long its NAT remembers.

Only direct paths count. A round trip through a relay or the overlay is the sum of other pairs' and says as much about
who happens to be in between; it would pull a node towards its relays, and coordinates are there to choose relays. And
only what a peer says of a direct path shows a mapping of ours. Tells peers this node's coordinate in its pings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dht.coordinate import Coordinate
from dht.host import Endpoint, Host
from dht.parts import Parts
from dht.path import endpoint_of
from dht.peer import Peer
from dht.pings import Pinged
from shortcuts.keepalive import Keepalive
from shortcuts.vivaldi import Vivaldi

MAX_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a direct path looked like from either end when a ping last was answered."""

    here: Endpoint
    there: Endpoint
    at: float


class Whereabouts:
    """Feeds `vivaldi` and `keepalive`. `interval_changed(interval_s)` is told how long idle edges may be silent."""

    def __init__(self, host: Host, parts: Parts, vivaldi: Vivaldi, keepalive: Keepalive) -> None:
        self._host = host
        self.vivaldi, self.keepalive = vivaldi, keepalive
        self.interval_changed: Callable[[float], None] = lambda interval_s: None
        self._seen: dict[int, _Seen] = {}  # by node id, the latest last
        parts.pings.whereabouts = self._coordinate
        parts.pings.pinged = self._pinged

    def rtt_ms(self, peer: Peer) -> float | None:
        """The round trip to a peer on the direct path in use; None when there is none."""
        if not isinstance(peer.path, Endpoint):
            return None
        measured_ms = self.vivaldi.measured_ms(peer.id)
        if measured_ms is None and peer.rtt_s is not None:
            return peer.rtt_s * 1000.0
        return measured_ms

    def estimate_ms(self, coordinate: Coordinate) -> float | None:
        """The round trip to whoever is there; None while this node does not know where itself is."""
        return self.vivaldi.estimate_ms(coordinate) if len(self.vivaldi) else None

    def measured(self, peer: Peer, path: Endpoint, rtt_s: float) -> None:
        """A round trip on a direct path was measured, by a ping or a check."""
        if peer.coordinate is not None:
            self.vivaldi.observe(self._host.now(), peer.id, rtt_s * 1000.0, peer.coordinate)

    def moved(self) -> None:
        """This host is on another network now."""
        self.vivaldi.moved()
        self.keepalive.moved()
        self._seen.clear()
        self.interval_changed(self.keepalive.interval_s)

    def _coordinate(self) -> Coordinate:
        return self.vivaldi.coordinate

    def _pinged(self, peer: Peer, pinged: Pinged) -> None:
        path = endpoint_of(pinged.path)
        if path is None:
            return
        self.measured(peer, path, pinged.rtt_s)
        if pinged.observed is not None:
            self._look_for_mappings(peer.id, _Seen(pinged.observed, path, self._host.now()), pinged.idle_s)

    def _look_for_mappings(self, peer_id: int, seen: _Seen, idle_s: float) -> None:
        before = self._seen.pop(peer_id, None)
        self._seen[peer_id] = seen
        if len(self._seen) > MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        if before is None or seen.here in self._host.local_endpoints():
            return  # nothing to compare with, or no NAT
        ours_lost, theirs_lost = _is_remapped(before.here, seen.here), _is_remapped(before.there, seen.there)
        if ours_lost:
            self.keepalive.lost(idle_s)
        elif theirs_lost:
            # It had to come back from a new port, which took part of the silence.
            self.keepalive.lost(min(self._host.now() - before.at, self.keepalive.interval_s))
        elif seen.here == before.here:
            self.keepalive.held(idle_s)
        self.interval_changed(self.keepalive.interval_s)


def _is_remapped(before: Endpoint, after: Endpoint) -> bool:
    """Whether a NAT gave another port; another address says that somebody moved."""
    return before.address == after.address and before.port != after.port
