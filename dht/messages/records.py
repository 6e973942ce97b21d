"""How records get to the nodes that keep them, and from there to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dht.ids import id_bytes
from dht.messages.control import Message, id_in
from dht.packing import Fields, Value

MAX_RECORD_BYTES = 2048
MAX_RECORDS = 3


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
        return cls(id_in(fields, 0), fields.octets(1, 1, MAX_RECORD_BYTES), fields.flag(2))


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
        return cls(id_in(fields, 0))


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
class FetchFor(Message):
    """To a connected peer: send a Fetch for this key to `point` for me, and pass me the Fetched."""

    CODE = 30
    point: int
    key: int

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.point), 1: id_bytes(self.key)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(id_in(fields, 0), id_in(fields, 1))


@dataclass(frozen=True, slots=True)
class StoreFor(Store):
    """To a connected peer: send this Store for me, and pass me the Stored."""

    CODE = 31
