"""The shortcuts of one node: who deserves one, how it is reached, and why things are as they are.

    traffic -> demand -> watch the peer's paths, seek a direct one, and proxies meanwhile -> idle: let go

The first packet goes over the overlay at once; this looks twice a second for who has traffic. A ring neighbour behind
a tunnel is treated alike, without traffic: its edge is worth a direct path. Holds no path itself and moves no packet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dht.checks import Checked
from dht.contact import MAX_ENDPOINTS
from dht.host import Endpoint, Host, Timer
from dht.node import Node
from dht.path import Path, Tunnel, endpoint_of, kind_of
from dht.peer import Peer
from dht.relay import MAX_CIRCUITS
from shortcuts.assistance import Assistance
from shortcuts.candidates import Candidate, gather
from shortcuts.contacted import Contacted
from shortcuts.demand import MAX_SHORTCUTS, Demand
from shortcuts.keepalive import Keepalive
from shortcuts.monitor import Monitor, Watch
from shortcuts.nat import Nat, NatObserver
from shortcuts.neighborhood import Neighborhood
from shortcuts.probing import Probing
from shortcuts.proxies import Proxies
from shortcuts.punching import Expectation, expectation, predicted_ports
from shortcuts.scope import is_ipv6
from shortcuts.selection import Reason
from shortcuts.upgrade import Search, State, Upgrade
from shortcuts.views import Explanation, NetReport, PathView, RelayView
from shortcuts.vivaldi import Vivaldi
from shortcuts.whereabouts import Whereabouts

TICK_S: Final = 0.5
PROXY_AFTER_S: Final = 0.7  # without a direct path; most that can be found are found by then
NEAREST_SHOWN: Final = 5
MAX_PREDICTED: Final = 4


@dataclass(frozen=True, slots=True)
class ShortcutConfig:
    """What may differ between nodes: how many shortcuts at most; whether this node relays for others, how many bytes a
    second then (0: as many as come) and over how many circuits; whether its router may be asked to forward a port;
    whether it looks for members on its own link by multicast. The last two are for whoever has the sockets for it."""

    max_shortcuts: int = MAX_SHORTCUTS
    willing: bool = True
    proxy_bytes_per_s: float = 0.0
    max_circuits: int = MAX_CIRCUITS
    portmap: bool = True
    lan: bool = True


class Seeker(Protocol):
    """Finds proxies for peers without a direct path."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def seek(self, peer: Peer) -> None: ...
    def drop(self, peer_id: int) -> None: ...


class Shortcuts:
    """Attached to a node once, before it starts."""

    def __init__(self, host: Host, node: Node, config: ShortcutConfig = ShortcutConfig()) -> None:
        self._host, self._node, self._parts = host, node, node.parts
        self._demand = Demand(config.max_shortcuts)
        self.monitor = Monitor(host, self._parts, node.counters)
        self.upgrade = Upgrade(
            host, self._parts.exchange, self.monitor, self._candidates, lambda: self._nats, node.counters
        )
        self.whereabouts = Whereabouts(host, self._parts, Vivaldi(host.rng), Keepalive())
        self._neighborhood = Neighborhood(host, self._parts, self.whereabouts, node.counters)
        self.proxies = Proxies(host, self._parts, node.id, self.monitor, self.whereabouts, node.counters)
        self.seeker: Seeker | None = self.proxies
        self._observers = (NatObserver(ipv6=False), NatObserver(ipv6=True))
        self._nats: tuple[Nat, Nat] = (Nat(), Nat())
        self._probing = Probing(host, self._parts, self._observers, Contacted(), node.counters)
        self._assistance = Assistance(host, self._parts, node.counters)
        self._mapped: Endpoint | None = None
        self._mapping_note = "not asked for"
        self._held: set[int] = set()
        self._wanted_since: dict[int, float] = {}
        self._packets: dict[int, int] = {}
        self._timer: Timer | None = None
        self._parts.relay.willing = config.willing
        self._parts.relay.rate_bytes_per_s = config.proxy_bytes_per_s
        self._parts.relay.max_circuits = config.max_circuits
        self._connect()

    def _connect(self) -> None:
        parts, monitor = self._parts, self.monitor
        upkeep = self._node.upkeep
        monitor.observed = self._checked
        monitor.lost = upkeep.path_lost
        self.upgrade.wanted = self._asked_for
        parts.reach.witness = self._witness
        upkeep.distrusted = monitor.distrust
        upkeep.keeps = self._keeps
        upkeep.moved = self._moved
        self.whereabouts.interval_changed = self._keep_edges_alive_every
        tunnel_lost, tunnel_offered = parts.tunnels.lost, parts.tunnels.offered

        def lost(tunnel: Tunnel, far_id: int) -> None:
            peer = parts.sessions.peers.get(far_id)
            if peer is not None:
                monitor.forget(peer, tunnel)
            tunnel_lost(tunnel, far_id)

        def offered(tunnel: Tunnel, far_id: int) -> None:
            peer = parts.sessions.peers.get(far_id)
            if peer is not None and monitor.watched(far_id) is not None:
                monitor.check(peer, tunnel)
            tunnel_offered(tunnel, far_id)

        parts.tunnels.lost, parts.tunnels.offered = lost, offered

    def start(self) -> None:
        self.monitor.start()
        if self.seeker is not None:
            self.seeker.start()
        self._look_at_own_endpoints()
        self._probing.start()
        self._timer = self._host.call_later(TICK_S * self._host.rng.random(), self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.monitor.stop()
        self.upgrade.stop()
        self._probing.stop()
        self._assistance.stop()
        if self.seeker is not None:
            self.seeker.stop()

    def use_mapped(self, endpoint: Endpoint | None, note: str) -> None:
        """The router forwards this port to us, or none does; `note` says by which method, or why not."""
        self._mapping_note = note
        if endpoint != self._mapped:
            self._mapped = endpoint
            self._parts.reach.use_mapped(endpoint)
            self.upgrade.hurry()

    # What happens

    def _tick(self) -> None:
        self._timer = self._host.call_later(TICK_S, self._tick)
        now = self._host.now()
        for peer in self._parts.sessions.peers.values():
            packets = peer.packets - self._packets.get(peer.id, 0)
            if packets and peer.up:
                self._demand.note(now, peer.id, max(1, packets))
            self._packets[peer.id] = peer.packets
        if len(self._packets) > 2 * len(self._parts.sessions.peers) + 16:
            self._packets = {peer.id: peer.packets for peer in self._parts.sessions.peers.values()}
        self._nats = (self._observers[0].verdict(now).nat, self._observers[1].verdict(now).nat)
        decisions = self._demand.decide(now)
        held = {decision.peer_id for decision in (*decisions.connect, *decisions.keep)}
        held |= self._needed_by_the_ring()
        for peer_id in self._held - held:
            self._let_go(peer_id)
        self._held = held
        for peer_id in held:
            wanted = self._parts.sessions.peers.get(peer_id)
            if wanted is not None and wanted.up:
                self._further(wanted, now)

    def _further(self, peer: Peer, now: float) -> None:
        self.monitor.watch(peer)
        self.upgrade.consider(peer)
        since = self._wanted_since.setdefault(peer.id, now)
        if peer.endpoint is not None:
            self._wanted_since[peer.id] = now
        elif now - since >= PROXY_AFTER_S and self.seeker is not None:
            self.seeker.seek(peer)

    def _needed_by_the_ring(self) -> set[int]:
        """Neighbours behind a tunnel."""
        lists = self._parts.near.lists
        return {peer.id for peer in self._parts.sessions.edges() if isinstance(peer.path, Tunnel) and peer.id in lists}

    def _let_go(self, peer_id: int) -> None:
        self.monitor.unwatch(peer_id)
        self.upgrade.drop(peer_id)
        self._wanted_since.pop(peer_id, None)
        if self.seeker is not None:
            self.seeker.drop(peer_id)

    def _asked_for(self, peer: Peer) -> None:
        """The peer wants a direct path to us, so it is wanted here too."""
        self._demand.note(self._host.now(), peer.id, 1)
        self.monitor.watch(peer)

    def _keeps(self, peer: Peer) -> bool:
        """Whether this node wants its edge to `peer` for the traffic's sake."""
        return peer.id in self._held

    def _checked(self, peer: Peer, path: Path | None, checked: Checked) -> None:
        if checked.observed is not None and isinstance(path, Endpoint):
            self._parts.reach.observed(checked.observed, path)
            self.upgrade.observed(peer, checked)

    def _witness(self, observed: Endpoint, reporter: Endpoint) -> None:
        self._observers[is_ipv6(observed.address)].reported(self._host.now(), reporter, observed)

    def _keep_edges_alive_every(self, interval_s: float) -> None:
        self._node.upkeep.edge_interval_s = interval_s

    def _moved(self) -> None:
        """This machine's addresses changed."""
        self.whereabouts.moved()
        self._look_at_own_endpoints()
        self._probing.moved()
        self.upgrade.hurry()

    def _look_at_own_endpoints(self) -> None:
        for observer in self._observers:
            observer.local(self._host.local_endpoints())

    def _candidates(self, learned: Sequence[Endpoint]) -> tuple[Candidate, ...]:
        return gather(
            self._host.local_endpoints(),
            (self._parts.reach.seen() + self._dependent())[:MAX_ENDPOINTS],
            () if self._mapped is None else (self._mapped,),
            learned,
            self._predicted(),
        )

    def _dependent(self) -> list[Endpoint]:
        """Where we were seen last by one peer, while every peer sees another port: good for those who only need to know
        our address to let us in."""
        now = self._host.now()
        found = []
        for observer in self._observers:
            verdict, ports = observer.verdict(now), observer.mapped_ports(now)
            if verdict.outside is None and ports:
                found += [Endpoint(address, ports[-1]) for address in verdict.addresses[:2]]
        return found

    def _predicted(self) -> list[Endpoint]:
        now = self._host.now()
        found = []
        for observer in self._observers:
            verdict = observer.verdict(now)
            if verdict.outside is None and len(verdict.addresses) == 1:
                ports = predicted_ports(observer.mapped_ports(now), MAX_PREDICTED)
                found += [Endpoint(verdict.addresses[0], port) for port in ports]
        return found

    # What it shows

    def explain(self, peer_id: int) -> Explanation | None:
        """Why packets to this peer take the path that they take; None for a peer without a session."""
        peer = self._parts.sessions.peers.get(peer_id)
        if peer is None or not peer.up:
            return None
        now = self._host.now()
        watch = self.monitor.watched(peer_id)
        search = self.upgrade.search(peer) if peer_id in self._held else None
        reason = self._demand.reason(peer_id)
        retry = search is not None and search.state is State.WAITING
        return Explanation(
            peer_id=peer_id,
            name=peer.member.name,
            path=self._path_view(peer, peer.path, watch),
            reason=self._reason(peer, watch, search),
            demand="a neighbour on the ring" if reason is None and peer_id in self._held else _said(reason),
            score=self._demand.score(now, peer_id),
            local_nat=self._nats,
            remote_nat=None if search is None else search.remote_nat,
            local_candidates=self._candidates(() if search is None else search.learned),
            remote_candidates=() if search is None else search.remote,
            attempts=self.upgrade.attempts(peer_id),
            paths=tuple(
                self._path_view(peer, path, watch) for path in ((peer.path,) if watch is None else watch.paths)
            ),
            next_retry_s=max(0.0, search.retry_at - now) if search is not None and retry else None,
            path_s_ago=now - peer.taken_at,
        )

    def explanations(self) -> list[Explanation]:
        """Every peer with a shortcut, or a wish for one."""
        found = (self.explain(peer_id) for peer_id in sorted(self._held))
        return [explanation for explanation in found if explanation is not None]

    def report(self) -> NetReport:
        """What this node knows of its own network."""
        now = self._host.now()
        four, six = (observer.verdict(now) for observer in self._observers)
        direct = sorted(
            (peer.rtt_s * 1000.0, peer.member.name)
            for peer in self._parts.sessions.edges()
            if peer.rtt_s is not None and peer.endpoint is not None
        )
        return NetReport(
            local=tuple(self._host.local_endpoints()),
            nat=(four.nat, six.nat),
            outside=(four.outside, six.outside),
            witnesses=(four.witnesses, six.witnesses),
            mapped=self._mapped,
            mapping_note=self._mapping_note,
            keepalive_s=self._node.upkeep.edge_interval_s,
            willing=self._parts.relay.willing,
            circuits=tuple(
                RelayView(circuit.one.id, circuit.other.id, circuit.octets) for circuit in self._parts.relay.circuits
            ),
            nearest=tuple((name, rtt_ms) for rtt_ms, name in direct[:NEAREST_SHOWN]),
        )

    def _path_view(self, peer: Peer, path: Path | None, watch: Watch | None) -> PathView:
        known = None if watch is None else watch.paths.get(path)
        via = path.via if isinstance(path, Tunnel) else None
        relay = None if via is None else self._parts.sessions.peers.get(via)
        in_use = path == peer.path
        rtt_ms = known.rtt_ms if known is not None else None
        if rtt_ms is None and in_use and peer.rtt_s is not None:
            rtt_ms = peer.rtt_s * 1000.0
        proven_at = known.proven_at if known is not None else peer.path_heard_at if in_use else None
        return PathView(
            kind=kind_of(path).name.lower(),
            endpoint=endpoint_of(path),
            via=via,
            via_name=None if relay is None else relay.member.name,
            in_use=in_use,
            rtt_ms=rtt_ms,
            proven_s_ago=None if proven_at is None else self._host.now() - proven_at,
            failures=0 if known is None else known.failures,
        )

    def _reason(self, peer: Peer, watch: Watch | None, search: Search | None) -> str:
        """In a few words: why this path, and if it isn't direct, why not."""
        if peer.endpoint is not None:
            why = "" if watch is None or watch.reason is Reason.NO_REASON_TO_CHANGE else f": {watch.reason.value}"
            return f"a direct path works{why}"
        if search is None:
            return "nobody has asked for a shortcut: too little traffic, or others are busier"
        match search.state:
            case State.IDLE | State.OFFERING:
                return "a direct path is being sought: the peer was asked where it is"
            case State.CHECKING:
                return "a direct path is being sought: its candidates are being checked"
            case _:
                last = search.attempts[-1].outcome if search.attempts else "it was not tried yet"
                return f"no direct path: {last}{self._expected(search)}"

    def _expected(self, search: Search) -> str:
        if search.remote_nat is None:
            return ""
        found = [expectation(mine, theirs) for mine, theirs in zip(self._nats, search.remote_nat, strict=True)]
        if Expectation.YES not in found and Expectation.BY_GUESSING_PORTS in found:
            return "; the NATs of the two ends let each other in only by luck"
        if Expectation.YES not in found and Expectation.MAYBE not in found:
            return "; the NATs of the two ends can't let each other in"
        return ""


def _said(reason: object) -> str:
    return str(getattr(reason, "value", "no traffic lately"))
