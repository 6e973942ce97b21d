"""What the nodes of a tree tell each other: a question with its part of the ring downwards, answers in pieces upwards.

    parent -> Ask (label, part, time left) -> child          child -> Asked: taken, unknown or busy
    child -> Piece (label, index, entries) -> parent         parent -> PieceTaken: send more

The parent draws the label; it names this one branch of the tree in everything that the child sends. An entry of a piece
is one member's answer, or one hole in the tree. Never sends anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple, Self

from dht.arcs import CIRCLE, Arc
from dht.errors import BadDatagram
from dht.ids import ID_BYTES, id_bytes
from dht.messages import Message
from dht.packing import Fields, Value

MAX_HOPS: Final = 40
MAX_KIND_CHARS: Final = 64
MAX_ARGUMENT_BYTES: Final = 4096
MAX_VALUE_BYTES: Final = 4096  # of one member's answer, and of what several were reduced to
MAX_ENTRIES: Final = 128
MAX_BUDGET_MS: Final = 600_000
MAX_REACHED: Final = 1 << 32
_HOLE = Struct(f">{ID_BYTES}sQQB")


class Verdict(IntEnum):
    """What a child makes of an Ask."""

    TAKEN = 0
    UNKNOWN = 1  # it knows no such kind of aggregate
    BUSY = 2


class Reason(IntEnum):
    """Why part of a tree gave no answer.

    The first five are one member's own: its part was given to others. For the others all of the part may be missing."""

    SILENT = 0  # it did not confirm the question
    DIED = 1  # it confirmed, and then fell silent
    UNKNOWN = 2  # it does not know this kind of aggregate
    BUSY = 3
    SUSPECT = 4  # it was silent before, and was not asked
    LATE = 5  # no answer by the deadline
    CUT = 6  # no time was left to ask
    UNREACHED = 7  # nobody was found there who could be asked
    GARBLED = 8  # its answer could not be read
    TOO_LARGE = 9  # what it had to say, or its part's answers as one, was longer than MAX_VALUE_BYTES, or in no form


ALONE: Final = frozenset({Reason.SILENT, Reason.DIED, Reason.UNKNOWN, Reason.BUSY, Reason.SUSPECT})


class Missing(NamedTuple):
    """A hole in a tree: who was to answer (None: nobody was found), for which part of the ring, and why it did not."""

    id: int | None
    arc: Arc
    reason: Reason

    @property
    def alone(self) -> bool:
        """Whether only this one member is missing: the rest of its part was given to others."""
        return self.reason in ALONE

    def pack(self) -> bytes:
        return _HOLE.pack(id_bytes(self.id or 0), *self.arc, self.reason)

    @classmethod
    def parse(cls, packed: bytes) -> Missing:
        """The inverse of `pack`. Raises BadDatagram."""
        if len(packed) != _HOLE.size:
            raise BadDatagram(f"a hole in a tree takes {_HOLE.size} bytes, not {len(packed)}")
        node_id, low, high, reason = _HOLE.unpack(packed)
        if reason > max(Reason):
            raise BadDatagram(f"no hole in a tree has reason {reason}")
        return cls(int.from_bytes(node_id, "big") or None, Arc(low, high), Reason(reason))


class Answer(NamedTuple):
    """One member's answer, as it was encoded."""

    id: int
    value: bytes

    def pack(self) -> bytes:
        return id_bytes(self.id) + self.value

    @classmethod
    def parse(cls, packed: bytes) -> Answer:
        """The inverse of `pack`. Raises BadDatagram."""
        if len(packed) < ID_BYTES:
            raise BadDatagram("a member's answer without its id")
        return cls(int.from_bytes(packed[:ID_BYTES], "big"), packed[ID_BYTES:])


@dataclass(frozen=True, slots=True)
class Ask(Message):
    """Answer this, and have it answered by everybody in this part of the ring, within so many milliseconds."""

    CODE = 56
    label: int
    origin: int
    arc: Arc
    hops: int
    budget_ms: int
    kind: str
    argument: bytes

    def fields(self) -> dict[int, Value]:
        return {
            0: self.label,
            1: id_bytes(self.origin),
            2: self.arc.low,
            3: self.arc.high,
            4: self.hops,
            5: self.budget_ms,
            6: self.kind,
            7: self.argument,
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            fields.integer(0, 0, CIRCLE - 1),
            int.from_bytes(fields.octets(1, ID_BYTES, ID_BYTES), "big"),
            Arc(fields.integer(2, 0, CIRCLE - 1), fields.integer(3, 0, CIRCLE - 1)),
            fields.integer(4, 1, MAX_HOPS),
            fields.integer(5, 1, MAX_BUDGET_MS),
            fields.text(6, MAX_KIND_CHARS),
            fields.octets(7, 0, MAX_ARGUMENT_BYTES),
        )


@dataclass(frozen=True, slots=True)
class Asked(Message):
    """Answers an Ask at once: whether pieces will follow."""

    CODE = 57
    verdict: Verdict

    def fields(self) -> dict[int, Value]:
        return {0: int(self.verdict)}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(Verdict(fields.integer(0, 0, max(Verdict))))


@dataclass(frozen=True, slots=True)
class Piece(Message):
    """Part of a branch's answer: members' answers and holes. The last piece says how many members answered in all, and
    what their answers were reduced to, if they were; it is sent when all others have been taken."""

    CODE = 58
    label: int
    index: int
    answers: tuple[Answer, ...] = ()
    holes: tuple[Missing, ...] = ()
    last: bool = False
    reached: int = 0
    value: bytes = b""

    def fields(self) -> dict[int, Value]:
        return {
            0: self.label,
            1: self.index,
            2: [answer.pack() for answer in self.answers],
            3: [hole.pack() for hole in self.holes],
            4: self.last,
            5: self.reached,
            6: self.value,
        }

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            fields.integer(0, 0, CIRCLE - 1),
            fields.integer(1, 0, (1 << 32) - 1),
            tuple(map(Answer.parse, fields.octets_list(2, MAX_ENTRIES, ID_BYTES + MAX_VALUE_BYTES))),
            tuple(map(Missing.parse, fields.octets_list(3, MAX_ENTRIES, _HOLE.size))),
            fields.flag(4),
            fields.integer(5, 0, MAX_REACHED),
            fields.octets(6, 0, MAX_VALUE_BYTES),
        )


@dataclass(frozen=True, slots=True)
class PieceTaken(Message):
    """Answers a Piece, when there is room for more."""

    CODE = 59
