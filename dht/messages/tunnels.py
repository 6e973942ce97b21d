"""How two ends and a relay agree on a tunnel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dht.contact import Contact
from dht.ids import id_bytes
from dht.messages.control import MAX_CONTACT_BYTES, Message, id_in
from dht.packing import Fields, Value


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
        return cls(id_in(fields, 0), fields.integer(1, 0, (1 << 32) - 1))


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
