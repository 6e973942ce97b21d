"""Watches the paths to the peers that matter, measures them, and switches when another one is better or one fails.

    known -> checked now and then -> answered: proven, with a round trip | MISSES without an answer: failed
          -> `shortcuts.selection` says which one to use, and this one is used from the next packet on

The path in use is checked every second while there is traffic, and at once when answers fail to come; spare ones every
now and then, which also keeps their mappings and circuits alive. A check proves its own path in both directions, so a
hole in one direction is found too. All paths carry one session: switching loses, repeats and renews nothing.
Never looks for paths: that is `shortcuts.upgrade` and `shortcuts.proxies`.
Sources: RFC 8445 section 7 for checks, RFC 7675 for consent to go on; times are ours.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dht.checks import Checked
from dht.host import Host, Timer
from dht.parts import Parts
from dht.path import Kind, Path, Tunnel, kind_of
from dht.peer import Peer
from shortcuts.selection import PathClass, ProvenPath, Reason, choose

log = logging.getLogger(__name__)

TICK_S: Final = 0.25
ACTIVE_S: Final = 5.0  # traffic this recent makes a peer active
ACTIVE_CHECK_S: Final = 1.0
SPARE_CHECK_S: Final = 20.0
IMPATIENT_S: Final = 0.5  # without an answer to traffic
MISSES: Final = 3  # in a row, before a path has failed
MISSES_WHILE_HEARD: Final = 5  # while something still arrives by it: it may be slow, or dead in one direction only
PATIENCE_GROWTH: Final = (1.0, 1.5, 2.0)
MIN_PATIENCE_S: Final = 0.3
MAX_PATIENCE_S: Final = 1.5
RETRY_FAILED_S: Final = (2.0, 5.0, 10.0, 20.0)
HEARD_S: Final = 0.5
MAX_KNOWN: Final = 12  # paths of one peer
MAX_FAILURES: Final = 6  # checks of a spare path without an answer, before it is forgotten
RELAPSE_S: Final = 60.0
TRIGGERED_A_TICK: Final = 8  # checks that a peer's own checks call for
TRIGGERED_EVERY_S: Final = 3.0  # for one path
MAX_TRIGGERED: Final = 32
DOUBT_EVERY_S: Final = 1.0  # nobody makes us check every path of his more often, by moving to and fro
SPARES_WAITED_FOR_S: Final = 1.5  # before the overlay, which forgets what went by the failed path

_CLASS: Final = {Kind.DIRECT: PathClass.DIRECT, Kind.PROXY: PathClass.PROXY, Kind.OVERLAY: PathClass.OVERLAY}


@dataclass(slots=True, eq=False)
class Known:
    """What is known of one path. `failures` counts rounds of MISSES checks without an answer."""

    proven_at: float
    rtt_ms: float | None = None
    failures: int = 0
    failed_at: float | None = None
    relapses: int = 0
    misses: int = 0
    checking: bool = False
    next_at: float = 0.0

    def answered(self, now: float, rtt_ms: float) -> None:
        # Faster up than down: patience must not run out because a buffer has filled.
        share = 0.5 if self.rtt_ms is not None and rtt_ms > self.rtt_ms else 0.25
        self.rtt_ms = rtt_ms if self.rtt_ms is None else self.rtt_ms * (1 - share) + rtt_ms * share
        if self.failed_at is not None and now - self.failed_at > RELAPSE_S:
            self.relapses, self.failed_at = 0, None
        self.proven_at = now
        self.failures = self.misses = 0

    def failed(self, now: float) -> None:
        self.relapses += self.failures == 0 and self.failed_at is not None
        self.failures += 1
        self.misses = 0
        self.failed_at = now

    def patience_s(self, usual_rtt_s: float | None) -> float:
        """How long to wait for the next answer: longer after each miss, as a slower path looks like a dead one."""
        rtt_s = self.rtt_ms / 1000.0 if self.rtt_ms is not None else usual_rtt_s if usual_rtt_s is not None else 0.4
        first_s = min(MAX_PATIENCE_S, max(MIN_PATIENCE_S, 1.5 * rtt_s + 0.05))
        return first_s * PATIENCE_GROWTH[min(self.misses, len(PATIENCE_GROWTH) - 1)]


@dataclass(slots=True, eq=False)
class Watch:
    """One peer under watch: its paths, None being the overlay, and why it has the one in use. `in_use`: which that was
    when it was last judged; `doubted_at`: when a path in use last began to fail."""

    peer: Peer
    in_use: Path | None
    doubted_at: float | None = None
    paths: dict[Path | None, Known] = field(default_factory=dict)
    reason: Reason = Reason.FIRST
    triggered: int = 0
    triggered_at: dict[Path, float] = field(default_factory=dict)
    judged_at: float = 0.0


class Monitor:
    """The paths of the peers under watch. `lost(peer)` is told when a peer is left with the overlay alone."""

    def __init__(self, host: Host, parts: Parts, counters: Counter[str]) -> None:
        self._host, self._parts, self._counters = host, parts, counters
        self._watches: dict[int, Watch] = {}
        self._timer: Timer | None = None
        self._stopped = False
        self.lost: Callable[[Peer], None] = lambda peer: None
        self.changed: Callable[[Peer], None] = lambda peer: None
        self.observed: Callable[[Peer, Path | None, Checked], None] = lambda peer, path, checked: None

    def start(self) -> None:
        self._parts.checks.answered = self._answered
        self._parts.checks.heard = self._heard
        self._timer = self._host.call_later(TICK_S * self._host.rng.random(), self._tick)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._watches.clear()

    def watch(self, peer: Peer) -> Watch:
        """Watch over this peer's paths from now on."""
        watch = self._watches.get(peer.id)
        if watch is None or watch.peer is not peer:
            watch = self._watches[peer.id] = Watch(peer, peer.path)
            self._sync(watch)
        return watch

    def unwatch(self, peer_id: int) -> None:
        self._watches.pop(peer_id, None)

    def watched(self, peer_id: int) -> Watch | None:
        return self._watches.get(peer_id)

    def known(self, peer: Peer) -> list[Path]:
        """Every path of its own that this peer has or lately had, whether it works or not."""
        watch = self._watches.get(peer.id)
        return [] if watch is None else [path for path in watch.paths if path is not None]

    def working(self, peer: Peer) -> list[Path]:
        """Those of them that were proven and have not failed since."""
        watch = self._watches.get(peer.id)
        if watch is None:
            return []
        paths = watch.paths.items()
        return [path for path, known in paths if path is not None and known.failures == 0 and known.rtt_ms is not None]

    def works(self, peer: Peer, kind: Kind) -> bool:
        """Whether a path of this kind was proven and has not failed since."""
        watch = self._watches.get(peer.id)
        return watch is not None and any(
            kind_of(path) is kind and known.failures == 0 and known.rtt_ms is not None
            for path, known in watch.paths.items()
        )

    def rtt_ms(self, peer: Peer, path: Path | None) -> float | None:
        watch = self._watches.get(peer.id)
        known = None if watch is None else watch.paths.get(path)
        return None if known is None else known.rtt_ms

    def check(self, peer: Peer, path: Path | None) -> None:
        """Check one path of a peer under watch; it is known once it has answered."""
        watch = self._watches.get(peer.id)
        if watch is None or self._stopped:
            return
        known = watch.paths.get(path)
        if known is not None:
            self._check(watch, path, known)
        else:
            self._parts.checks.check(peer, path, lambda checked: None)

    def try_out(self, peer: Peer, path: Path, done: Callable[[Checked | None], None], timeout_s: float) -> None:
        """Check a path that may well not exist; it is known once it has answered."""
        self._parts.checks.check(peer, path, done, timeout_s)

    def forget(self, peer: Peer, path: Path) -> None:
        """This path is no more."""
        watch = self._watches.get(peer.id)
        if watch is not None and watch.paths.pop(path, None) is not None and peer.path == path:
            self._judge(watch)

    def distrust(self, peer: Peer, path: Path) -> None:
        """Others found that this path leads nowhere now."""
        watch = self._watches.get(peer.id)
        known = None if watch is None else watch.paths.get(path)
        if watch is not None and known is not None and known.failures == 0:
            known.failed(self._host.now())
            known.next_at = self._host.now() + RETRY_FAILED_S[0]
            if path == peer.path:
                self._doubt(watch)

    def _answered(self, peer: Peer, path: Path | None, checked: Checked) -> None:
        self.observed(peer, path, checked)
        watch = self._watches.get(peer.id)
        if watch is None or watch.peer is not peer:
            return
        now = self._host.now()
        known = watch.paths.get(path)
        if known is None:
            if len(watch.paths) >= MAX_KNOWN and not self._make_room(watch):
                return
            known = watch.paths[path] = Known(now)
            known.next_at = now + SPARE_CHECK_S * self._host.rng.uniform(0.5, 1.0)
        known.answered(now, checked.rtt_s * 1000.0)
        self._judge(watch)

    def _heard(self, peer: Peer, path: Path | None) -> None:
        """The peer checks a path: check it too, if it is news (RFC 8445, section 7.3.1.4: a triggered check)."""
        watch = self._watches.get(peer.id)
        if watch is None or path is None or watch.triggered >= TRIGGERED_A_TICK:
            return
        known, now = watch.paths.get(path), self._host.now()
        if known is not None and not known.failures:
            return
        if now - watch.triggered_at.get(path, float("-inf")) >= TRIGGERED_EVERY_S:
            watch.triggered_at.pop(path, None)
            watch.triggered_at[path] = now
            if len(watch.triggered_at) > MAX_TRIGGERED:
                del watch.triggered_at[next(iter(watch.triggered_at))]
            watch.triggered += 1
            self.check(peer, path)

    def _tick(self) -> None:
        self._timer = self._host.call_later(TICK_S, self._tick)
        now = self._host.now()
        for watch in list(self._watches.values()):
            peer = watch.peer
            if self._parts.sessions.peers.get(peer.id) is not peer:
                del self._watches[peer.id]
                continue
            watch.triggered = 0
            if not peer.up or not peer.session.can_seal(now):
                continue
            self._sync(watch)
            active = now - peer.demand_at < ACTIVE_S
            for path, known in list(watch.paths.items()):
                if known.checking:
                    continue
                if path == peer.path:
                    impatient = peer.unanswered_at is not None and now - peer.unanswered_at > IMPATIENT_S
                    if active and (now >= known.next_at or (impatient and now >= known.next_at - IMPATIENT_S)):
                        self._check(watch, path, known)
                elif path is not None and now >= known.next_at:
                    self._check(watch, path, known)
            if now - watch.judged_at >= 1.0:
                self._judge(watch)

    def _sync(self, watch: Watch) -> None:
        """The session may have followed its peer to another path by itself."""
        peer = watch.peer
        known = watch.paths.get(peer.path)
        if known is None:
            if len(watch.paths) >= MAX_KNOWN:
                self._make_room(watch)
            watch.paths[peer.path] = Known(peer.path_heard_at)
        elif known.failures == 0:
            known.proven_at = max(known.proven_at, peer.path_heard_at)
        if None not in watch.paths:
            watch.paths[None] = Known(self._host.now())

    def _follow(self, watch: Watch) -> None:
        """Note the path in use. Where it was not changed here, the former one may have failed."""
        former, watch.in_use = watch.in_use, watch.peer.path
        if watch.in_use != former:
            self._doubt(watch)

    def _doubt(self, watch: Watch) -> None:
        """The path in use seems to fail: find out at once which others still work."""
        now = self._host.now()
        if watch.doubted_at is not None and now - watch.doubted_at < DOUBT_EVERY_S:
            return
        watch.doubted_at = now
        for path, known in list(watch.paths.items()):
            if path is not None and path != watch.peer.path and known.failures == 0:
                self._check(watch, path, known)

    def _check(self, watch: Watch, path: Path | None, known: Known) -> None:
        if known.checking:
            return
        now, in_use = self._host.now(), path == watch.peer.path
        known.next_at = now + (ACTIVE_CHECK_S if in_use else SPARE_CHECK_S)

        def done(checked: Checked | None) -> None:
            known.checking = False
            if checked is None and not self._stopped:
                self._missed(watch, path, known)

        patience_s = known.patience_s(watch.peer.rtt_s if in_use else None)
        known.checking = self._parts.checks.check(watch.peer, path, done, patience_s, vital=in_use)

    def _missed(self, watch: Watch, path: Path | None, known: Known) -> None:
        if self._watches.get(watch.peer.id) is not watch or watch.paths.get(path) is not known:
            return
        known.misses += 1
        if known.misses == 1 and path == watch.peer.path and known.failures == 0:
            self._doubt(watch)
        heard = path == watch.peer.path and self._host.now() - watch.peer.path_heard_at < HEARD_S
        if known.misses < (MISSES_WHILE_HEARD if heard else MISSES):
            self._check(watch, path, known)
            if isinstance(path, Tunnel) and known.misses == MISSES - 1:
                self._wake_relay(path)
            return
        now = self._host.now()
        known.failed(now)
        known.next_at = now + RETRY_FAILED_S[min(known.failures, len(RETRY_FAILED_S)) - 1]
        if known.failures >= MAX_FAILURES and path != watch.peer.path and path is not None:
            del watch.paths[path]
        self._judge(watch)

    def _wake_relay(self, tunnel: Tunnel) -> None:
        """Perhaps our own NAT has moved us, and the relay still writes to where we were: let it hear from us."""
        relay = self._parts.sessions.peers.get(tunnel.via)
        if relay is not None and relay.up and relay.probes == 0:
            self._parts.liveness.probe(relay)

    def _judge(self, watch: Watch) -> None:
        now = self._host.now()
        watch.judged_at = now
        peer = watch.peer
        if self._parts.sessions.peers.get(peer.id) is not peer:
            return  # replaced meanwhile; the next tick forgets the watch
        self._follow(watch)
        proven: list[ProvenPath[Path | None]] = [
            ProvenPath(
                path,
                _CLASS[kind_of(path)],
                known.rtt_ms,
                now if path is None else known.proven_at,
                0 if path is None else known.failures,
                None if path is None else known.failed_at,
                known.relapses,
            )
            for path, known in watch.paths.items()
        ]
        choice = choose(now, proven, peer.path, watch.doubted_at)
        if choice.chosen is None or choice.chosen.path == peer.path:
            if choice.reason is not Reason.NO_REASON_TO_CHANGE:
                watch.reason = choice.reason
            return
        if choice.chosen.path is None and (not self._has_other_edges(peer) or self._may_find_a_spare(watch, now)):
            return  # the overlay leads nowhere without this very path, or needn't be taken
        watch.reason = choice.reason
        former = peer.path
        self._counters[f"path_to_{choice.chosen.kind.name.lower()}"] += 1
        log.info(
            "%s: from %s to %s: %s", peer.member.name, former or "overlay", choice.chosen.path, choice.reason.value
        )
        if choice.chosen.path is None:
            self.lost(peer)
        else:
            self._parts.sessions.use(peer, choice.chosen.path)
            known = watch.paths[choice.chosen.path]
            known.next_at = min(known.next_at, now + ACTIVE_CHECK_S)
        watch.in_use = peer.path
        self.changed(peer)

    def _may_find_a_spare(self, watch: Watch, now: float) -> bool:
        """Whether another path is being checked, while the one in use has only just failed."""
        present = watch.paths.get(watch.peer.path)
        if present is None or present.failed_at is None or now - present.failed_at >= SPARES_WAITED_FOR_S:
            return False
        spares = (known for path, known in watch.paths.items() if path is not None and known is not present)
        return any(known.checking and not known.failures for known in spares)

    def _has_other_edges(self, peer: Peer) -> bool:
        return any(other is not peer and other.up for other in self._parts.sessions.edges())

    def _make_room(self, watch: Watch) -> bool:
        """Forget the path that is least worth keeping; False when all are in use or proven."""
        spare = [
            (known.failures, -known.proven_at, path)
            for path, known in watch.paths.items()
            if path is not None and path != watch.peer.path
        ]
        if not spare:
            return False
        del watch.paths[max(spare, key=lambda entry: entry[:2])[2]]
        return True
