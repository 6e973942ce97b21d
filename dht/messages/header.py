"""What stands before the body of every control message.

A control message travels inside a session (one hop) or inside a routed envelope (several hops). On the wire:

    code (2) | kind (1) | transaction (8) | body

`kind` says whether the message asks, answers or only tells. A code nobody registered is counted and ignored,
so that old and new nodes can share a ring.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from dht.errors import BadDatagram
from dht.messages.control import Message

_HEADER = Struct(">HBQ")
_HEADER_BYTES = _HEADER.size


class Kind(IntEnum):
    """What the sender of a control message expects."""

    TELL = 0
    ASK = 1
    ANSWER = 2


_KINDS = tuple(Kind)


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
    if len(data) < _HEADER_BYTES:
        raise BadDatagram(f"a control message has at least {_HEADER_BYTES} bytes, not {len(data)}")
    code, kind, transaction = _HEADER.unpack_from(data)
    if kind >= len(_KINDS):
        raise BadDatagram(f"no control message is of kind {kind}")
    return Control(code, _KINDS[kind], transaction, data[_HEADER_BYTES:])
