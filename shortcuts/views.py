"""What the search for paths shows of itself, for `why`, `shortcuts`, `proxies` and `netcheck`. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from dht.host import Endpoint
from shortcuts.candidates import Candidate
from shortcuts.nat import Nat


@dataclass(frozen=True, slots=True)
class PathView:
    """One way to a peer. `kind` is "direct", "proxy" or "overlay"; `via` the relay's node id; `proven_s_ago` when it
    last worked both ways, None for never; `failures` how many checks in a row had no answer."""

    kind: str
    endpoint: Endpoint | None
    via: int | None
    via_name: str | None
    in_use: bool
    rtt_ms: float | None
    proven_s_ago: float | None
    failures: int


@dataclass(frozen=True, slots=True)
class TrialView:
    """What became of one remote candidate in an attempt: "answered in 12.3 ms", "no answer", "not tried yet"."""

    candidate: Candidate
    outcome: str


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt at a direct path. `outcome` says how it ended, or when it isn't `over`, where it stands."""

    began_s_ago: float
    outcome: str
    over: bool
    trials: tuple[TrialView, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why packets to a peer take the path that they take. NATs are of IPv4 and IPv6, as far as each end knows its own.
    `path_s_ago`: when the path in use was taken, None when that isn't known."""

    peer_id: int
    name: str
    path: PathView
    reason: str
    demand: str
    score: float
    local_nat: tuple[Nat, Nat]
    remote_nat: tuple[Nat, Nat] | None
    local_candidates: tuple[Candidate, ...]
    remote_candidates: tuple[Candidate, ...]
    attempts: tuple[AttemptView, ...]
    paths: tuple[PathView, ...]
    next_retry_s: float | None
    path_s_ago: float | None = None


@dataclass(frozen=True, slots=True)
class ProxyView:
    """A relay considered for a peer without a direct path. `predicted_ms` and `rtt_ms`: the round trip to the peer over
    it, from what both ends know and as measured; `note`: "in hand", "asked", "refused: busy", "not tried"."""

    relay: int
    relay_name: str | None
    predicted_ms: float | None
    rtt_ms: float | None
    note: str


@dataclass(frozen=True, slots=True)
class RelayView:
    """One circuit that this node carries for two others, and how many bytes it has passed on."""

    one: int
    other: int
    octets: int


@dataclass(frozen=True, slots=True)
class NetReport:
    """What this node knows of its own network. `outside`: where everybody may try it, a family each, None when there is
    no such endpoint; `witnesses`: how many addresses have said so; `mapped`: the port that its router forwards, and by
    which method or why not; `nearest`: the peers with the shortest round trips (name, ms)."""

    local: tuple[Endpoint, ...]
    nat: tuple[Nat, Nat]
    outside: tuple[Endpoint | None, Endpoint | None]
    witnesses: tuple[int, int]
    mapped: Endpoint | None
    mapping_note: str
    keepalive_s: float
    willing: bool
    circuits: tuple[RelayView, ...]
    nearest: tuple[tuple[str, float], ...]
