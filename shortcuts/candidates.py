"""Where two nodes may reach each other: candidates gathered, told, paired with the other's, and put into an order.

As in ICE, but a node has one socket a family: every packet of it leaves from the same base, so a pair is decided by its
remote end, and the local end only says through which of our addresses it would go. Nothing is sent here. A peer's
candidates are claims: they may name anybody, so they are few, each is tried a few times, and only an authenticated
answer makes a path of one. Same-LAN is a guess from prefixes and outside addresses; a wrong one costs the order.
Source: RFC 8445 sections 5.1 (candidates, priorities), 6.1.2 (pairs, pruning) and 14 (pacing).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from ipaddress import ip_address
from typing import Final, NamedTuple

from dht.errors import BadDatagram
from dht.host import Endpoint
from shortcuts.scope import Scope, is_ipv6, scope_of

MAX_CANDIDATES: Final = 12
MAX_HOSTS: Final = 6  # a machine full of bridges must not crowd out how the world sees it
MAX_CANDIDATE_BYTES: Final = 19
PACE_S: Final = 0.02  # between two checks of a round (RFC 8445 asks for at least 5 ms, and proposes 50)
ROUNDS_S: Final = (0.0, 0.4, 1.2, 2.8)  # every pair is checked at each of these, until one answers


class CandidateKind(IntEnum):
    """How a node came to believe that it can be reached at an endpoint."""

    HOST = 1  # an address of its own
    SERVER_REFLEXIVE = 2  # where peers see it
    PEER_REFLEXIVE = 3  # where a check of this very peer came from
    MAPPED = 4  # a port that its router forwards on request
    PREDICTED = 5  # where its NAT will likely put it next


class Candidate(NamedTuple):
    """An endpoint, and how it was found."""

    kind: CandidateKind
    endpoint: Endpoint

    def pack(self) -> bytes:
        """The kind, then the endpoint: 7 or 19 bytes."""
        return bytes((self.kind,)) + self.endpoint.pack()

    @classmethod
    def parse(cls, packed: bytes) -> Candidate:
        """The inverse of `pack`. Raises BadDatagram."""
        if not packed or packed[0] not in _KINDS:
            raise BadDatagram("a candidate of no known kind")
        return cls(CandidateKind(packed[0]), Endpoint.parse(packed[1:]))


class Pair(NamedTuple):
    """One thing to try: the remote candidate, and our own address that is most like it."""

    local: Candidate
    remote: Candidate
    same_lan: bool


_KINDS: Final = frozenset(CandidateKind)
# RFC 8445's type preferences, with a forwarded port above a reflexive one: it lets in who was never sent to.
_PREFERENCE: Final = {
    CandidateKind.HOST: 126,
    CandidateKind.MAPPED: 120,
    CandidateKind.PEER_REFLEXIVE: 110,
    CandidateKind.SERVER_REFLEXIVE: 100,
    CandidateKind.PREDICTED: 50,
}
_NARROW_HOST: Final = 90  # on a private network that is likely not ours: after what is reached from everywhere
_SAME_LAN: Final = 127
_LAN_BITS: Final = {4: 24, 6: 64}  # of addresses on one LAN, commonly equal


def gather(
    local: Iterable[Endpoint],
    observed: Iterable[Endpoint] = (),
    mapped: Iterable[Endpoint] = (),
    learned: Iterable[Endpoint] = (),
    predicted: Iterable[Endpoint] = (),
) -> tuple[Candidate, ...]:
    """A node's own candidates, best first, each endpoint once, at most MAX_CANDIDATES: its addresses, where peers see
    it, the ports forwarded to it, where its checks of this peer were seen to come from, guesses at the next port."""
    own = list(dict.fromkeys(local))
    if any(scope_of(endpoint.address) > Scope.LOOPBACK for endpoint in own):
        own = [endpoint for endpoint in own if scope_of(endpoint.address) > Scope.LOOPBACK]
    hosts = sorted((Candidate(CandidateKind.HOST, endpoint) for endpoint in own), key=priority, reverse=True)
    others = [
        Candidate(kind, endpoint)
        for kind, endpoints in (
            (CandidateKind.MAPPED, mapped),
            (CandidateKind.PEER_REFLEXIVE, learned),
            (CandidateKind.SERVER_REFLEXIVE, observed),
            (CandidateKind.PREDICTED, predicted),
        )
        for endpoint in endpoints
        if endpoint not in own
    ]
    found: dict[Endpoint, Candidate] = {}
    for candidate in (*hosts[:MAX_HOSTS], *others):
        found.setdefault(candidate.endpoint, candidate)
    return tuple(sorted(found.values(), key=priority, reverse=True)[:MAX_CANDIDATES])


def priority(candidate: Candidate) -> tuple[int, int, bool]:
    """What candidates are sorted by, the greatest first: kind, then scope (the wider), then family (IPv6)."""
    address = candidate.endpoint.address
    return _PREFERENCE[candidate.kind], scope_of(address), is_ipv6(address)


def pairs(own: Sequence[Candidate], remote: Sequence[Candidate]) -> tuple[Pair, ...]:
    """What is worth trying, best first: each remote endpoint at most once, at most MAX_CANDIDATES."""
    bases = [candidate for candidate in own if candidate.kind is CandidateKind.HOST]
    ours = {base.endpoint for base in bases}
    may_share_lan = _may_share_lan(own, remote)
    found: dict[Endpoint, tuple[tuple[int, int, bool], Pair]] = {}
    for candidate in remote:
        fit = [base for base in bases if _fits(base, candidate)]
        if not fit or candidate.endpoint in ours:
            continue
        base = max(fit, key=lambda each: _common_bits(each.endpoint, candidate.endpoint))
        same_lan = may_share_lan and candidate.kind is CandidateKind.HOST and _same_prefix(base, candidate)
        rank = _rank(candidate, same_lan=same_lan)
        if candidate.endpoint not in found or rank > found[candidate.endpoint][0]:
            found[candidate.endpoint] = rank, Pair(base, candidate, same_lan)
    ranked = sorted(found.values(), key=lambda entry: entry[0], reverse=True)
    return tuple(pair for _, pair in ranked[:MAX_CANDIDATES])


def pace(chosen: Sequence[Pair]) -> tuple[tuple[float, Pair], ...]:
    """When to check which pair, in seconds from now: round by round, PACE_S apart within one, each in the order given.

    Later rounds are for holes that the other end has yet to punch, and for loss; whoever has an answer stops."""
    return tuple(
        (max(begins_s, number * len(chosen) * PACE_S) + place * PACE_S, pair)
        for number, begins_s in enumerate(ROUNDS_S)
        for place, pair in enumerate(chosen)
    )


def _fits(base: Candidate, remote: Candidate) -> bool:
    """Whether a packet from `base` may find its way to `remote` at all."""
    here, there = base.endpoint.address, remote.endpoint.address
    if is_ipv6(here) != is_ipv6(there):
        return False
    from_scope, to_scope = scope_of(here), scope_of(there)
    if Scope.LOOPBACK in (from_scope, to_scope) or to_scope is Scope.LINK_LOCAL:
        return from_scope is to_scope
    # From a private network, or a carrier's, any other may be near; from a public address, none is.
    return to_scope is Scope.PUBLIC or from_scope < Scope.PUBLIC


def _rank(remote: Candidate, *, same_lan: bool) -> tuple[int, int, bool]:
    preference, scope, ipv6 = priority(remote)
    if same_lan:
        preference = _SAME_LAN
    elif remote.kind is CandidateKind.HOST and Scope.LOOPBACK < scope < Scope.PUBLIC:
        preference = _NARROW_HOST
    return preference, scope, ipv6


def _may_share_lan(own: Sequence[Candidate], remote: Sequence[Candidate]) -> bool:
    """False when both ends are seen from outside, and at different addresses: half the world is 192.168.1.0/24."""
    seen = (CandidateKind.SERVER_REFLEXIVE, CandidateKind.MAPPED)
    here, there = (
        {each.endpoint.address for each in side if each.kind in seen and not is_ipv6(each.endpoint.address)}
        for side in (own, remote)
    )
    return not here or not there or bool(here & there)


def _same_prefix(base: Candidate, remote: Candidate) -> bool:
    version = 6 if is_ipv6(base.endpoint.address) else 4
    return _common_bits(base.endpoint, remote.endpoint) >= _LAN_BITS[version]


def _common_bits(a: Endpoint, b: Endpoint) -> int:
    """The length of the common prefix of two addresses of one family."""
    one, other = ip_address(a.address), ip_address(b.address)
    return one.max_prefixlen - (int(one) ^ int(other)).bit_length()
