"""What the two ends of an edge, or of a session, tell each other about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from dht.contact import Contact
from dht.coordinate import Coordinate
from dht.host import Endpoint
from dht.messages.control import (
    MAX_CONTACT_BYTES,
    REMEMBERED,
    Message,
    coordinate_in,
    endpoint_in,
    packed_coordinate,
    packed_endpoint,
    remember_read,
)
from dht.packing import Fields, Value, pack


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there? I am (not) a member of the ring, at this coordinate if I know it. Measures the round trip too."""

    CODE = 1
    SAYS_THE_SAME = True
    joined: bool
    coordinate: Coordinate | None = None

    def body(self) -> bytes:
        return pack(self.fields()) if self.coordinate is not None else _BARE_PINGS[self.joined]

    def fields(self) -> dict[int, Value]:
        return {0: self.joined} | packed_coordinate(1, self.coordinate)

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.flag(0), coordinate_in(fields, 1))


# Idle nodes send hardly anything else than pings without news and their answers, and say the same for hours.
_BARE_PINGS = {joined: pack(Ping(joined).fields()) for joined in (False, True)}


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Yes, as a member or not; this is where I see you (None over the overlay), the hops your ping took, and my
    coordinate, if I know it."""

    CODE = 2
    SAYS_THE_SAME = True
    joined: bool
    observed: Endpoint | None
    hops: int
    coordinate: Coordinate | None = None

    def body(self) -> bytes:
        if self.coordinate is not None or self.observed is None:
            return pack(self.fields())
        return _bare_pong(self.joined, self.observed, self.hops)

    def fields(self) -> dict[int, Value]:
        head: dict[int, Value] = {0: self.joined, 1: packed_endpoint(self.observed), 2: self.hops}
        return head | packed_coordinate(3, self.coordinate)

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.flag(0), endpoint_in(fields, 1), fields.integer(2, 0, 255, 0), coordinate_in(fields, 3))


def _pack_bare_pong(joined: bool, observed: Endpoint, hops: int) -> bytes:
    return pack(Pong(joined, observed, hops).fields())


_bare_pong = lru_cache(maxsize=REMEMBERED)(_pack_bare_pong)


def remember(entries: int) -> None:
    """Remember so many pings and answers, for a process in which more nodes than usual live."""
    global _bare_pong  # noqa: PLW0603
    _bare_pong = lru_cache(maxsize=entries)(_pack_bare_pong)
    remember_read(entries)


@dataclass(frozen=True, slots=True)
class ConnectToMe(Message):
    """Routed to a node that the sender dials too: both ends send first, as a hole punch needs it."""

    CODE = 9
    sender: Contact

    def fields(self) -> dict[int, Value]:
        return {0: self.sender.pack()}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(Contact.parse(fields.octets(0, 1, MAX_CONTACT_BYTES)))


@dataclass(frozen=True, slots=True)
class Leave(Message):
    """The sender gives its edge up; with `ring`, it leaves the ring and should not be sought there."""

    CODE = 10
    ring: bool = False

    def fields(self) -> dict[int, Value]:
        return {0: self.ring}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.flag(0, False))  # older nodes don't say


@dataclass(frozen=True, slots=True)
class NoSession(Message):
    """Back over the overlay: a packet came for a session that the sender doesn't have (it restarted)."""

    CODE = 13
    index: int

    def fields(self) -> dict[int, Value]:
        return {0: self.index}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.integer(0, 0, (1 << 32) - 1))


@dataclass(frozen=True, slots=True)
class DuplicateIdentity(Message):
    """Somebody else, at this endpoint (None: over the overlay), proved to hold the receiver's identity."""

    CODE = 14
    endpoint: Endpoint | None

    def fields(self) -> dict[int, Value]:
        return {0: packed_endpoint(self.endpoint)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(endpoint_in(fields, 0))


@dataclass(frozen=True, slots=True)
class Lapse(Message):
    """The sender gives up this edge, which neither end has shown to need; its session ends."""

    CODE = 15
