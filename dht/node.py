"""One node of the ring, as applications hold it: records, sessions, messages, packets, and what it knows.

Synchronous and single-threaded: it acts only when a datagram arrives, a timer fires or its owner calls. It never
reads a clock or touches a socket; `Host` does. `dht.aio` offers the same to asyncio programs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dht.aggregate import Aggregates
from dht.broadcast import Broadcast
from dht.certificate import Member
from dht.contact import Contact
from dht.crawl import Crawls, Sight
from dht.envelope import HEADER_BYTES, Inner
from dht.errors import BadDatagram
from dht.exchange import Incoming, Way
from dht.features import Feature
from dht.groups.table import Groups
from dht.host import Endpoint, Host
from dht.identity import Identity
from dht.ids import short
from dht.messages import FIRST_APPLICATION_CODE, Find, Kind, Leave, Message, pack_control
from dht.notices import Notices
from dht.packing import MAX_BYTES
from dht.parts import Parts
from dht.path import endpoint_of, hops_of, kind_of, relay_of
from dht.peer import Peer
from dht.pings import Pinged
from dht.records import node_name
from dht.replicas import GetResult, PutResult
from dht.session import OVERHEAD_BYTES
from dht.sizes import DEFAULT_BYTES, DEFAULT_UNDERLAY_MTU, datagram_bytes, plaintext_bytes
from dht.storage import Storage
from dht.upkeep import Upkeep
from dht.views import NodeState, PeerView, PingResult, RingView

__all__ = ["GetResult", "Node", "NodeConfig", "NodeState", "PeerView", "PingResult", "PutResult", "RingView"]

RECORD_LIFETIME_S = 7200.0
MAIN_RING = "the main ring"  # as notices name it; groups have names without blanks
# What is sealed for a peer over the ring is once more sealed for each edge, in an envelope.
_ROUTED_OVERHEAD_BYTES = 1 + HEADER_BYTES + OVERHEAD_BYTES
ROUTED_PLAINTEXT_BYTES = DEFAULT_BYTES - _ROUTED_OVERHEAD_BYTES
_PACKET = bytes((Inner.PACKET,))
_SEGMENTS_FEATURE = int(Feature.SEGMENTS)

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What may differ between nodes. `aes`: AES-GCM is done in hardware here. `underlay_mtu`: the longest IP packet, in
    bytes, that this node's links carry; what paths carry is found out, up to that. `version`: of the program, for
    whoever looks at the ring."""

    aes: bool = False
    underlay_mtu: int = DEFAULT_UNDERLAY_MTU
    record_lifetime_s: float = RECORD_LIFETIME_S
    version: str = ""


class Node:
    """A member of a network on its ring.

    Every callback runs on the thread that drives the host, some of them before the call that was given them returns.
    """

    def __init__(self, host: Host, identity: Identity, storage: Storage, config: NodeConfig = NodeConfig()) -> None:
        self._host = host
        self.identity = identity
        self.id = identity.member.id
        self.counters: Counter[str] = Counter()
        self._parts = Parts(host, identity, storage, self.counters)
        self._upkeep = Upkeep(host, identity, self._parts, self.counters)
        self._running = False
        self._parts.handshakes.has_aes = config.aes
        self._parts.handshakes.datagram_bytes = datagram_bytes(config.underlay_mtu)
        self._parts.sessions.sizes.longest_bytes = plaintext_bytes(datagram_bytes(config.underlay_mtu))
        self.groups = Groups(
            host,
            identity,
            storage,
            self._parts.replicas,
            lambda contact, done: self.open_session(contact.id, done, contact),
            lambda contact, done: self._parts.linker.link(contact, done, direct_only=True),
            self._parts.reach.contact,
            lambda: self._upkeep.edge_interval_s,
            self.counters,
        )
        overlay, self._version = self._parts.overlay, config.version
        self.notices = Notices(
            host, identity, storage, overlay.aggregates, self._parts.reach.network_time, MAIN_RING, self.counters
        )
        self.crawls = Crawls(host, self.id, overlay.aggregates, overlay.exchange, self._sight)
        self._parts.demux.group = self.groups.receive
        self._upkeep.group_silent_s = self.groups.silent_s
        self._upkeep.group_suspected = self.groups.suspected
        self._upkeep.group_adjacent = self.groups.adjacent
        self._upkeep.gone = lambda peer, dead: self.groups.gone(peer.id, dead=dead)
        self._upkeep.joined = self.groups.main_ring_joined
        self._parts.reach.publish = lambda value: self.put(node_name(self.id), value, config.record_lifetime_s)

    @property
    def broadcast(self) -> Broadcast:
        """Frames for every member of the ring."""
        return self._parts.overlay.broadcast

    @property
    def aggregates(self) -> Aggregates:
        """Questions for every member of the ring."""
        return self._parts.overlay.aggregates

    @property
    def parts(self) -> Parts:
        """What this node consists of: for the layers above that take part in its work, such as `shortcuts`."""
        return self._parts

    @property
    def upkeep(self) -> Upkeep:
        """What follows from the parts' events, with the hooks that those layers need."""
        return self._upkeep

    @property
    def alarm(self) -> str | None:
        """What a person should know at once: that this identity also runs elsewhere, for example."""
        return self._upkeep.alarm

    @property
    def state(self) -> NodeState:
        if not self._parts.near.joined:
            return NodeState.JOINING
        if self._parts.near.lists.alone and self._parts.acquaintances.any:
            return NodeState.ISOLATED
        return NodeState.READY

    @property
    def member(self) -> bool:
        """Whether this node has its place on the ring, were it a ring of one."""
        return self._parts.near.joined

    @property
    def ring_version(self) -> int:
        """Grows whenever the near lists or the membership change: cheap to watch."""
        return self._parts.near.lists.version

    def start(self, bootstraps: Sequence[Endpoint] = ()) -> None:
        """Begin to take part. Without bootstraps and without peers known from earlier runs, the node is the first
        of a new ring."""
        self._running = True
        self._host.on_receive(self._parts.demux.receive)
        self._host.on_receive_batch(self._parts.demux.receive_batch)
        self._host.on_addresses_changed(self._upkeep.addresses_changed)
        self.groups.start()
        self._parts.start(bootstraps)
        self._upkeep.start()

    def stop(self) -> None:
        """Leave: peers are told, known peers saved, every timer cancelled."""
        if not self._running:
            return
        self._running = False
        for peer in list(self._parts.sessions.peers.values()):
            if peer.up:
                self._parts.exchange.tell(peer, Leave(ring=True))
        self.groups.stop()
        self._parts.stop()
        self._upkeep.stop()
        self._host.on_receive(lambda datagram, source: None)
        self._host.on_receive_batch(lambda buffer, size, source: None)

    def use_bootstraps(self, bootstraps: Sequence[Endpoint]) -> None:
        """Replace the bootstraps: their names resolve to other addresses now."""
        self._parts.acquaintances.use_bootstraps(bootstraps)

    def meet(self, contact: Contact) -> None:
        """Somebody says that this node is a member: seek an edge to it, and through it to its ring."""
        self._parts.acquaintances.meet(contact)

    @property
    def described(self) -> bool:
        """Whether a majority of the replica points holds this node's descriptor."""
        return self._parts.replicas.stored(node_name(self.id))

    def find(self, message: Find, done: Callable[[Message | None], None]) -> None:
        """Ask the ring who is nearest to a target; `done` gets Found, or None when nobody answered."""
        self._parts.find(message, done)

    def put(
        self,
        name: str,
        value: bytes,
        lifetime_s: float = RECORD_LIFETIME_S,
        done: Callable[[PutResult], None] | None = None,
    ) -> None:
        """Publish `value` (at most 1024 bytes) under `name`, renewed until `withdraw(name)`; several owners may use
        one name. Raises ValueError for what no node would store."""
        self._parts.replicas.put(name, value, lifetime_s, done)

    def create(
        self,
        name: str,
        value: bytes,
        lifetime_s: float = RECORD_LIFETIME_S,
        done: Callable[[PutResult], None] | None = None,
    ) -> None:
        """As `put`, but exclusively: of several owners at most one gets a majority of the replica points, and the
        others' results say TAKEN."""
        self._parts.replicas.put(name, value, lifetime_s, done, exclusive=True)

    def withdraw(self, name: str) -> None:
        """Stop publishing `name`."""
        self._parts.replicas.withdraw(name)

    def get(self, name: str, done: Callable[[GetResult], None], *, first: bool = False, robust: bool = False) -> None:
        """Look `name` up: what a majority of the replica points holds, or (`first`) the first valid record found.
        `robust`: points that show no record are asked again by other routes, through peers; it finds what hostile
        members on the way withhold, and takes longer and more messages where there is nothing."""
        self._parts.replicas.get(name, done, first=first, robust=robust)

    def open_session(self, peer_id: int, done: Callable[[Peer | None], None], contact: Contact | None = None) -> None:
        """Find a node and agree on keys with it, over an edge or the overlay; None when it can't be found or does
        not answer. A known `contact` (its static key is enough) saves looking up the node's descriptor."""
        peer = self._parts.sessions.peers.get(peer_id)
        if peer_id == self.id:
            done(None)
        elif peer is not None and peer.up and peer.session.can_seal(self._host.now()):
            done(peer)
        elif peer is not None:
            self._parts.handshakes.begin(peer.contact(), (peer.path,), lambda found, reason: done(found))
        elif contact is not None and contact.id == peer_id:
            self._parts.handshakes.begin(contact, (None,), lambda found, reason: done(found))
        else:
            self.get(node_name(peer_id), lambda result: self._described(peer_id, result, done), first=True)

    def send_packet(self, peer_id: int, packet: bytes, traffic_class: int = 0) -> bool:
        """Seal and send an IP packet to a peer; False when there is no session fit for it (then open one).
        `traffic_class` is for the outer header."""
        peer = self._parts.sessions.peers.get(peer_id)
        if peer is None or not peer.up:
            return False
        peer.demand_at = self._host.now()
        peer.packets += 1
        return self._parts.sessions.send(peer, _PACKET + packet, expects_answer=True, traffic_class=traffic_class)

    def send_traffic(self, peer_id: int, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool:
        """Seal and send what stands for IP packets, each with its kind in front, together where that is possible;
        False when there is no session fit for it."""
        peer = self._parts.sessions.peers.get(peer_id)
        if peer is None or not peer.up:
            return False
        peer.demand_at = self._host.now()
        peer.packets += len(plaintexts)
        return self._parts.sessions.send_all(peer, plaintexts, traffic_class)

    def room_bytes(self, peer_id: int) -> int:
        """The longest segment's plaintext that reaches a peer in one piece, over the path in use; 0 when the peer takes
        whole packets only."""
        peer = self._parts.sessions.peers.get(peer_id)
        if peer is not None and not peer.features & _SEGMENTS_FEATURE:
            return 0
        sizes = self._parts.sessions.sizes
        if peer is None or peer.path is None:
            return sizes.longest_bytes - _ROUTED_OVERHEAD_BYTES
        return sizes.room_bytes(peer)

    def on_traffic(self, callback: Callable[[Member, Sequence[bytes]], None]) -> None:
        """Give what a peer sent with `send_traffic` to `callback(member, plaintexts)`; single whole packets may come
        by `on_packet` instead. The last call wins."""
        self._parts.demux.traffic = callback

    def on_run(self, callback: Callable[[Member, memoryview, int], None]) -> None:
        """Give segments that came together, all of `size` bytes but for the last, which may be shorter, to
        `callback(member, run, size)`, one behind the other in memory that is good until it returns. Without it they
        come by `on_traffic`. The last call wins."""
        self._parts.demux.run = callback

    def on_packet(self, callback: Callable[[Member, bytes], None]) -> None:
        """Give every IP packet that a peer sent us to `callback(member, packet)`. The last call wins."""
        self._parts.demux.packet = callback

    def register(self, message: type[M], handle: Callable[[Member, M], None]) -> None:
        """Take messages of an application's own type, end-to-end encrypted and with a proven sender. Raises
        ValueError for a code below FIRST_APPLICATION_CODE or already taken."""
        if not FIRST_APPLICATION_CODE <= message.CODE < 1 << 16:
            raise ValueError(f"application message codes run from {FIRST_APPLICATION_CODE} to 65535")

        def take(incoming: Incoming, received: M) -> None:
            assert incoming.peer is not None
            incoming.peer.demand_at = self._host.now()
            incoming.peer.packets += 1
            handle(incoming.peer.member, received)

        self._parts.exchange.handle(message, Way.SESSION, take)

    def send(self, peer_id: int, message: Message, failed: Callable[[str], None] | None = None) -> None:
        """Send a message of an application's own type; a session is opened when there is none. Like a datagram it
        may be lost; `failed(reason)` is called when no session can be had. Raises ValueError for a message of more
        than 8192 bytes, which nobody would take."""
        if len(pack_control(message, Kind.TELL)) > MAX_BYTES:
            raise ValueError(f"a message of more than {MAX_BYTES} bytes")

        def opened(peer: Peer | None) -> None:
            if peer is None:
                if failed is not None:
                    failed(f"node {short(peer_id)} was not found or did not answer")
                return
            peer.demand_at = self._host.now()
            peer.packets += 1
            self._parts.exchange.tell(peer, message)

        self.open_session(peer_id, opened)

    def ping(self, peer_id: int, done: Callable[[PingResult | None], None]) -> None:
        """One round trip to a node over the path in use; None when it isn't found or does not answer."""

        def opened(peer: Peer | None) -> None:
            if peer is None:
                done(None)
                return
            peer.demand_at = self._host.now()
            peer.packets += 1
            path = peer.path  # It may have changed when the answer comes.

            def answered(pinged: Pinged | None) -> None:
                if pinged is None:
                    done(None)
                    return
                hops = pinged.hops if path is None else hops_of(path)
                kind, rtt_ms = kind_of(path).name.lower(), pinged.rtt_s * 1000.0
                done(PingResult(rtt_ms, kind, relay_of(path), hops, endpoint_of(path)))

            self._parts.pings.ping(peer, answered)

        self.open_session(peer_id, opened)

    def contact(self) -> Contact:
        """How others may reach this node."""
        return self._parts.reach.contact()

    def peers(self) -> list[PeerView]:
        """Every peer with a session that works."""
        return [
            PeerView(
                peer.id,
                peer.member.name,
                (peer.member.address4, peer.member.address6),
                kind_of(peer.path).name.lower(),
                relay_of(peer.path),
                peer.hops if peer.path is None else hops_of(peer.path),
                peer.endpoint,
                None if peer.rtt_s is None else peer.rtt_s * 1000.0,
                peer.tx_bytes,
                peer.rx_bytes,
                0.0,
            )
            for peer in self._parts.sessions.peers.values()
            if peer.up
        ]

    def ring_view(self) -> RingView:
        lists = self._parts.near.lists
        return RingView(
            tuple(lists.successors), tuple(lists.predecessors), tuple(self._parts.fingers.ids()), lists.size_estimate()
        )

    def _sight(self) -> Sight:
        ring = self.ring_view()
        return Sight(
            self.id,
            self.identity.member.name,
            self._version,
            self._parts.pings.whereabouts(),
            ring.successors,
            ring.predecessors,
            ring.fingers,
            len(self._parts.overlay.edges()),
        )

    def _described(self, peer_id: int, result: GetResult, done: Callable[[Peer | None], None]) -> None:
        if not result.records:
            done(None)
            return
        try:
            contact = Contact.parse(result.records[0].value)
        except BadDatagram:
            self.counters["bad_descriptor"] += 1
            done(None)
            return
        if contact.id != peer_id:
            self.counters["bad_descriptor"] += 1
            done(None)
            return
        self._parts.handshakes.begin(contact, (None,), lambda found, reason: done(found))
