"""Finds out which peers are still there, by the path in use, at little cost when idle and quickly under traffic.

    quiet -> (something that calls for an answer had none for SUSPECT_AFTER_S, or the edge's interval is over)
          -> ping, again after each timeout; suspect once one went unanswered; lost after PROBES of them
    quiet -> (entrusted with a routed question, whose answer comes another way) -> ping at once, suspect as soon
    wanted by neither end -> lapsed before NATs forget it

One tick a node, not one timer a peer, and none where nobody can be due. Also notices that the machine slept: the clock
jumps between two ticks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush

from dht.host import Host, Timer
from dht.peer import Peer
from dht.sessions import Sessions

TICK_S = 0.5
MAX_PAUSE_S = 2 * TICK_S  # between two ticks while nothing is awaited; new neighbours are noticed within it
SUSPECT_AFTER_S = 1.0
PROBES = 3
MIN_PROBE_S = 0.4
MIN_SUSPICION_S = 0.2  # of what passes through: to go around a live edge costs a repetition
FRESH_S = 1.0  # who was heard this recently is entrusted with anything
ADJACENT_S = 4.0  # a dead successor is noticed within this, a tick and three probes: under 6 s, sooner in use
EDGE_S = 27.0  # below the 30 s after which common NATs forget a mapping
# An edge that this end doesn't want is given up when it may lead nowhere, for a NAT may have forgotten it: the other
# end, had it wanted it, would have asked three times by now. So no interval may be longer than EDGE_S.
LAPSE_S = 30.0
IDLE_PEER_S = 300.0  # a session without an edge and without traffic
SLEPT_S = 15.0


class Liveness:
    """Watches every peer. `interval_s(peer)`: how long an edge may stay silent, None if this node doesn't want it:
    ADJACENT_S for those whose ids are in `adjacent()`, at least `edge_interval_s()` for all others; `suspected(peer)`:
    a probe went unanswered; `lost(peer, dead)`: it no longer answers by the path in use, or the edge lapsed;
    `slept(gap_s)`: this machine was asleep; `ping(peer)` sends one. `overlay_interval_s(peer)`: as `interval_s`, for
    peers without a path of their own; None: nobody needs a sign of life from this one."""

    def __init__(
        self,
        host: Host,
        sessions: Sessions,
    ) -> None:
        self._host, self._sessions = host, sessions
        self.ping: Callable[[Peer], None] = lambda peer: None
        self.interval_s: Callable[[Peer], float | None] = lambda peer: None
        self.overlay_interval_s: Callable[[Peer], float | None] = lambda peer: None
        self.adjacent: Callable[[], tuple[int, ...]] = lambda: ()
        self.edge_interval_s: Callable[[], float] = lambda: EDGE_S
        self.suspected: Callable[[Peer], None] = lambda peer: None
        self.lost: Callable[[Peer, bool], None] = lambda peer, dead: None
        self.slept: Callable[[float], None] = lambda gap_s: None
        self._timer: Timer | None = None
        self._judged_by: tuple[tuple[int, ...], float] = ((), 0.0)  # what every peer's `due_at` follows from
        self._calm: list[tuple[float, int, Peer]] = []  # a heap: until when a peer is calm at least, its number, it
        self._ticked_at = self._due_at = 0.0
        self._forget_at = 0.0

    def start(self) -> None:
        self._ticked_at = self._host.now()
        self._sessions.awaited = self._tick_soon
        # Nodes started together must not stay in step.
        self._due_at = self._ticked_at + TICK_S * self._host.rng.random()
        self._timer = self._host.call_later(self._due_at - self._ticked_at, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def probe(self, peer: Peer) -> None:
        """Ask `peer` for a sign of life now; further probes follow by themselves."""
        now = self._host.now()
        peer.unanswered_at = now if peer.unanswered_at is None else peer.unanswered_at
        self._sessions.watch(peer)
        peer.probes += 1
        peer.ping_at = now
        self.ping(peer)

    def entrust(self, peer: Peer) -> None:
        """`peer` was given what it is to pass on. Perhaps nothing will come back by this edge, and who asked has little
        patience: make sure at once that it is there, unless it was just heard."""
        now = self._host.now()
        if peer.probes == 0 and peer.up and peer.path is not None and now - peer.path_heard_at >= FRESH_S:
            self.probe(peer)
            wait_s = max(MIN_SUSPICION_S, 2.0 * (peer.rtt_s or 0.0))
            self._host.call_later(wait_s, partial(self._doubt, peer, peer.path_heard_at))

    def _doubt(self, peer: Peer, heard_at: float) -> None:
        if self._timer is not None and peer.probes and not peer.suspect and peer.path_heard_at == heard_at:
            peer.suspect = True
            self.suspected(peer)

    def _tick(self) -> None:
        now = self._host.now()
        gap_s = now - self._ticked_at
        self._ticked_at = now
        if gap_s > SLEPT_S:
            self._tick_in(TICK_S)
            self.slept(gap_s)
            return
        self._look_at_the_restless(now)
        if now >= self._forget_at:
            self._forget_at = now + 60.0
            self._sessions.forget(now)
        free_s = self._calm[0][0] - now if self._calm else MAX_PAUSE_S
        self._tick_in(MAX_PAUSE_S if free_s > TICK_S and not self._sessions.restless else TICK_S)

    def _tick_in(self, pause_s: float) -> None:
        self._due_at = self._ticked_at + pause_s
        self._timer = self._host.call_later(pause_s, self._tick)

    def _tick_soon(self) -> None:
        """Something is awaited again: the tick that was left out takes place, unless its time is over."""
        now, left_out_at = self._host.now(), self._due_at - TICK_S
        if self._timer is not None and self._ticked_at < left_out_at and now < left_out_at:
            self._timer.cancel()
            self._due_at = left_out_at
            self._timer = self._host.call_later(left_out_at - now, self._tick)

    def _look_at_the_restless(self, now: float) -> None:
        """Check every peer but those that are calm: up, with nothing unanswered, and heard within their limit. Nearly
        all are, nearly always, so each waits in a heap for the first instant at which it may no longer be."""
        sessions, calm = self._sessions, self._calm
        restless, peers = sessions.restless, sessions.peers
        adjacent, edge_s = self.adjacent(), self.edge_interval_s()
        if (adjacent, edge_s) != self._judged_by:
            self._judged_by = adjacent, edge_s
            calm.clear()
            for peer in peers.values():
                peer.due_at = 0.0
                restless[peer.number] = peer
        while calm and calm[0][0] <= now:
            _, number, peer = heappop(calm)
            restless[number] = peer
        for number in sorted(restless) if len(restless) > 1 else tuple(restless):
            peer = restless[number]
            limit_s = ADJACENT_S if peer.id in adjacent else edge_s
            if peers.get(peer.id) is not peer:
                del restless[number]
            elif peer.unanswered_at is None and now - peer.path_heard_at < limit_s and peer.up:
                del restless[number]
                if peer.due_at <= now:  # else it is in the heap, and is looked at no later than it must be
                    peer.due_at = peer.path_heard_at + limit_s
                    heappush(calm, (peer.due_at, number, peer))
            else:
                self._check(peer, now)

    def _check(self, peer: Peer, now: float) -> None:
        if not peer.up:
            if now - peer.heard_at > IDLE_PEER_S:
                self._sessions.remove(peer)
            return
        silent_s = now - peer.path_heard_at
        if silent_s < ADJACENT_S and peer.unanswered_at is None and peer.probes == 0:
            return
        if peer.probes > 0:
            patience_s = max(MIN_PROBE_S, 2.0 * (peer.rtt_s or 0.0))
            if now - peer.ping_at < patience_s:
                return
            if not peer.suspect:
                peer.suspect = True
                self.suspected(peer)
            if peer.probes >= PROBES:
                self.lost(peer, True)
            else:
                self.probe(peer)
            return
        if peer.unanswered_at is not None:
            if now - peer.unanswered_at >= max(SUSPECT_AFTER_S, 2.0 * (peer.rtt_s or 0.0)):
                self.probe(peer)
            return
        if peer.path is None:
            interval_s = self.overlay_interval_s(peer)
            if interval_s is not None:
                if silent_s >= interval_s:
                    self.probe(peer)
            elif silent_s > IDLE_PEER_S and now - peer.demand_at > IDLE_PEER_S:
                self._sessions.remove(peer)
            return
        interval_s = self.interval_s(peer)
        if interval_s is None:
            if silent_s > LAPSE_S:
                self.lost(peer, False)
        elif silent_s >= interval_s:
            self.probe(peer)
