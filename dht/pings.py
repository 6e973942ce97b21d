"""Pings: is a peer there, how far away is it, from where does it see us, and where does it say it is.

Answered over the path they came by. What is learned goes to whoever wants it, layers above included; when to ping is
`dht.liveness`' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dht.coordinate import Coordinate
from dht.exchange import Exchange, Incoming, Way
from dht.host import Endpoint, Host
from dht.messages import Message, Ping, Pong
from dht.path import Path
from dht.peer import Peer

PING_TIMEOUT_S = 2.0
TELL_WHEREABOUTS_S = 60.0  # to one peer no oftener: idle nodes are to be quiet, and a settled coordinate moves slowly
SETTLED_ERROR = 0.25  # of a coordinate; before that, every ping tells


class Pinged(NamedTuple):
    """A ping that was answered. `path`: the one in use both when it was sent and when it was answered, None when that
    is the overlay or has changed meanwhile; `observed`: where the peer saw us, when the path is direct; `idle_s`: how
    long the path in use had been silent before, 0 when it had not; `hops`: how many the ping took."""

    path: Path | None
    rtt_s: float
    observed: Endpoint | None
    idle_s: float
    hops: int


class Pings:
    """The pings of one node. `whereabouts()` is the coordinate that peers are told, None when it isn't known;
    `standing(peer, joined)` hears whether a peer is a member, `pinged(peer, pinged)` of every answer."""

    def __init__(self, host: Host, exchange: Exchange, joined: Callable[[], bool]) -> None:
        self._host, self._exchange, self._joined = host, exchange, joined
        self.whereabouts: Callable[[], Coordinate | None] = lambda: None
        self.standing: Callable[[Peer, bool], None] = lambda peer, joined: None
        self.pinged: Callable[[Peer, Pinged], None] = lambda peer, pinged: None
        exchange.handle(Ping, Way.SESSION, self._on_ping)

    def ping(self, peer: Peer, done: Callable[[Pinged | None], None], *, vital: bool = False) -> None:
        """One round trip by the path in use; None when there is no answer. `vital` as in Requests."""
        sent_at, path = self._host.now(), peer.path
        first = peer.probes <= 1 and peer.unanswered_at in (None, sent_at)
        idle_s = sent_at - peer.path_heard_at if first else 0.0

        def answered(answer: Message | None) -> None:
            if not isinstance(answer, Pong):
                done(None)
                return
            rtt_s = self._host.now() - sent_at
            peer.measured(rtt_s)
            if answer.coordinate is not None:
                peer.coordinate = answer.coordinate
            self.standing(peer, answer.joined)
            same = path if path == peer.path else None
            pinged = Pinged(same, rtt_s, answer.observed, idle_s, max(1, answer.hops))
            self.pinged(peer, pinged)
            done(pinged)

        ping = Ping(self._joined(), self._told(peer))
        self._exchange.ask(peer, ping, (Pong,), answered, (PING_TIMEOUT_S,), vital=vital)

    def _on_ping(self, incoming: Incoming, message: Ping) -> Pong:
        assert incoming.peer is not None
        if message.coordinate is not None:
            incoming.peer.coordinate = message.coordinate
        self.standing(incoming.peer, message.joined)
        return Pong(self._joined(), incoming.endpoint, incoming.hops, self._told(incoming.peer))

    def _told(self, peer: Peer) -> Coordinate | None:
        now, coordinate = self._host.now(), self.whereabouts()
        recently = now - peer.whereabouts_told_at < TELL_WHEREABOUTS_S
        if coordinate is None or (recently and coordinate.error < SETTLED_ERROR):
            return None
        peer.whereabouts_told_at = now
        return coordinate
