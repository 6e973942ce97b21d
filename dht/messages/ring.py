"""What members of a ring ask and tell each other to find their places and keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dht.contact import Contact
from dht.ids import id_bytes
from dht.messages.control import MAX_CONTACT_BYTES, Message, contacts_in, id_in, packed_contacts
from dht.packing import Fields, Value

HEAD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Find(Message):
    """Routed to the node nearest `target`, which answers Found."""

    CODE = 3
    target: int

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.target)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(id_in(fields, 0))


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
        return {0: packed_contacts(self.contacts), 1: self.hops}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(contacts_in(fields, 0), fields.integer(1, 0, 255, 0))


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
            2: packed_contacts(self.predecessors),
            3: packed_contacts(self.successors),
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        sender = Contact.parse(fields.octets(1, 1, MAX_CONTACT_BYTES))
        return cls(fields.flag(0), sender, contacts_in(fields, 2), contacts_in(fields, 3))


@dataclass(frozen=True, slots=True)
class Unchanged(Message):
    """Answers a NeighborsRequest whose digest still holds."""

    CODE = 8


@dataclass(frozen=True, slots=True)
class Suspect(Message):
    """The sender found this node dead; who has an edge to it should look for itself."""

    CODE = 11
    id: int

    def fields(self) -> dict[int, Value]:
        return {0: id_bytes(self.id)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(id_in(fields, 0))


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
        return cls(id_in(fields, 0), fields.octets(1, HEAD_BYTES, HEAD_BYTES))
