"""The parts of one node, made in the order in which they need each other, and started and stopped together.

What the parts tell each other is tied together here and in `dht.upkeep`; applications hold a `dht.node.Node`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from dht.acquaintances import Acquaintances
from dht.checks import Checks
from dht.contact import Contact
from dht.counters import Counters
from dht.delegation import Delegation
from dht.demux import Demux
from dht.handshakes import Handshakes
from dht.host import Endpoint, Host
from dht.identity import Identity
from dht.ids import distance
from dht.linking import Linker
from dht.liveness import Liveness
from dht.messages import Find, Message
from dht.overlay import Overlay
from dht.peer import Peer
from dht.pings import Pings
from dht.reach import Reach
from dht.relay import Relay
from dht.replicas import Replicas
from dht.router import Router
from dht.sessions import Sessions
from dht.storage import Storage
from dht.tunnels import Tunnels


class Parts:
    """Everything that one node consists of."""

    def __init__(self, host: Host, identity: Identity, storage: Storage, counters: Counter[str]) -> None:
        me = identity.member.id
        own = Counters(storage, host.now())
        self.demux = Demux(host, me, counters)
        self.sessions = Sessions(host, self.demux.carry, self.demux.deliver, counters)
        self.sessions.carry_batch = self.demux.carry_batch
        self.sessions.sizes.carry_whole = self.demux.carry_whole
        self.sessions.way = self.demux.way
        self.reach = Reach(host, identity, self.sessions)
        self.handshakes = Handshakes(host, identity, own, self.sessions, self.demux.carry_first, counters)
        contact = self.reach.contact

        def link_by(router: Router) -> Linker:
            self.linker = Linker(host, me, self.sessions, self.handshakes, router, contact, counters)
            return self.linker

        self.overlay = Overlay(host, me, self.sessions, self.demux.arrived, link_by, contact, counters)
        self.router, self.exchange = self.overlay.router, self.overlay.exchange
        self.near, self.fingers = self.overlay.near, self.overlay.fingers
        self.router.arrived_batch = self.demux.arrived_batch
        self.checks = Checks(host, self.sessions, counters)
        self.relay = Relay(host, self.sessions, self.exchange, counters)
        self.tunnels = Tunnels(host, me, self.sessions, self.exchange, counters)
        self.delegation = Delegation(host, self.sessions, self.exchange, counters)
        self.replicas = Replicas(
            host,
            identity,
            self.near,
            self.exchange.ask_nearest,
            self._ask_neighbor,
            self.delegation,
            self.reach.network_time,
        )
        self.liveness = Liveness(host, self.sessions)
        self.pings = Pings(host, self.exchange, lambda: self.near.joined)
        self.acquaintances = Acquaintances(
            host,
            identity,
            storage,
            own,
            self.sessions,
            self.linker.link,
            self.near.look_through,
            self.has_member,
            contact,
            counters,
        )
        self._connect()

    def _connect(self) -> None:
        demux, near = self.demux, self.near
        demux.sessions, demux.handshakes, demux.router = self.sessions, self.handshakes, self.router
        demux.broadcast = self.overlay.broadcast.receive
        demux.exchange, demux.acquaintances = self.exchange, self.acquaintances
        demux.checks, demux.relay, demux.tunnels = self.checks, self.relay, self.tunnels
        self.linker.tunnels, self.linker.relays = self.tunnels, self.relays
        self.relay.link = self.linker.link_for_others
        self.sessions.renew = self.handshakes.renew
        self.handshakes.joined = lambda: near.joined
        self.handshakes.incumbents.ping = self.liveness.probe
        self.handshakes.observed = self.reach.observed
        self.pings.standing = near.standing
        near.changed = self.replicas.neighbors_changed

    def start(self, bootstraps: Sequence[Endpoint]) -> None:
        self.near.start(alone=not bootstraps and not self.acquaintances.any)
        self.liveness.start()
        self.acquaintances.start(bootstraps)
        self.reach.start()
        self.relay.start()
        self.tunnels.start()

    def stop(self) -> None:
        """Cancel every timer and save whom we know. Nothing is sent."""
        for part in (self.acquaintances, self.overlay, self.liveness, self.replicas, self.handshakes):
            part.stop()
        self.relay.stop()
        self.tunnels.stop()
        self.checks.stop()
        self.reach.stop()

    def relays(self, contact: Contact) -> list[Peer]:
        """Whom to ask for a tunnel to a node: its neighbours first, as they have an edge to it most likely."""
        edges = [
            peer
            for peer in self.sessions.edges()
            if peer.up and not peer.suspect and isinstance(peer.path, Endpoint) and peer.id != contact.id
        ]
        neighbors = self.near.hearsay.neighbors_of(contact.id)
        return sorted(edges, key=lambda peer: (peer.id not in neighbors, distance(peer.id, contact.id)))

    def has_member(self) -> bool:
        """Whether there is an edge to a member of the ring."""
        return any(peer.joined and peer.up for peer in self.sessions.edges())

    def find(self, message: Find, done: Callable[[Message | None], None]) -> None:
        """Route a Find; `done` gets Found or None."""
        self.overlay.find(message, done)

    def _ask_neighbor(
        self,
        node_id: int,
        message: Message,
        answers: Sequence[type[Message]],
        done: Callable[[Message | None], None],
    ) -> None:
        peer = self.sessions.peers.get(node_id)
        if peer is None or not peer.up or peer.path is None:
            done(None)
        else:
            self.exchange.ask(peer, message, answers, done)
