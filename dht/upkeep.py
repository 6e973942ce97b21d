"""Peers come up, move, fall silent, leave; this machine sleeps or moves; the ring asks: what a node then does.

    edge: up -> lost (dead: neighbours are told, it is dialled again later) | lapsed (neither end needs it) | left
    a peer in use keeps its session when its edge dies, and is reached over the overlay

Holds no state of the ring itself; that is in `dht.near`, `dht.fingers` and `dht.sessions`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from dht.checks import Checked
from dht.edge import Edge
from dht.errors import BadDatagram
from dht.exchange import Incoming, Way
from dht.host import Endpoint, Host, Timer
from dht.identity import Identity
from dht.ids import short
from dht.liveness import ADJACENT_S, EDGE_S
from dht.messages import (
    ConnectToMe,
    DuplicateIdentity,
    Fetch,
    Fetched,
    Lapse,
    NoSession,
    Store,
    Stored,
    Unreachable,
)
from dht.near import Place
from dht.parts import Parts
from dht.path import Path, Tunnel, endpoint_of, kind_of
from dht.peer import Peer
from dht.pings import Pinged

log = logging.getLogger(__name__)

ALARM_EVERY_S = 30.0
ALARM_LASTS_S = 600.0  # it may be over, or have been a lie
EXPIRY_CHECK_S = 3600.0
EXPIRY_SOON_S = 30 * 86400.0
DOUBT_AFTER_S = 1.0  # a path that the peer does not use is doubted when nothing came by it for so long
LATELY_S = 5.0  # a path by which something came this recently is worth using
IN_USE_S = 30.0  # a peer with traffic this recent keeps its session when its edge dies


class Upkeep:
    """Ties the parts' events to what must follow. `alarm` is what a person should know at once, if anything."""

    def __init__(self, host: Host, identity: Identity, parts: Parts, counters: Counter[str]) -> None:
        self._host, self._identity, self._parts, self._counters = host, identity, parts, counters
        self._alarm: str | None = None
        self._alarmed_at = self._logged_at = float("-inf")
        self._expiry_timer: Timer | None = None
        self._proving: set[tuple[int, Path]] = set()
        # For the layers above: how long an edge may stay silent, which peers' edges they want, which paths failed,
        # and that our own addresses changed.
        self.edge_interval_s = EDGE_S
        self.keeps: Callable[[Peer], bool] = lambda peer: False
        self.distrusted: Callable[[Peer, Path], None] = lambda peer, path: None
        self.moved: Callable[[], None] = lambda: None
        # For the groups: how long a peer with an edge of theirs may stay silent (None: it has none); who is adjacent in
        # one of them; who is suspect; who is gone; that there is a place on the main ring.
        self.group_adjacent: Callable[[], tuple[int, ...]] = lambda: ()
        self.group_suspected: Callable[[Peer], None] = lambda peer: None
        self.group_silent_s: Callable[[Peer], float | None] = lambda peer: None
        self.gone: Callable[[Peer, bool], None] = lambda peer, dead: None
        self.joined: Callable[[], None] = lambda: None
        parts.sessions.came_up = self._came_up
        parts.sessions.roamed = self._roamed
        parts.sessions.unproven = self._unproven
        parts.sessions.removed = self._removed
        parts.sessions.doubtful = self._doubtful
        parts.tunnels.lost = self._tunnel_lost
        parts.sessions.restarted = self._restarted
        parts.handshakes.restarted = self._restarted
        parts.handshakes.duplicate = self._duplicate
        parts.handshakes.tell_duplicate = self._tell_duplicate
        parts.overlay.became = self._became
        parts.overlay.doubted = self._doubted
        parts.liveness.ping = self._ping
        parts.liveness.interval_s = self._interval_s
        parts.liveness.overlay_interval_s = lambda peer: self.group_silent_s(peer)
        parts.liveness.adjacent = lambda: parts.near.lists.adjacent() + self.group_adjacent()
        parts.liveness.edge_interval_s = lambda: self.edge_interval_s
        parts.liveness.suspected = self._suspected
        parts.router.entrusted = self._entrusted
        parts.liveness.lost = self._edge_lost
        parts.liveness.slept = self._slept
        handle = parts.exchange.handle
        handle(ConnectToMe, Way.ROUTED, self._on_connect_to_me)
        handle(Lapse, Way.SESSION, self._on_lapse)
        handle(Unreachable, Way.ROUTED, self._on_unreachable)
        handle(NoSession, Way.ROUTED, self._on_no_session)
        handle(DuplicateIdentity, Way.SESSION, self._on_duplicate)
        handle(Store, Way.SESSION | Way.ROUTED, self._on_store)
        handle(Fetch, Way.ROUTED, self._on_fetch)

    def start(self) -> None:
        self._check_expiry()

    def stop(self) -> None:
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()

    @property
    def alarm(self) -> str | None:
        """What a person should know at once, if anything; the gravest first."""
        now = self._host.now()
        if now > self._identity.member.not_after:
            return self._expired()
        if self._alarm is not None and now - self._alarmed_at < ALARM_LASTS_S:
            return self._alarm
        return self._parts.acquaintances.unanswered() if not self._parts.has_member() else None

    def _expired(self) -> str:
        name = self._identity.member.name
        return f"the certificate of '{name}' has expired: issue it again with 'p2pvpn issue {name} ...' and restart"

    def _check_expiry(self) -> None:
        left_s = self._identity.member.not_after - self._host.now()
        if left_s <= 0:
            log.error("%s", self._expired())
        elif left_s < EXPIRY_SOON_S:
            name = self._identity.member.name
            log.warning("the certificate of '%s' ends in %.1f days: issue it again", name, left_s / 86400)
        wait_s = EXPIRY_CHECK_S if left_s <= 0 else min(left_s + 1.0, 24 * EXPIRY_CHECK_S)
        self._expiry_timer = self._host.call_later(wait_s, self._check_expiry)

    def _came_up(self, peer: Peer, path: Path | None) -> None:
        self._parts.handshakes.settle(peer)
        if path is not None:
            log.debug("edge to %s (%s) by %s", peer.member.name, short(peer.id), path)
            self._parts.acquaintances.edge_up(peer)
            self._parts.near.edge_up(peer)

    def _roamed(self, peer: Peer) -> None:
        self._counters["peer_roamed"] += 1
        log.info("%s moved to %s", peer.member.name, peer.path)

    def _unproven(self, peer: Peer, path: Path) -> None:
        """A peer writes to us by a path better than ours to it: use that one if it works both ways."""
        if (peer.id, path) in self._proving:
            return
        self._proving.add((peer.id, path))

        def checked(answer: Checked | None) -> None:
            self._proving.discard((peer.id, path))
            if answer is not None and peer.up and kind_of(path) < kind_of(peer.path):
                self._parts.sessions.use(peer, path)

        if not self._parts.checks.check(peer, path, checked):
            self._proving.discard((peer.id, path))

    def _doubtful(self, peer: Peer, path: Path | None) -> None:
        """A peer writes to us by a path worse than ours to it: perhaps ours leads nowhere. If nothing came by it
        either, do as the peer does until it proves itself again."""
        doubted = peer.path
        if doubted is None or self._host.now() - peer.path_heard_at < DOUBT_AFTER_S:
            return
        self._counters["path_doubted"] += 1
        self.distrusted(peer, doubted)
        if path is not None:
            self._parts.sessions.use(peer, path)
            self._unproven(peer, doubted)
        elif peer.probes == 0:
            self._parts.liveness.probe(peer)

    def _restarted(self, peer: Peer) -> None:
        """A peer's process began anew: it knows none of its tunnels any more."""
        self._parts.near.restarted(peer)
        self._without_path(peer)
        self.gone(peer, False)

    def _removed(self, peer: Peer) -> None:
        self._without_path(peer)
        self.gone(peer, False)

    def _without_path(self, peer: Peer) -> None:
        self._parts.relay.gone(peer)
        self._parts.tunnels.gone(peer)

    def _tunnel_lost(self, tunnel: Tunnel, far_id: int) -> None:
        """A tunnel is gone with its relay: find another way to who was at its far end."""
        peer = self._parts.sessions.peers.get(far_id)
        if peer is None:
            return
        peer.paths.pop(tunnel, None)
        if peer.path == tunnel:
            self.path_lost(peer)

    def path_lost(self, peer: Peer) -> None:
        """The path in use to `peer` is gone, and it need not be dead: the overlay takes over, and another path is
        sought at once where the ring needs one."""
        if self._parts.sessions.peers.get(peer.id) is not peer:
            return
        needed = peer.id in self._parts.near.lists
        contact = peer.contact()
        peer.path, peer.taken_at = None, self._host.now()
        peer.probes, peer.unanswered_at, peer.suspect = 0, None, False
        self._counters["path_lost"] += 1
        self._without_path(peer)
        self._parts.overlay.edge_down(peer, dead=False)
        if needed:
            self._parts.linker.link(contact, at_once=True)

    def _edge_lost(self, peer: Peer, dead: bool) -> None:
        """A peer no longer answers (`dead`), or its edge lapsed because neither end needs it."""
        if dead:
            others = peer.others(self._host.now() - LATELY_S)
            if others:
                # It is there, but not by this path.
                self._counters["path_switched"] += 1
                if peer.path is not None:
                    self.distrusted(peer, peer.path)
                log.info("%s is no longer reached by %s", peer.member.name, peer.path)
                self._parts.sessions.use(peer, others[0])
                return
            if isinstance(peer.path, Tunnel):
                self.path_lost(peer)  # as likely its relay's fault
                return
        if not dead:
            self._parts.exchange.tell(peer, Lapse())
        path, peer.path, peer.taken_at = peer.path, None, self._host.now()
        peer.probes, peer.unanswered_at, peer.suspect = 0, None, False
        in_use = self._host.now() - peer.demand_at <= IN_USE_S or self.group_silent_s(peer) is not None
        if path is None or not in_use:
            self.gone(peer, dead)
            if dead:
                self._parts.sessions.remove(peer)
            else:
                self._parts.sessions.let_go(peer)
        else:
            self._without_path(peer)
            if dead:
                self._parts.liveness.probe(peer)  # it may answer over the overlay
        if path is not None:
            log.debug("edge to %s (%s) %s", peer.member.name, short(peer.id), "lost" if dead else "lapsed")
            self._counters["edge_lost" if dead else "edge_lapsed"] += 1
            if dead:
                self._parts.acquaintances.edge_lost(peer, endpoint_of(path))
            needed = dead and peer.id in self._parts.near.lists
            contact = peer.contact()
            self._parts.overlay.edge_down(peer, dead=dead)
            if needed:
                # Perhaps only the path is dead: neighbours may still have one to it.
                self._parts.linker.link(contact, at_once=True)
            if not self._parts.has_member():
                self._parts.acquaintances.hurry()

    def _slept(self, gap_s: float) -> None:
        """This machine was asleep: every peer has given us up, so begin anew with all of them."""
        log.warning("asleep for %.0f s: joining again", gap_s)
        self._counters["slept"] += 1
        for peer in list(self._parts.sessions.peers.values()):
            if peer.path is not None:
                self._parts.acquaintances.edge_lost(peer, peer.endpoint)
            self._parts.sessions.remove(peer)
        self._parts.fingers.stop()
        self._parts.near.reset()
        self._parts.acquaintances.call_all()

    def addresses_changed(self) -> None:
        """Our own addresses changed: peers learn it from the next packet, so send one to each at once."""
        self._counters["addresses_changed"] += 1
        for peer in list(self._parts.sessions.peers.values()):
            if peer.up:
                self._parts.liveness.probe(peer)
        self._parts.near.announce()
        self._parts.acquaintances.hurry()
        self._parts.reach.moved()
        self.moved()

    def _became(self, place: Place) -> None:
        name = self._identity.member.name
        match place:
            case Place.MEMBER if self._parts.near.lists.alone and self._parts.acquaintances.any:
                log.info("%s is alone: nobody it knows of has answered yet", name)
            case Place.MEMBER:
                size = self._parts.near.lists.size_estimate()
                log.info("%s has joined the ring, of about %d node%s", name, size, "" if size == 1 else "s")
            case _:
                log.debug("%s is %s the ring", name, place.name.lower())
        if place is Place.MEMBER:
            self._parts.replicas.republish()
            self.joined()

    def _interval_s(self, peer: Peer) -> float | None:
        lists = self._parts.near.lists
        if peer.id in lists.adjacent():
            return ADJACENT_S
        for_groups_s = self.group_silent_s(peer)
        if for_groups_s is not None:
            return for_groups_s
        if self._parts.overlay.wants(peer.id):
            return self.edge_interval_s
        if self._parts.tunnels.through(peer.id) or self._parts.relay.carries(peer.id) or self.keeps(peer):
            return self.edge_interval_s
        return None

    def _entrusted(self, edge: Edge) -> None:
        peer = self._parts.sessions.peers.get(edge.id)
        if peer is not None:
            self._parts.liveness.entrust(peer)

    def _suspected(self, peer: Peer) -> None:
        self._parts.router.go_around(peer)
        self.group_suspected(peer)

    def _ping(self, peer: Peer) -> None:
        def answered(pinged: Pinged | None) -> None:
            if pinged is None:
                return
            self._parts.liveness.answered()
            if pinged.observed is not None and peer.endpoint is not None:
                self._parts.reach.observed(pinged.observed, peer.endpoint)

        self._parts.pings.ping(peer, answered, vital=True)

    # Messages

    def _on_connect_to_me(self, incoming: Incoming, message: ConnectToMe) -> None:
        if message.sender.id != incoming.source:
            raise BadDatagram("somebody asks us to dial another node than itself")
        self._parts.linker.asked_to_dial(message.sender)

    def _on_lapse(self, incoming: Incoming, message: Lapse) -> None:
        self._parts.overlay.left(incoming.source)

    def _doubted(self, node_id: int) -> None:
        """A member found a node dead: look for ourselves."""
        peer = self._parts.sessions.peers.get(node_id)
        if peer is not None and peer.up and peer.probes == 0 and self._host.now() - peer.heard_at > 1.0:
            self._parts.liveness.probe(peer)

    def _on_unreachable(self, incoming: Incoming, message: Unreachable) -> None:
        self._counters["told_unreachable"] += 1
        index = int.from_bytes(message.head[4:], "big")
        self._parts.handshakes.unreachable(message.id, index)
        peer = self._parts.sessions.peers.get(message.id)
        if peer is None or peer.path is not None or not peer.up or peer.probes:
            return
        if index in {pair.remote_index for pair in peer.session.keypairs()}:
            self._parts.liveness.probe(peer)

    def _on_no_session(self, incoming: Incoming, message: NoSession) -> None:
        peer = self._parts.sessions.peers.get(incoming.source)
        if peer is None or message.index not in {pair.remote_index for pair in peer.session.keypairs()}:
            self._counters["no_session_unfounded"] += 1
            return
        if not self._parts.handshakes.pending(peer.id):
            self._parts.handshakes.begin(peer.contact(), (peer.path,))

    def _on_store(self, incoming: Incoming, message: Store) -> Stored:
        return self._parts.replicas.asked_to_store(message)

    def _on_fetch(self, incoming: Incoming, message: Fetch) -> Fetched:
        return self._parts.replicas.asked_to_fetch(message, incoming.hops)

    # The same identity twice

    def _duplicate(self, endpoint: Endpoint | None) -> None:
        """Our identity runs somewhere else too."""
        where = f"at {endpoint}" if endpoint is not None else "elsewhere"
        self._counters["duplicate_identity"] += 1
        self._alarm = f"this identity ('{self._identity.member.name}') also runs {where}: stop one of the two"
        now = self._alarmed_at = self._host.now()
        if now - self._logged_at >= ALARM_EVERY_S:
            self._logged_at = now
            log.error("%s", self._alarm)

    def _tell_duplicate(self, peer: Peer, endpoint: Endpoint | None) -> None:
        self._parts.exchange.tell(peer, DuplicateIdentity(endpoint))

    def _on_duplicate(self, incoming: Incoming, message: DuplicateIdentity) -> None:
        self._duplicate(message.endpoint)
