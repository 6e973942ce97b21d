"""What a node shows of itself: its state, its peers, its place on the ring. Plain values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from dht.host import Endpoint


class NodeState(Enum):
    """What a node says of itself: on its way into the ring, in it, or alone although it knows of others."""

    JOINING = "joining"
    READY = "ready"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer as its node sees it. `path` is "direct", "proxy" or "overlay"; `via` the relay's node id, None unless it
    is a proxy; `hops` is 1 when direct, 2 by a proxy."""

    id: int
    name: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    path: str
    via: int | None
    hops: int
    endpoint: Endpoint | None
    rtt_ms: float | None
    tx_bytes: int
    rx_bytes: int
    score: float


@dataclass(frozen=True, slots=True)
class RingView:
    """The ring as one node sees it: ids, nearest first (fingers: farthest first)."""

    successors: tuple[int, ...]
    predecessors: tuple[int, ...]
    fingers: tuple[int, ...]
    size_estimate: int


@dataclass(frozen=True, slots=True)
class PingResult:
    """An answered ping: the round trip, and the path that the question took, named as in PeerView."""

    rtt_ms: float
    path: str
    via: int | None
    hops: int
    endpoint: Endpoint | None
