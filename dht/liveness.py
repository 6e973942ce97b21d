"""Finds out which peers are still there, by the path in use, at little cost when idle and quickly under traffic.

    quiet -> (something that calls for an answer had none for SUSPECT_AFTER_S, or the edge's interval is over)
          -> ping, again after each timeout; suspect once one went unanswered; lost after PROBES of them
    quiet -> (entrusted with a routed question, whose answer comes another way) -> ping at once, suspect as soon
    wanted by neither end -> lapsed before NATs forget it

One timer a node, not one a peer: a list holds for each peer the first instant at which anything may be due. What is
heard from it moves that instant away without a word to anybody, so who is looked at too early is only put back. Also
notices that the machine slept: the clock jumps between two ticks.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from functools import partial
from math import inf

from dht.host import Host, Timer
from dht.peer import Peer
from dht.sessions import Sessions

TICK_S = 0.5  # at least, between two ticks: what is due meanwhile waits for its company
MAX_PAUSE_S = 2.0  # at most; who has become adjacent is noticed within it
GRAIN_S = 0.01  # what is due within it is due: a clock's ticks are not exact
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
        # In order: when, the peer's number, it; void unless its `due_at`. What is new mostly belongs at the end.
        self._due: list[tuple[float, int, Peer]] = []
        self._ticked_at = self._tick_at = 0.0
        self._forget_at = 0.0

    def start(self) -> None:
        self._ticked_at = self._host.now()
        self._sessions.awaited = lambda: self._tick_within(SUSPECT_AFTER_S)
        # Nodes started together must not stay in step.
        self._tick_in(TICK_S * self._host.rng.random())

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
        self._tick_within(peer.patience_s(MIN_PROBE_S))

    def answered(self) -> None:
        """A probe was answered: perhaps nobody is due so soon any more."""
        if self._timer is not None and self._tick_at > self._host.now():
            at = self._ticked_at + self._pause_s()
            if at > self._tick_at:
                self._timer.cancel()
                self._tick_at = at
                self._timer = self._host.call_later(at - self._host.now(), self._tick)

    def entrust(self, peer: Peer) -> None:
        """`peer` was given what it is to pass on. Perhaps nothing will come back by this edge, and who asked has little
        patience: make sure at once that it is there, unless it was just heard."""
        now = self._host.now()
        if peer.probes == 0 and peer.up and peer.path is not None and now - peer.path_heard_at >= FRESH_S:
            self.probe(peer)
            wait_s = peer.patience_s(MIN_SUSPICION_S)
            self._host.call_later(wait_s, partial(self._doubt, peer, peer.path_heard_at))

    def _doubt(self, peer: Peer, heard_at: float) -> None:
        if self._timer is not None and peer.probes and not peer.suspect and peer.path_heard_at == heard_at:
            peer.suspect = True
            self.suspected(peer)

    def _tick(self) -> None:
        now = self._host.now()
        gap_s = now - self._ticked_at
        self._ticked_at = self._tick_at = now
        if gap_s > SLEPT_S:
            self._tick_in(TICK_S)
            self.slept(gap_s)
            return
        self._look(now)
        if now >= self._forget_at:
            self._forget_at = now + 60.0
            self._sessions.forget(now)
        self._tick_in(self._pause_s())

    def _pause_s(self) -> float:
        """From the last tick to the next."""
        free_s = 0.0 if self._sessions.restless else self._first_due() - self._ticked_at
        return min(max(TICK_S, free_s), MAX_PAUSE_S)

    def _tick_in(self, pause_s: float) -> None:
        self._tick_at = self._ticked_at + pause_s
        self._timer = self._host.call_later(pause_s, self._tick)

    def _tick_within(self, wait_s: float) -> None:
        """Something is awaited: have a look by then. During a tick this does nothing; its end sees to that."""
        now = self._host.now()
        at = max(now + wait_s, self._ticked_at + TICK_S)
        if self._timer is not None and at < self._tick_at:
            self._timer.cancel()
            self._tick_at = at
            self._timer = self._host.call_later(at - now, self._tick)

    def _first_due(self) -> float:
        """When the first peer is due, as far as is known now."""
        due = self._due
        while due:
            at, number, peer = due[0]
            if at != peer.due_at or self._sessions.peers.get(peer.id) is not peer:
                del due[0]
                continue
            calm_until = self._calm_until(peer, self._limit_s(peer))
            if calm_until <= at:
                return at
            peer.due_at = calm_until
            del due[0]
            _insert(due, (calm_until, number, peer))
        return inf

    def _limit_s(self, peer: Peer) -> float:
        """How long a peer may be silent before it must be considered at all."""
        adjacent, edge_s = self._judged_by
        return ADJACENT_S if peer.id in adjacent else edge_s

    def _calm_until(self, peer: Peer, limit_s: float) -> float:
        """Until when nothing is due for a peer, if that depends on its silence alone; 0 otherwise."""
        if not peer.up or peer.probes or peer.unanswered_at is not None:
            return 0.0
        return peer.path_heard_at + limit_s

    def _look(self, now: float) -> None:
        """Look at every peer that is due, and at those of whom something is awaited."""
        sessions, due = self._sessions, self._due
        restless, peers = sessions.restless, sessions.peers
        judged_by = self.adjacent(), self.edge_interval_s()
        if judged_by != self._judged_by:
            self._judged_by = judged_by
            due.clear()
            for peer in peers.values():
                peer.due_at = 0.0
                restless[peer.number] = peer
        soon = now + GRAIN_S
        while due and due[0][0] <= soon:
            at, number, peer = due.pop(0)
            if at == peer.due_at:
                peer.due_at = 0.0
                restless[number] = peer
        for number in sorted(restless) if len(restless) > 1 else tuple(restless):
            peer = restless[number]
            if peers.get(peer.id) is not peer:
                del restless[number]
                continue
            limit_s = self._limit_s(peer)
            due_at = self._calm_until(peer, limit_s)
            if due_at <= soon:
                due_at = self._look_at(peer, now, limit_s)
            restless.pop(number, None)
            # Who is in the list already, for an earlier instant, is looked at no later than it must be.
            if peers.get(peer.id) is peer and (not peer.due_at or due_at < peer.due_at):
                peer.due_at = due_at
                _insert(due, (due_at, number, peer))

    def _look_at(self, peer: Peer, now: float, limit_s: float) -> float:
        """Do what is due for a peer, if anything; returns when to look again."""
        if not peer.up:
            if now - peer.heard_at >= IDLE_PEER_S:
                self._sessions.remove(peer)
            return peer.heard_at + IDLE_PEER_S
        if peer.probes > 0:
            if now + GRAIN_S >= peer.ping_at + peer.patience_s(MIN_PROBE_S):
                self._unanswered(peer)
            return peer.ping_at + peer.patience_s(MIN_PROBE_S)
        if peer.unanswered_at is not None:
            suspect_at = peer.unanswered_at + peer.patience_s(SUSPECT_AFTER_S)
            if now + GRAIN_S < suspect_at:
                return suspect_at
            self.probe(peer)
            return now + peer.patience_s(MIN_PROBE_S)
        interval_s = self.overlay_interval_s(peer) if peer.path is None else self.interval_s(peer)
        if interval_s is not None:
            ask_at = peer.path_heard_at + interval_s
            if now + GRAIN_S < ask_at:
                return min(ask_at, now + limit_s)
            self.probe(peer)
            return now + peer.patience_s(MIN_PROBE_S)
        if peer.path is not None:
            if now - peer.path_heard_at > LAPSE_S:
                self.lost(peer, False)
            return now + TICK_S  # it may be wanted again before it lapses
        gone_at = max(peer.path_heard_at, peer.demand_at) + IDLE_PEER_S
        if now >= gone_at:
            self._sessions.remove(peer)
        return min(gone_at, now + limit_s)  # a group may want to know meanwhile

    def _unanswered(self, peer: Peer) -> None:
        """The last probe went unanswered."""
        if not peer.suspect:
            peer.suspect = True
            self.suspected(peer)
        if peer.probes >= PROBES:
            self.lost(peer, True)
        else:
            self.probe(peer)


def _insert(due: list[tuple[float, int, Peer]], entry: tuple[float, int, Peer]) -> None:
    if due and entry < due[-1]:
        insort(due, entry)
    else:
        due.append(entry)
