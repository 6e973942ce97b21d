"""Finds proxy tunnels to peers that can't be reached directly, through the nearest nodes that both ends can reach.

    sought -> the peer is asked who is near it -> a common neighbour relays, at once
                                               -> else, and to do better: link to its nearest neighbours, or let ours
                                                  link to it -> up to KEPT tunnels, each measured
    a tunnel is lost -> others are asked     every REVIEW_S: are clearly better relays known?     not sought: forgotten

The peer does the same, and either end takes what the other was granted. A relay that refused is left alone for a while.
This component never chooses the path in use: it hands tunnels to the monitor, which measures, prefers and fails over.
A tunnel that neither end checks any more is closed by its relay for being idle.
Source: IPOP's proxy selection (Ganguly et al., HPDC 2006 and 2008); who may relay: `shortcuts.proxy_choice`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from dht.budget import Budget
from dht.contact import Contact
from dht.coordinate import Coordinate
from dht.host import Endpoint, Host, Timer
from dht.messages import Message
from dht.parts import Parts
from dht.path import Path, Tunnel
from dht.peer import Peer
from dht.relay import Refusal
from shortcuts.messages import Nearby, NearbyRequest, Neighbor
from shortcuts.proxy_choice import Option, by_worth, leg_ms, pick, predicted_ms, worth_replacing
from shortcuts.views import ProxyView
from shortcuts.whereabouts import Whereabouts

KEPT = 4
ENOUGH = 2  # with fewer that work, others are sought at once
MAX_WISHES = 256
ASK_TIMEOUTS_S = (1.5, 3.0)
ASK_AT_ONCE = 3  # relays, for one peer
MAX_TRIES = 16  # relays asked for one peer between two reviews
REVIEW_S = 300.0
RETRY_S = (2.0, 60.0)  # doubled from the first to the second while there is no tunnel at all
REFRESH_S = 50.0  # each tunnel kept is checked so often, well within a relay's patience
SETTLE_S = 4.0  # a tunnel just granted counts as working for so long, until the monitor knows
RECHECK_S = 1.0
SWEEP_S = 5.0
MAX_BEYOND = 2  # tunnels more than are kept, while better ones are looked for
UNSOUGHT_S = 60.0  # a direct path has worked for so long: tunnels but the best are no longer kept
LETTING_GO_S = 120.0  # they are forgotten again and again for so long: the far end may still check them
SPARE = 1
REFUSED_S = 60.0  # a relay that is busy is left alone for so long, for this peer or any other
UNWILLING_S = 900.0
FAILED_S = 30.0  # it found no way to the far end: for this peer
MAX_REFUSALS = 1024
LINKS_PER_S, LINK_BURST = 1.0, 12.0


NO_LINK = "too many links at once"


class Paths(Protocol):
    """What proxies need of the monitor."""

    def check(self, peer: Peer, path: Path | None) -> None:
        """Check a path to a peer; if it is answered, the path is known from then on, and may be used."""

    def working(self, peer: Peer) -> list[Path]:
        """The paths to a peer that were proven and have not failed since."""

    def forget(self, peer: Peer, path: Path) -> None:
        """Check a path no longer."""

    def rtt_ms(self, peer: Peer, path: Path | None) -> float | None:
        """The round trip on a path as measured; None before that."""


@dataclass(slots=True, eq=False)
class _Wish:
    """A peer to which proxies are wanted, and what has been tried. `next_at`: when there is something to do again."""

    peer_id: int
    sought_at: float
    next_at: float
    wait_s: float = RETRY_S[0]
    contact: Contact | None = None
    coordinate: Coordinate | None = None
    named: dict[int, Neighbor] = field(default_factory=dict)
    tried: dict[int, str] = field(default_factory=dict)  # relay -> what became of it, since the last review
    failed: dict[int, float] = field(default_factory=dict)  # relay -> until when it is left alone
    granted: dict[Tunnel, float] = field(default_factory=dict)
    refreshed_at: float = -inf
    is_asking_peer: bool = False
    asking: int = 0


class Proxies:
    """The proxy tunnels of one node, `kept` at most for a peer."""

    def __init__(
        self,
        host: Host,
        parts: Parts,
        me: int,
        paths: Paths,
        whereabouts: Whereabouts,
        counters: Counter[str],
        kept: int = KEPT,
    ) -> None:
        self._host, self._parts, self._me = host, parts, me
        self._paths, self._whereabouts, self._counters, self._kept = paths, whereabouts, counters, kept
        self._wishes: dict[int, _Wish] = {}
        self._refusals: dict[int, tuple[float, Refusal]] = {}  # by relay: until when, and why
        self._links = Budget(LINKS_PER_S, LINK_BURST, host.now())
        self._timer: Timer | None = None
        self._stopped = False
        parts.tunnels.offered = self._offered
        parts.tunnels.refused = self._refused

    def start(self) -> None:
        self._timer = self._host.call_later(SWEEP_S * self._host.rng.random(), self._sweep)

    def stop(self) -> None:
        self._stopped = True
        self._wishes.clear()
        if self._timer is not None:
            self._timer.cancel()

    def seek(self, peer: Peer) -> None:
        """There is no direct path to a peer with a session: find proxies, and keep them. To be called every second or
        so for as long as that is true; costs nothing when there is nothing to do."""
        now = self._host.now()
        if self._stopped or isinstance(peer.path, Endpoint):
            return
        wish = self._wishes.get(peer.id)
        if wish is None:
            if len(self._wishes) >= MAX_WISHES:
                self._counters["proxies_over_budget"] += 1
                return
            wish = self._wishes[peer.id] = _Wish(peer.id, now, now)
            for tunnel in self._parts.tunnels.to(peer.id):
                self._paths.check(peer, tunnel)
        wish.sought_at = now
        self._check_unknown(peer, wish, now)
        if wish.is_asking_peer:
            return
        if now >= wish.next_at:
            self._review(peer, wish)
        elif not wish.asking and wish.tried and len(self._working(peer, wish)) < ENOUGH:
            self._replenish(peer, wish)

    def drop(self, peer_id: int) -> None:
        """No proxies are wanted any more."""
        self._wishes.pop(peer_id, None)

    def view(self, peer_id: int) -> list[ProxyView]:
        """The relays considered for a peer, the nearest first."""
        peer, wish = self._parts.sessions.peers.get(peer_id), self._wishes.get(peer_id)
        tunnels = {tunnel.via: tunnel for tunnel in self._parts.tunnels.to(peer_id)}
        options = [] if peer is None or wish is None else self._options(peer, wish)
        known = {option.relay for option in options}
        options += [Option(via, None, True, True) for via in tunnels if via not in known]
        return [
            ProxyView(
                option.relay,
                self._name(option.relay),
                option.predicted_ms,
                None
                if peer is None or option.relay not in tunnels
                else self._paths.rtt_ms(peer, tunnels[option.relay]),
                "in hand" if option.relay in tunnels else self._note(wish, option.relay),
            )
            for option in by_worth(options)
        ]

    # The search

    def _review(self, peer: Peer, wish: _Wish) -> None:
        """Ask the peer who is near it, then look for tunnels better than those in hand."""
        now = self._host.now()
        wish.next_at = now + REVIEW_S * self._host.rng.uniform(0.8, 1.2)
        wish.is_asking_peer = True
        wish.tried.clear()
        wish.failed = {relay: until for relay, until in wish.failed.items() if until > now}

        def answered(answer: Message | None) -> None:
            wish.is_asking_peer = False
            if self._wishes.get(peer.id) is not wish or self._parts.sessions.peers.get(peer.id) is not peer:
                return
            if isinstance(answer, Nearby):
                self._learn(peer, wish, answer)
            self._replenish(peer, wish)

        self._parts.exchange.ask(peer, NearbyRequest(), (Nearby,), answered, ASK_TIMEOUTS_S)
        if not self._working(peer, wish):
            self._ask_common(peer, wish)

    def _learn(self, peer: Peer, wish: _Wish, nearby: Nearby) -> None:
        if (nearby.sender.id, nearby.sender.static) == (peer.id, peer.static):
            wish.contact = nearby.sender
        wish.coordinate = nearby.coordinate
        strangers = (each for each in nearby.neighbors if each.contact.id not in (self._me, peer.id))
        wish.named = {each.contact.id: each for each in strangers}

    def _ask_common(self, peer: Peer, wish: _Wish) -> None:
        """Before the peer has answered: relays that the ring knows as its neighbours will have an edge to it."""
        neighbors = self._parts.near.hearsay.neighbors_of(peer.id)
        for option in self._options_left(peer, wish):
            if option.ours and option.relay in neighbors and wish.asking < ASK_AT_ONCE:
                self._ask(peer, wish, option)

    def _replenish(self, peer: Peer, wish: _Wish) -> None:
        """Ask relays for tunnels until enough are in hand, or nobody is left to ask."""
        if self._stopped or isinstance(peer.path, Endpoint) or not peer.up:
            return
        working = self._working(peer, wish)
        while wish.asking < ASK_AT_ONCE and len(wish.tried) < MAX_TRIES:
            options = self._options_left(peer, wish)
            if len(working) + wish.asking >= self._kept:
                if wish.asking or len(working) >= self._kept + MAX_BEYOND:
                    break
                worst_ms = self._paths.rtt_ms(peer, working[self._kept - 1]) or 0.0
                options = [option for option in options if worth_replacing(option, worst_ms)]
            option = pick(self._host.rng, options, at_once=not working)
            if option is None:
                break
            self._ask(peer, wish, option)
        if wish.asking == 0 and not working and not self._working(peer, wish):
            now = self._host.now()
            wish.next_at = min(wish.next_at, now + wish.wait_s * self._host.rng.uniform(0.8, 1.2))
            wish.wait_s = min(2.0 * wish.wait_s, RETRY_S[1])

    def _ask(self, peer: Peer, wish: _Wish, option: Option) -> None:
        """Ask one relay for a tunnel to the peer; link to it first when it is none of our edges."""
        relay_id = option.relay
        wish.tried[relay_id] = "asked"
        wish.asking += 1
        target = self._contact_of(peer, wish)

        def linked(relay: Peer | None) -> None:
            if relay is None or not isinstance(relay.path, Endpoint) or self._wishes.get(peer.id) is not wish:
                finish("no direct path to it")
            else:
                self._parts.tunnels.ask(relay, target, granted, dial=True)

        def granted(tunnel: Tunnel | None) -> None:
            if tunnel is None:
                refused = wish.tried.get(relay_id, "asked")
                finish("no answer" if refused == "asked" else refused)
                return
            wish.granted[tunnel] = self._host.now()
            wish.wait_s = RETRY_S[0]
            self._counters["proxies_opened"] += 1
            if peer.up and not self._stopped:
                self._paths.check(peer, tunnel)
            finish("granted")

        def finish(note: str) -> None:
            wish.asking -= 1
            wish.tried[relay_id] = note
            if note not in ("granted", NO_LINK):
                wish.failed[relay_id] = self._host.now() + FAILED_S
            if self._wishes.get(peer.id) is wish:
                # In an event of its own: what is refused at once must not recurse through every relay.
                self._host.call_later(0.0, lambda: self._replenish(peer, wish))

        relay = self._direct_edge(relay_id)
        if relay is not None:
            linked(relay)
        elif self._links.take(self._host.now()):
            self._parts.linker.link(wish.named[relay_id].contact, linked, direct_only=True)
        else:
            self._counters["proxy_links_over_budget"] += 1
            finish(NO_LINK)

    # What is known

    def _options(self, peer: Peer, wish: _Wish) -> list[Option]:
        """Everybody who might relay: the peer's neighbours and our own."""
        theirs = wish.coordinate or peer.coordinate
        here = self._whereabouts.vivaldi.stable if len(self._whereabouts.vivaldi) else None
        options = {}
        for relay_id, neighbor in wish.named.items():
            ours = self._direct_edge(relay_id)
            measured_ms = None if ours is None else self._whereabouts.rtt_ms(ours)
            near_ms = leg_ms(measured_ms, here, neighbor.coordinate)
            total_ms = predicted_ms(near_ms, neighbor.rtt_ms)
            options[relay_id] = Option(relay_id, total_ms, ours is not None, ours is not None)
        for relay in self._parts.relays(self._contact_of(peer, wish)):
            if relay.id not in options:
                far_ms = leg_ms(None, relay.coordinate, theirs)
                total_ms = predicted_ms(self._whereabouts.rtt_ms(relay), far_ms)
                options[relay.id] = Option(relay.id, total_ms, False, True)
        return list(options.values())

    def _options_left(self, peer: Peer, wish: _Wish) -> list[Option]:
        """Those that are neither in hand nor tried, and have not refused of late."""
        now = self._host.now()
        in_hand = {tunnel.via for tunnel in self._working(peer, wish)}  # others may be long forgotten by their relays
        return [
            option
            for option in self._options(peer, wish)
            if option.relay not in in_hand
            and option.relay not in wish.tried
            and wish.failed.get(option.relay, 0.0) <= now
            and self._refusals.get(option.relay, (0.0, None))[0] <= now
        ]

    def _working(self, peer: Peer, wish: _Wish) -> list[Tunnel]:
        """The tunnels to a peer that the monitor knows to work, or has not had the time to, the fastest first."""
        since = self._host.now() - SETTLE_S
        known = set(self._paths.working(peer))
        tunnels = self._parts.tunnels.to(peer.id)
        wish.granted = {tunnel: at for tunnel, at in wish.granted.items() if tunnel in tunnels}
        working = [each for each in tunnels if each in known or wish.granted.get(each, -inf) >= since]
        return sorted(working, key=lambda tunnel: self._rtt_or_inf(peer, tunnel))

    def _check_unknown(self, peer: Peer, wish: _Wish, now: float) -> None:
        """A first check may be lost, as anything may: try again what was granted a moment ago."""
        fresh = [tunnel for tunnel, at in wish.granted.items() if now - SETTLE_S <= at <= now - RECHECK_S]
        if fresh:
            working = self._paths.working(peer)
            for tunnel in fresh:
                if tunnel not in working:
                    self._paths.check(peer, tunnel)

    def _rtt_or_inf(self, peer: Peer, tunnel: Tunnel) -> float:
        measured_ms = self._paths.rtt_ms(peer, tunnel)
        return inf if measured_ms is None else measured_ms

    def _contact_of(self, peer: Peer, wish: _Wish) -> Contact:
        return peer.contact() if wish.contact is None else wish.contact

    def _direct_edge(self, node_id: int) -> Peer | None:
        peer = self._parts.sessions.peers.get(node_id)
        fit = peer is not None and peer.up and not peer.suspect and isinstance(peer.path, Endpoint)
        return peer if fit else None

    def _name(self, node_id: int) -> str | None:
        peer = self._parts.sessions.peers.get(node_id)
        return None if peer is None else peer.member.name

    def _note(self, wish: _Wish | None, relay_id: int) -> str:
        until, reason = self._refusals.get(relay_id, (0.0, None))
        if reason is not None and until > self._host.now():
            return f"refused: {reason.name.lower().replace('_', ' ')}"
        return "not tried" if wish is None else wish.tried.get(relay_id, "not tried")

    # Events

    def _sweep(self) -> None:
        now = self._host.now()
        self._timer = self._host.call_later(SWEEP_S * self._host.rng.uniform(0.8, 1.2), self._sweep)
        for wish in list(self._wishes.values()):
            peer = self._parts.sessions.peers.get(wish.peer_id)
            if peer is None or now - wish.sought_at > UNSOUGHT_S + LETTING_GO_S:
                del self._wishes[wish.peer_id]
            elif now - wish.sought_at > UNSOUGHT_S:
                self._let_go(peer, wish)
            elif peer.up and now - wish.refreshed_at >= REFRESH_S:
                wish.refreshed_at = now
                for tunnel in self._working(peer, wish)[: self._kept]:
                    self._paths.check(peer, tunnel)
        self._refusals = {relay: each for relay, each in self._refusals.items() if each[0] > now}

    def _let_go(self, peer: Peer, wish: _Wish) -> None:
        """The path in use needs no tunnels beside it, but for a spare one."""
        for tunnel in self._working(peer, wish)[SPARE:]:
            if tunnel != peer.path:
                self._paths.forget(peer, tunnel)

    def _offered(self, tunnel: Tunnel, far_id: int) -> None:
        """The far end found a relay: one more for us."""
        peer, wish = self._parts.sessions.peers.get(far_id), self._wishes.get(far_id)
        if peer is not None and peer.up and wish is not None:
            wish.granted[tunnel] = self._host.now()
            self._counters["proxies_offered"] += 1
            self._paths.check(peer, tunnel)

    def _refused(self, relay: Peer, target_id: int, reason: int) -> None:
        why = Refusal(reason) if reason in Refusal._value2member_map_ else Refusal.FAR_END
        wish = self._wishes.get(target_id)
        if wish is not None and relay.id in wish.tried:
            wish.tried[relay.id] = f"refused: {why.name.lower().replace('_', ' ')}"
        if why in (Refusal.BUSY, Refusal.UNWILLING):
            if len(self._refusals) >= MAX_REFUSALS:
                del self._refusals[next(iter(self._refusals))]
            lasts_s = UNWILLING_S if why is Refusal.UNWILLING else REFUSED_S
            self._refusals[relay.id] = (self._host.now() + lasts_s, why)
