"""What the NAT in front of this node does, in the terms of RFC 4787, from what peers see and what arrives.

Nobody is asked specially: every pong says from where the ping came, and every first packet of a stranger shows that
it got in. One machine a family, IPv4 and IPv6. What a peer *says* (our outside endpoint, that a probe was sent) needs
two witnesses where there are two, counted by address; what we *see* (an arrival) needs none. An opinion is that of more
than half of the witnesses, so that one liar among three changes nothing; observations expire and are bounded.

A mapping is told from no mapping by comparing with our own endpoints. A witness on our own private network sees those
too, whatever NAT is further out, so it doesn't count beside others. Never sends, never reads a clock.
Sources: RFC 4787 sections 4 and 5; RFC 5780 section 4 for the tests, done here without a STUN server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

from dht.errors import BadDatagram
from dht.host import Endpoint
from shortcuts.scope import Scope, is_ipv6, scope_of

T = TypeVar("T", bound=Hashable)

OBSERVED_S: Final = 300.0
TRIED_S: Final = 1200.0  # what only trying tells holds longer: it is tried every ten minutes
MAX_REPORTS: Final = 48
MAX_MISSES: Final = 16  # a relation
ENOUGH_WITNESSES: Final = 2
NAT_BYTES: Final = 2


class Mapping(IntEnum):
    """What the outside port depends on (RFC 4787, section 4.1). NONE: nothing is translated."""

    UNKNOWN = 0
    NONE = 1
    ENDPOINT_INDEPENDENT = 2
    ADDRESS_DEPENDENT = 3
    ADDRESS_AND_PORT_DEPENDENT = 4


class Filtering(IntEnum):
    """Who gets in (RFC 4787, section 5): everybody, the addresses or just the endpoints that were sent to.
    NONE: everybody, for want of a NAT or a firewall."""

    UNKNOWN = 0
    NONE = 1
    ENDPOINT_INDEPENDENT = 2
    ADDRESS_DEPENDENT = 3
    ADDRESS_AND_PORT_DEPENDENT = 4


class Answer(IntEnum):
    """To a question that may not have been settled yet."""

    UNKNOWN = 0
    NO = 1
    YES = 2


class Relation(IntEnum):
    """What an arriving packet's source has to do with whom we had sent to lately."""

    STRANGER = 0  # nothing
    ADDRESS = 1  # sent to its address, another port
    ENDPOINT = 2  # sent to it


@dataclass(frozen=True, slots=True)
class Nat:
    """The behaviour of one NAT, or of several in a row, in one family: what peers tell each other in offers."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    preserves_ports: Answer = Answer.UNKNOWN
    hairpins: Answer = Answer.UNKNOWN

    def pack(self) -> bytes:
        """NAT_BYTES: mapping and filtering, port preservation and hairpinning, four bits each."""
        return bytes((self.mapping << 4 | self.filtering, self.preserves_ports << 4 | self.hairpins))

    @classmethod
    def parse(cls, packed: bytes) -> Nat:
        """The inverse of `pack`. Raises BadDatagram."""
        if len(packed) != NAT_BYTES:
            raise BadDatagram(f"a NAT is described in {NAT_BYTES} bytes, not {len(packed)}")
        behaviour, habits = packed
        try:
            return cls(Mapping(behaviour >> 4), Filtering(behaviour & 15), Answer(habits >> 4), Answer(habits & 15))
        except ValueError as unknown:
            raise BadDatagram(f"a NAT of no known kind: {unknown}") from None


class Verdict(NamedTuple):
    """What is known of the NAT in front of us. `outside`: the endpoint at which everybody may try us, None when each
    peer sees another, or none; `addresses`: its outside addresses, more than one when it draws from a pool;
    `witnesses`: how many addresses the mapping was seen from."""

    nat: Nat
    outside: Endpoint | None
    addresses: tuple[str, ...]
    witnesses: int


class _Report(NamedTuple):
    reporter: Endpoint
    observed: Endpoint
    since: float  # when it was first reported so: new mappings in the order in which they were made
    at: float


class NatObserver:
    """What was observed of the NAT in one family lately."""

    def __init__(self, *, ipv6: bool) -> None:
        self._ipv6 = ipv6
        self._local: frozenset[Endpoint] = frozenset()
        self._reports: dict[Endpoint, _Report] = {}  # by reporter; the latest last
        self._arrived: dict[Relation, float] = {}
        self._missed: dict[Relation, dict[str, float]] = {Relation.STRANGER: {}, Relation.ADDRESS: {}}
        self._hairpin: tuple[float, bool] | None = None

    def local(self, endpoints: Iterable[Endpoint]) -> None:
        """Where this node listens now. A change forgets everything: this may be another network."""
        own = frozenset(endpoint for endpoint in endpoints if self._is_ours(endpoint))
        if own != self._local:
            self._local = own
            self._reports.clear()
            self.renewed()

    def renewed(self) -> None:
        """Another NAT is in front of us, or the same one anew: whom it lets in must be tried again."""
        self._arrived.clear()
        self._hairpin = None
        for missed in self._missed.values():
            missed.clear()

    def is_beyond(self, source: Endpoint) -> bool:
        """Whether what comes from there has come through the NAT, as far as addresses tell."""
        return self._is_ours(source) and not self._is_near(source)

    def reported(self, now: float, reporter: Endpoint, observed: Endpoint) -> None:
        """The peer at `reporter` says that our packets come from `observed`."""
        if not self._is_ours(observed) or not self._is_ours(reporter):
            return
        before = self._reports.pop(reporter, None)
        since = before.since if before is not None and before.observed == observed else now
        self._reports[reporter] = _Report(reporter, observed, since, now)
        if len(self._reports) > MAX_REPORTS:
            del self._reports[next(iter(self._reports))]

    def arrived(self, now: float, source: Endpoint, relation: Relation) -> None:
        """An authentic first packet came from `source`. From our own private network it proves nothing."""
        if self.is_beyond(source):
            self._arrived[relation] = now

    def missed(self, now: float, source: Endpoint, relation: Relation) -> None:
        """A peer says that it sent to our outside endpoint from `source`, several times, and nothing came."""
        if relation is Relation.ENDPOINT or not self.is_beyond(source):
            return
        witnesses = self._missed[relation]
        witnesses.pop(source.address, None)
        witnesses[source.address] = now
        if len(witnesses) > MAX_MISSES:
            del witnesses[next(iter(witnesses))]

    def hairpinned(self, now: float, came_back: bool) -> None:
        """A packet of ours to our own outside endpoint came back, or didn't."""
        self._hairpin = (now, came_back)

    def verdict(self, now: float) -> Verdict:
        """What follows from what was said in the last OBSERVED_S, and tried in the last TRIED_S."""
        reports = self._alive(now)
        witnesses = {report.reporter.address: report for report in reports}
        agreed = _majority(self._seen_at(report) for report in witnesses.values())
        mapping = self._mapping(reports, witnesses, agreed)
        ports = {local.port for local in self._local}
        preserves = _majority(report.observed.port in ports for report in witnesses.values())
        nat = Nat(
            mapping,
            self._filtering(now, mapping, len(witnesses)),
            Answer.UNKNOWN if preserves is None else Answer.YES if preserves else Answer.NO,
            self._hairpins(now),
        )
        counted = Counter(report.observed.address for report in witnesses.values())
        needed = min(ENOUGH_WITNESSES, len(witnesses))
        addresses = tuple(address for address, count in counted.most_common() if count >= needed)
        return Verdict(nat, agreed, addresses, len(witnesses))

    def mapped_ports(self, now: float) -> list[int]:
        """The outside ports seen lately, in the order in which they were first reported: what prediction needs."""
        reports = sorted(self._alive(now), key=lambda report: report.since)
        return list(dict.fromkeys(report.observed.port for report in reports))

    def _is_ours(self, endpoint: Endpoint) -> bool:
        return is_ipv6(endpoint.address) == self._ipv6

    def _is_near(self, source: Endpoint) -> bool:
        """Whether a source may be on our side of the NAT."""
        private = any(scope_of(local.address) < Scope.PUBLIC for local in self._local)
        return private and scope_of(source.address) < Scope.SHARED

    def _alive(self, now: float) -> Sequence[_Report]:
        """The reports that count, the latest last: those from our own network only when there are no others."""
        alive = [report for report in self._reports.values() if now - report.at <= OBSERVED_S]
        return [report for report in alive if not self._from_within(report)] or alive

    def _from_within(self, report: _Report) -> bool:
        return report.observed in self._local and self._is_near(report.reporter)

    def _seen_at(self, report: _Report) -> Endpoint:
        """Where a witness sees us. Which of our own addresses a packet left from says nothing of a NAT."""
        return min(self._local) if report.observed in self._local else report.observed

    def _mapping(self, reports: Sequence[_Report], witnesses: dict[str, _Report], agreed: Endpoint | None) -> Mapping:
        if agreed is not None and agreed in self._local:
            return Mapping.NONE
        if len(witnesses) < ENOUGH_WITNESSES:
            return Mapping.UNKNOWN
        if agreed is not None:
            return Mapping.ENDPOINT_INDEPENDENT
        # Every address sees another endpoint. Two ports of one address tell whether the port matters as well; unless
        # two such addresses say no, we assume the worse.
        by_address: dict[str, list[Endpoint]] = {}
        for report in reports:
            by_address.setdefault(report.reporter.address, []).append(report.observed)
        several = [set(observed) for observed in by_address.values() if len(observed) > 1]
        if len(several) >= ENOUGH_WITNESSES and all(len(observed) == 1 for observed in several):
            return Mapping.ADDRESS_DEPENDENT
        return Mapping.ADDRESS_AND_PORT_DEPENDENT

    def _filtering(self, now: float, mapping: Mapping, witnesses: int) -> Filtering:
        def is_recent(at: float | None) -> bool:
            return at is not None and now - at <= TRIED_S

        if is_recent(self._arrived.get(Relation.STRANGER)):
            return Filtering.NONE if mapping is Mapping.NONE else Filtering.ENDPOINT_INDEPENDENT
        needed = max(1, min(ENOUGH_WITNESSES, witnesses))
        if sum(is_recent(at) for at in self._missed[Relation.STRANGER].values()) < needed:
            return Filtering.UNKNOWN
        if is_recent(self._arrived.get(Relation.ADDRESS)):
            return Filtering.ADDRESS_DEPENDENT
        return Filtering.ADDRESS_AND_PORT_DEPENDENT

    def _hairpins(self, now: float) -> Answer:
        if self._hairpin is None or now - self._hairpin[0] > TRIED_S:
            return Answer.UNKNOWN
        return Answer.YES if self._hairpin[1] else Answer.NO


def _majority(opinions: Iterable[T]) -> T | None:
    """What more than half say; None when there is no such thing."""
    counted = Counter(opinions)
    if not counted:
        return None
    opinion, count = counted.most_common(1)[0]
    return opinion if 2 * count > counted.total() else None
