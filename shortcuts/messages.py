"""Control messages of the search for direct paths. Codes 32 to 63 are theirs.

Sent inside a session, over whatever path it has: the sender is proven, what it says is its own claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from dht.contact import Contact
from dht.coordinate import COORDINATE_BYTES, Coordinate
from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.messages import MAX_CONTACT_BYTES, Message
from dht.packing import Fields, Value
from shortcuts.candidates import MAX_CANDIDATE_BYTES, MAX_CANDIDATES, Candidate
from shortcuts.nat import NAT_BYTES, Nat

FIRST_CODE: Final = 32
LAST_CODE: Final = 63
NONCE_BYTES: Final = 8
MAX_NEARBY: Final = 16
MAX_RTT_MS: Final = 60_000.0
TOKEN_BYTES: Final = 16
MAX_KNOWN: Final = 40  # addresses in a request for a probe
_RTT_BYTES: Final = 4
_US_PER_MS: Final = 1000
_ADDRESS_BYTES: Final = (4, 16)


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """Where the sender may be reached, and what its NATs do, a family each; answered by the receiver's own Offer with
    the same nonce, and both ends begin their checks. `nonce` tells one try from another."""

    CODE = 32
    nonce: bytes
    candidates: tuple[Candidate, ...]
    nat4: Nat
    nat6: Nat

    def fields(self) -> dict[int, Value]:
        return {
            0: self.nonce,
            1: [candidate.pack() for candidate in self.candidates[:MAX_CANDIDATES]],
            2: self.nat4.pack(),
            3: self.nat6.pack(),
        }

    @classmethod
    def read(cls, fields: Fields) -> Offer:
        return cls(
            fields.octets(0, NONCE_BYTES, NONCE_BYTES),
            tuple(map(Candidate.parse, fields.octets_list(1, MAX_CANDIDATES, MAX_CANDIDATE_BYTES))),
            Nat.parse(fields.octets(2, NAT_BYTES, NAT_BYTES)),
            Nat.parse(fields.octets(3, NAT_BYTES, NAT_BYTES)),
        )


class Neighbor(NamedTuple):
    """A node to which the sender has a direct path: how to reach it, the round trip, and where it says it is."""

    contact: Contact
    rtt_ms: float
    coordinate: Coordinate | None

    def pack(self) -> bytes:
        """The round trip in µs, the coordinate behind its length, the contact."""
        coordinate = b"" if self.coordinate is None else self.coordinate.pack()
        rtt_us = round(min(self.rtt_ms, MAX_RTT_MS) * _US_PER_MS)
        return rtt_us.to_bytes(_RTT_BYTES, "big") + bytes((len(coordinate),)) + coordinate + self.contact.pack()

    @classmethod
    def parse(cls, packed: bytes) -> Neighbor:
        """The inverse of `pack`. Raises BadDatagram."""
        at = _RTT_BYTES + 1
        if len(packed) < at or packed[_RTT_BYTES] not in (0, COORDINATE_BYTES):
            raise BadDatagram("a neighbour without its round trip, or with a strange coordinate")
        rtt_ms = int.from_bytes(packed[:_RTT_BYTES], "big") / _US_PER_MS
        if rtt_ms > MAX_RTT_MS:
            raise BadDatagram(f"a neighbour {rtt_ms} ms away")
        end = at + packed[_RTT_BYTES]
        coordinate = Coordinate.parse(packed[at:end]) if end > at else None
        return cls(Contact.parse(packed[end:]), rtt_ms, coordinate)


MAX_NEIGHBOR_BYTES: Final = _RTT_BYTES + 1 + COORDINATE_BYTES + MAX_CONTACT_BYTES


@dataclass(frozen=True, slots=True)
class NearbyRequest(Message):
    """Who is near you? One of them may relay between us."""

    CODE = 33


@dataclass(frozen=True, slots=True)
class Nearby(Message):
    """The sender's own contact and coordinate, and the nearest of the nodes to which it has a direct path."""

    CODE = 34
    sender: Contact
    coordinate: Coordinate | None
    neighbors: tuple[Neighbor, ...]

    def fields(self) -> dict[int, Value]:
        return {
            0: self.sender.pack(),
            1: b"" if self.coordinate is None else self.coordinate.pack(),
            2: [neighbor.pack() for neighbor in self.neighbors[:MAX_NEARBY]],
        }

    @classmethod
    def read(cls, fields: Fields) -> Nearby:
        coordinate = fields.octets(1, 0, COORDINATE_BYTES)
        return cls(
            Contact.parse(fields.octets(0, 1, MAX_CONTACT_BYTES)),
            Coordinate.parse(coordinate) if coordinate else None,
            tuple(map(Neighbor.parse, fields.octets_list(2, MAX_NEARBY, MAX_NEIGHBOR_BYTES))),
        )


@dataclass(frozen=True, slots=True)
class ProbeRequest(Message):
    """Have somebody whom I don't know send `token` to where you see me. `known`: packed addresses of those whom the
    sender knows, who are of no use."""

    CODE = 40
    token: bytes
    known: tuple[bytes, ...]

    def fields(self) -> dict[int, Value]:
        return {0: self.token, 1: list(self.known[:MAX_KNOWN])}

    @classmethod
    def read(cls, fields: Fields) -> ProbeRequest:
        known = fields.octets_list(1, MAX_KNOWN, _ADDRESS_BYTES[-1])
        if any(len(address) not in _ADDRESS_BYTES for address in known):
            raise BadDatagram("an address has 4 or 16 bytes")
        return cls(fields.octets(0, TOKEN_BYTES, TOKEN_BYTES), tuple(known))


@dataclass(frozen=True, slots=True)
class ProbeReport(Message):
    """Somebody whom the sender sees at `source` has sent the token; None: nobody has."""

    CODE = 41
    source: Endpoint | None

    def fields(self) -> dict[int, Value]:
        return {} if self.source is None else {0: self.source.pack()}

    @classmethod
    def read(cls, fields: Fields) -> ProbeReport:
        return cls(Endpoint.parse(fields.octets(0, 6, 18)) if 0 in fields else None)


@dataclass(frozen=True, slots=True)
class ProbeOrder(Message):
    """Send `token` to `target`, where somebody waits for it."""

    CODE = 42
    token: bytes
    target: Endpoint

    def fields(self) -> dict[int, Value]:
        return {0: self.token, 1: self.target.pack()}

    @classmethod
    def read(cls, fields: Fields) -> ProbeOrder:
        return cls(fields.octets(0, TOKEN_BYTES, TOKEN_BYTES), Endpoint.parse(fields.octets(1, 6, 18)))


@dataclass(frozen=True, slots=True)
class ProbeSent(Message):
    """The token was sent, or is refused: too many ask for that."""

    CODE = 43
    sent: bool

    def fields(self) -> dict[int, Value]:
        return {0: self.sent}

    @classmethod
    def read(cls, fields: Fields) -> ProbeSent:
        return cls(fields.flag(0))
