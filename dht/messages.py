"""The ring's control messages, as typed values.

A control message travels inside a session (one hop) or inside a routed envelope (several hops). On the wire:

    code (2) | kind (1) | transaction (8) | body: a packed map with small integer keys

`kind` says whether the message asks, answers or only tells. A code nobody registered is counted and ignored,
so that old and new nodes can share a ring. This module never sends anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Any, ClassVar, NamedTuple, Self

from dht.contact import Contact
from dht.coordinate import COORDINATE_BYTES, Coordinate
from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.ids import ID_BYTES, id_bytes
from dht.packing import Fields, Value, pack

MAX_CONTACTS = 16
MAX_CONTACT_BYTES = 180
MAX_RECORD_BYTES = 2048
MAX_RECORDS = 3
HEAD_BYTES = 8
REMEMBERED = 4096  # pings and their answers, once packed, and once read
FIRST_APPLICATION_CODE = 1024
_HEADER = Struct(">HBQ")


class Kind(IntEnum):
    """What the sender of a control message expects."""

    TELL = 0
    ASK = 1
    ANSWER = 2


_KINDS = tuple(Kind)


class Message:
    """A typed control message: `CODE` names it on the wire; `fields` and `read` are each other's inverse.

    Applications subclass it with a `CODE` from `FIRST_APPLICATION_CODE` up.
    """

    __slots__ = ()
    CODE: ClassVar[int]
    SAYS_THE_SAME: ClassVar[bool] = False  # for hours: so that what was read is remembered

    def fields(self) -> dict[int, Value]:
        """The message as a map of small integers to values that `dht.packing` takes."""
        return {}

    def body(self) -> bytes:
        """The packed map."""
        return pack(self.fields())

    @classmethod
    def read(cls, fields: Fields) -> Self:
        """The message in `fields`. Raises BadDatagram for values out of range."""
        return cls()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The message whose `body` this is. Raises BadDatagram."""
        if cls.SAYS_THE_SAME:
            message: Self = _read_again(cls, body)  # type: ignore[arg-type]  # it takes a class for unhashable
            return message
        return cls.read(Fields.parse(body, cls.__name__))


class Control(NamedTuple):
    """A control message taken apart, its body not yet read."""

    code: int
    kind: Kind
    transaction: int
    body: bytes


def pack_control(message: Message, kind: Kind, transaction: int = 0) -> bytes:
    return _HEADER.pack(message.CODE, kind, transaction) + message.body()


def split_control(data: bytes) -> Control:
    """Takes the header off. Raises BadDatagram."""
    if len(data) < _HEADER.size:
        raise BadDatagram(f"a control message has at least {_HEADER.size} bytes, not {len(data)}")
    code, kind, transaction = _HEADER.unpack_from(data)
    if kind > Kind.ANSWER:
        raise BadDatagram(f"no control message is of kind {kind}")
    return Control(code, _KINDS[kind], transaction, data[_HEADER.size :])


def _contacts(fields: Fields, key: int) -> tuple[Contact, ...]:
    return tuple(Contact.parse(packed) for packed in fields.octets_list(key, MAX_CONTACTS, MAX_CONTACT_BYTES))


def _pack_contacts(contacts: Sequence[Contact]) -> list[Value]:
    return [contact.pack() for contact in contacts[:MAX_CONTACTS]]


def _id(fields: Fields, key: int) -> int:
    return int.from_bytes(fields.octets(key, ID_BYTES, ID_BYTES), "big")


def _endpoint(fields: Fields, key: int) -> Endpoint | None:
    packed = fields.octets(key, 0, 18, b"")
    return Endpoint.parse(packed) if packed else None


def _pack_endpoint(endpoint: Endpoint | None) -> bytes:
    return b"" if endpoint is None else endpoint.pack()


def _coordinate(fields: Fields, key: int) -> Coordinate | None:
    packed = fields.octets(key, 0, COORDINATE_BYTES, b"")
    return Coordinate.parse(packed) if packed else None


def _pack_coordinate(key: int, coordinate: Coordinate | None) -> dict[int, Value]:
    return {} if coordinate is None else {key: coordinate.pack()}


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
        return {0: self.joined} | _pack_coordinate(1, self.coordinate)

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.flag(0), _coordinate(fields, 1))


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
        head: dict[int, Value] = {0: self.joined, 1: _pack_endpoint(self.observed), 2: self.hops}
        return head | _pack_coordinate(3, self.coordinate)

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.flag(0), _endpoint(fields, 1), fields.integer(2, 0, 255, 0), _coordinate(fields, 3))


def _pack_bare_pong(joined: bool, observed: Endpoint, hops: int) -> bytes:
    return pack(Pong(joined, observed, hops).fields())


def _read_message(kind: type[Message], body: bytes) -> Any:
    return kind.read(Fields.parse(body, kind.__name__))


_bare_pong = lru_cache(maxsize=REMEMBERED)(_pack_bare_pong)
# Refusals raise, and so aren't remembered.
_read_again = lru_cache(maxsize=REMEMBERED)(_read_message)


def remember(entries: int) -> None:
    """Remember so many pings and answers, for a process in which more nodes than usual live."""
    global _bare_pong, _read_again  # noqa: PLW0603
    _bare_pong = lru_cache(maxsize=entries)(_pack_bare_pong)
    _read_again = lru_cache(maxsize=entries)(_read_message)


@dataclass(frozen=True, slots=True)
class Find(Message):
    """Routed to the node nearest `target`, which answers Found."""

    CODE = 3
    target: int

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.target)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_id(fields, 0))


@dataclass(frozen=True, slots=True)
class FindFor(Find):
    """To a connected peer: send a Find for me, who may not be routable yet, and pass me what it says."""

    CODE = 5


@dataclass(frozen=True, slots=True)
class Found(Message):
    """The node nearest the target (first), its near neighbours, and how many hops the Find took."""

    CODE = 4
    contacts: tuple[Contact, ...]
    hops: int

    def fields(self) -> dict[int, Value]:
        return {0: _pack_contacts(self.contacts), 1: self.hops}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_contacts(fields, 0), fields.integer(1, 0, 255, 0))


@dataclass(frozen=True, slots=True)
class NeighborsRequest(Message):
    """Chord's stabilize: who are your neighbours, unless they are still those with this digest?"""

    CODE = 6
    digest: bytes

    def fields(self) -> dict[int, Value]:
        return {0: self.digest}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.octets(0, 0, 8, b""))


@dataclass(frozen=True, slots=True)
class Neighbors(Message):
    """The sender's own contact and its near lists, nearest first; Chord's notify when it is told, not asked."""

    CODE = 7
    joined: bool
    sender: Contact
    predecessors: tuple[Contact, ...]
    successors: tuple[Contact, ...]

    def fields(self) -> dict[int, Value]:
        return {
            0: self.joined,
            1: self.sender.pack(),
            2: _pack_contacts(self.predecessors),
            3: _pack_contacts(self.successors),
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        sender = Contact.parse(fields.octets(1, 1, MAX_CONTACT_BYTES))
        return cls(fields.flag(0), sender, _contacts(fields, 2), _contacts(fields, 3))


@dataclass(frozen=True, slots=True)
class Unchanged(Message):
    """Answers a NeighborsRequest whose digest still holds."""

    CODE = 8


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
class Suspect(Message):
    """The sender found this node dead; who has an edge to it should look for itself."""

    CODE = 11
    id: int

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.id)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_id(fields, 0))


@dataclass(frozen=True, slots=True)
class Unreachable(Message):
    """Back to the source of an envelope: nobody nearer to this id than the sender is known. `head` is the beginning
    of what could not be delivered: its session index shows that the sender saw it."""

    CODE = 12
    id: int
    head: bytes

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.id), 1: self.head}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_id(fields, 0), fields.octets(1, HEAD_BYTES, HEAD_BYTES))


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
        return {0: _pack_endpoint(self.endpoint)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_endpoint(fields, 0))


@dataclass(frozen=True, slots=True)
class Lapse(Message):
    """The sender gives up this edge, which neither end has shown to need; its session ends."""

    CODE = 15


@dataclass(frozen=True, slots=True)
class Store(Message):
    """Routed to the node nearest `point`: keep this record. `copy` asks it to pass one to its nearest neighbour."""

    CODE = 16
    point: int
    record: bytes
    copy: bool

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.point), 1: self.record, 2: self.copy}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_id(fields, 0), fields.octets(1, 1, MAX_RECORD_BYTES), fields.flag(2))


@dataclass(frozen=True, slots=True)
class Stored(Message):
    """What became of a Store: a `dht.store.Outcome` value, and the sequence held when that one is newer."""

    CODE = 17
    outcome: int
    sequence: int

    def fields(self) -> dict[int, Value]:
        return {0: self.outcome, 1: self.sequence}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.integer(0, 0, 255), fields.integer(1, 0, (1 << 64) - 1, 0))


@dataclass(frozen=True, slots=True)
class Fetch(Message):
    """Routed to the node nearest a replica point: which records live under this key?"""

    CODE = 18
    key: int

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.key)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_id(fields, 0))


@dataclass(frozen=True, slots=True)
class Fetched(Message):
    """The records asked for, newest first, at most MAX_RECORDS, and the hops the Fetch took."""

    CODE = 19
    records: tuple[bytes, ...]
    hops: int

    def fields(self) -> dict[int, Value]:
        return {0: list(self.records[:MAX_RECORDS]), 1: self.hops}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(tuple(fields.octets_list(0, MAX_RECORDS, MAX_RECORD_BYTES)), fields.integer(1, 0, 255, 0))


@dataclass(frozen=True, slots=True)
class TunnelRequest(Message):
    """Pass my datagrams on to this node and its to me; `dial`: make an edge to it if you have none."""

    CODE = 20
    target: Contact
    dial: bool

    def fields(self) -> dict[int, Value]:
        return {0: self.target.pack(), 1: self.dial}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(Contact.parse(fields.octets(0, 1, MAX_CONTACT_BYTES)), fields.flag(1))


@dataclass(frozen=True, slots=True)
class TunnelGranted(Message):
    """The tunnel is open under this label."""

    CODE = 21
    label: int

    def fields(self) -> dict[int, Value]:
        return {0: self.label}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.integer(0, 0, (1 << 32) - 1))


@dataclass(frozen=True, slots=True)
class TunnelRefused(Message):
    """No tunnel: a `dht.relay.Refusal` value."""

    CODE = 22
    reason: int

    def fields(self) -> dict[int, Value]:
        return {0: self.reason}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.integer(0, 0, 255))


@dataclass(frozen=True, slots=True)
class TunnelOffer(Message):
    """The sender, a relay, passes on to you under this label what `source` sends you, and back."""

    CODE = 23
    source: int
    label: int

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.source), 1: self.label}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_id(fields, 0), fields.integer(1, 0, (1 << 32) - 1))


@dataclass(frozen=True, slots=True)
class TunnelAccepted(Message):
    """Answers a TunnelOffer."""

    CODE = 24


@dataclass(frozen=True, slots=True)
class TunnelClosed(Message):
    """This tunnel is no more."""

    CODE = 25
    label: int

    def fields(self) -> dict[int, Value]:
        return {0: self.label}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.integer(0, 0, (1 << 32) - 1))


@dataclass(frozen=True, slots=True)
class FetchFor(Message):
    """To a connected peer: send a Fetch for this key to `point` for me, and pass me the Fetched."""

    CODE = 30
    point: int
    key: int

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.point), 1: id_bytes(self.key)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(_id(fields, 0), _id(fields, 1))


@dataclass(frozen=True, slots=True)
class StoreFor(Store):
    """To a connected peer: send this Store for me, and pass me the Stored."""

    CODE = 31
