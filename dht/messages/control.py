"""What the body of a control message is, and the shapes that several bodies have: packed maps with small integer keys.

What stands before it is `dht.messages.header`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Self

from dht.contact import Contact
from dht.coordinate import COORDINATE_BYTES, Coordinate
from dht.host import Endpoint
from dht.ids import ID_BYTES
from dht.packing import Fields, Value, pack

MAX_CONTACTS = 16
MAX_CONTACT_BYTES = 180
REMEMBERED = 4096  # bodies of messages that say the same for hours, once read
FIRST_APPLICATION_CODE = 1024


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


def _read_message(kind: type[Message], body: bytes) -> Any:
    return kind.read(Fields.parse(body, kind.__name__))


# Refusals raise, and so aren't remembered.
_read_again = lru_cache(maxsize=REMEMBERED)(_read_message)


def remember_read(entries: int) -> None:
    """Remember so many bodies, for a process in which more nodes than usual live."""
    global _read_again  # noqa: PLW0603
    _read_again = lru_cache(maxsize=entries)(_read_message)


def contacts_in(fields: Fields, key: int) -> tuple[Contact, ...]:
    return tuple(Contact.parse(packed) for packed in fields.octets_list(key, MAX_CONTACTS, MAX_CONTACT_BYTES))


def packed_contacts(contacts: Sequence[Contact]) -> list[Value]:
    return [contact.pack() for contact in contacts[:MAX_CONTACTS]]


def id_in(fields: Fields, key: int) -> int:
    return int.from_bytes(fields.octets(key, ID_BYTES, ID_BYTES), "big")


def endpoint_in(fields: Fields, key: int) -> Endpoint | None:
    packed = fields.octets(key, 0, 18, b"")
    return Endpoint.parse(packed) if packed else None


def packed_endpoint(endpoint: Endpoint | None) -> bytes:
    return b"" if endpoint is None else endpoint.pack()


def coordinate_in(fields: Fields, key: int) -> Coordinate | None:
    packed = fields.octets(key, 0, COORDINATE_BYTES, b"")
    return Coordinate.parse(packed) if packed else None


def packed_coordinate(key: int, coordinate: Coordinate | None) -> dict[int, Value]:
    return {} if coordinate is None else {key: coordinate.pack()}
