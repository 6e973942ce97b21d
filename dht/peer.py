"""What a node keeps of one other node that it has, or had, a session with.

Plain state, without timers; what is sent to it, `Sessions` seals and carries. `path` is the one in use, proven both
ways: direct, or through a relay. A peer that has one is an *edge* of this node. A peer without one is reached over the
overlay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dht.certificate import Member
from dht.contact import MAX_ENDPOINTS, Contact
from dht.coordinate import Coordinate
from dht.features import Feature
from dht.fragments import Reassembly
from dht.host import Endpoint
from dht.path import Kind, Path, endpoint_of, kind_of
from dht.session import Keypair, Session
from dht.sizes import PathSize

MAX_PATHS = 12
FIRST_PATIENCE_S = 1.0  # before any round trip is known: RFC 6298's
MOST_VARYING_S = 2.0  # who answers later than that now and then is not waited for, or nobody would ever be dead


class Reborn(NamedTuple):
    """A handshake with a new process of a peer, whose keys nobody has used yet."""

    keypair: Keypair
    instance: int
    joined: bool
    features: int = 0
    datagram_bytes: int = 0


class Carrier(Protocol):
    """Seals what is for a peer and sends it on its way: `dht.sessions.Sessions`."""

    def send(self, peer: Peer, plaintext: bytes, *, expects_answer: bool = False, traffic_class: int = 0) -> bool: ...

    def send_all(self, peer: Peer, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool: ...

    def answer(self, peer: Peer, plaintext: bytes, path: Path | None) -> bool: ...


class Peer:
    """One other node: who it is, its session, its path, and when it was last heard. An `Edge` of the main ring."""

    __slots__ = (
        "_carrier",
        "_contact",
        "answered",
        "clock_offset_s",
        "coordinate",
        "datagram_bytes",
        "declared",
        "demand_at",
        "due_at",
        "features",
        "fragments",
        "heard_at",
        "hops",
        "id",
        "indices",
        "instance",
        "joined",
        "member",
        "number",
        "packets",
        "path",
        "path_heard_at",
        "paths",
        "ping_at",
        "probes",
        "reborn",
        "rtt_s",
        "rtt_varies_s",
        "rx_bytes",
        "session",
        "size",
        "static",
        "suspect",
        "taken_at",
        "told_joined",
        "tx_bytes",
        "unanswered_at",
        "up",
        "wanted_at",
        "whereabouts_told_at",
    )

    def __init__(self, member: Member, static: bytes, now: float, carrier: Carrier, number: int = 0) -> None:
        self._carrier = carrier
        self.id = member.id
        self.number = number  # grows with every peer that this node admits
        self.member = member
        self.static = static
        self.session = Session(member, static)
        self.indices: set[int] = set()
        self.path: Path | None = None
        self.paths: dict[Path, float] = {}  # by which packets came, and when the last one did; the latest last
        self.declared: tuple[Endpoint, ...] = ()  # where the peer itself says it can be reached
        self._contact: tuple[Path | None, tuple[Endpoint, ...], Contact] | None = None  # what follows from those
        self.whereabouts_told_at = -1e9
        self.coordinate: Coordinate | None = None  # where the peer says it is among round trips
        self.clock_offset_s = 0.0  # the peer's clock less ours, when we last shook hands
        self.instance = 0  # changes when the peer's process restarts
        self.answered: tuple[float, Kind] | None = None  # its first handshake, when and by what; None once it is up
        self.reborn: Reborn | None = None  # a new process of the peer, until a packet proves it
        self.features = 0  # what the peer understands: dht.features
        self.datagram_bytes = 0  # the longest that the peer's own link carries; 0: it did not say
        self.joined = False  # the peer is a member of the ring, not only of the network
        self.told_joined = False  # the peer knows that this node is a member
        self.up = False  # a packet of this peer was opened under the present session
        self.heard_at = now
        self.path_heard_at = now  # by the path in use
        self.taken_at = now  # when the path in use came into use
        self.packets = 0  # of users', both ways
        self.demand_at = -1e9  # the last time a user's packet or message went to or came from this peer
        self.wanted_at = now  # the last time either end showed that it wants this edge
        self.unanswered_at: float | None = None  # since when something that calls for an answer has had none
        self.probes = 0  # pings sent since then; none while nothing is unanswered
        self.due_at = 0.0  # dht.liveness looks at it by then, unless something is awaited; 0: not in its list
        self.ping_at = 0.0  # when the last of them was sent
        self.suspect = False  # a probe went unanswered: routing goes around this peer
        self.rtt_s: float | None = None
        self.rtt_varies_s = 0.0  # by so much, in the mean
        self.hops = 1
        self.tx_bytes = 0
        self.rx_bytes = 0
        self.fragments = Reassembly()
        self.size = PathSize()

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the peer is, when the path in use is direct."""
        return endpoint_of(self.path)

    @property
    def direct(self) -> bool:
        """Whether the path in use is direct."""
        return isinstance(self.path, Endpoint)

    @property
    def in_trees(self) -> bool:
        """Whether the peer takes part in broadcasts and aggregates."""
        return bool(self.features & Feature.TREES)

    def is_at(self, endpoint: Endpoint) -> bool:
        """Whether the peer is known to send from there: by the path in use, or by another one lately proven."""
        return endpoint == self.path or endpoint in self.paths

    def came_by(self, path: Path, now: float) -> bool:
        """Note a packet that proved itself; whether this path was known before."""
        paths = self.paths
        if len(paths) == 1 and path in paths:  # nearly always
            paths[path] = now
            return True
        known = paths.pop(path, None) is not None
        paths[path] = now
        if len(paths) > MAX_PATHS:
            del paths[next(each for each in paths if each != self.path)]
        return known

    def contact(self) -> Contact:
        """How others may reach this peer: where we see it first, then what it says of itself."""
        known = self._contact
        if known is None or known[0] != self.path or known[1] is not self.declared:
            here = self.endpoint
            endpoints = [here] if here is not None else []
            endpoints += [endpoint for endpoint in self.declared if endpoint != here]
            contact = Contact(self.id, self.static, tuple(endpoints[:MAX_ENDPOINTS]))
            known = self._contact = self.path, self.declared, contact
        return known[2]

    def send(self, plaintext: bytes, *, expects_answer: bool = False, traffic_class: int = 0) -> bool:
        """As `Sessions.send`."""
        return self._carrier.send(self, plaintext, expects_answer=expects_answer, traffic_class=traffic_class)

    def send_all(self, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool:
        """As `Sessions.send_all`."""
        return self._carrier.send_all(self, plaintexts, traffic_class)

    def answer(self, plaintext: bytes, path: Path | None) -> bool:
        """As `Sessions.answer`."""
        return self._carrier.answer(self, plaintext, path)

    def said(self, features: int, datagram_bytes: int) -> None:
        """What the peer told of itself in a handshake."""
        if (features, datagram_bytes) != (self.features, self.datagram_bytes):
            self.features, self.datagram_bytes = features, datagram_bytes
            self.size = PathSize()

    def heard(self, path: Path | None, now: float) -> None:
        """A packet came. Only the path in use is any the better for what came by it."""
        self.heard_at = now
        if path == self.path:
            self.heard_in_use(now)

    def heard_in_use(self, now: float) -> None:
        """A packet came by the path in use."""
        self.heard_at = self.path_heard_at = now
        self.unanswered_at = None
        self.probes = 0
        self.suspect = False

    def take(self, path: Path | None, now: float) -> None:
        """Use another path from now on; what was unanswered on the old one says nothing about it."""
        if path != self.path:
            self.taken_at = now
        self.path = path
        self.hops = 1
        self.path_heard_at = now
        self.unanswered_at = None
        self.probes = 0
        self.suspect = False

    def others(self, since: float) -> list[Path]:
        """The paths not in use by which packets came since then, the best kind first, of a kind the latest."""
        found = [path for path, at in reversed(self.paths.items()) if path != self.path and at >= since]
        return sorted(found, key=kind_of)

    def measured(self, rtt_s: float) -> None:
        """Smooths round trips, and how much they vary, as TCP does (RFC 6298, alpha = 1/8, beta = 1/4). The first says
        nothing of how they vary: `patience_s` has a floor instead."""
        if self.rtt_s is None:
            self.rtt_s = rtt_s
            return
        self.rtt_varies_s = self.rtt_varies_s * 0.75 + abs(rtt_s - self.rtt_s) * 0.25
        self.rtt_s = self.rtt_s * 0.875 + rtt_s * 0.125

    def patience_s(self, least_s: float) -> float:
        """How long an answer may take: two round trips, more where they vary (RFC 6298), and `least_s` at least. Who
        shook hands with us is of unknown distance until our first ping."""
        if self.rtt_s is None:
            return max(least_s, FIRST_PATIENCE_S)
        return max(least_s, 2.0 * self.rtt_s, min(self.rtt_s + 4.0 * self.rtt_varies_s, MOST_VARYING_S))
