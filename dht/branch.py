"""One question at one node: what kind it is, where it stands in its tree, and what has become of it. Plain values.

`dht.aggregate` takes questions and gives answers, `dht.branching` hands them on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

from dht.arcs import Arc
from dht.branch_messages import Answer, Missing
from dht.host import Timer

A = TypeVar("A")
V = TypeVar("V")
UNFIT: Final = (OverflowError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class About:
    """Where a question stands when a member answers it: who asked (only said, not proven), who handed it on (None: this
    node asked), and after how many hops."""

    origin: int
    hop: int | None
    hops: int


@dataclass(frozen=True, slots=True)
class Kind(Generic[A, V]):
    """A kind of aggregate. All functions are called from the node's own events: they must be quick, and raise nothing
    but what is said here.

    `read(bytes, about)`: the argument, typed; raises BadDatagram, and then the question is neither answered nor handed
    on. `answer(argument, about)`: this member's answer, once it was handed on; None: it
    counts as reached, and says nothing. `pack` and `parse` are each other's inverse, at most MAX_VALUE_BYTES, `parse`
    raises BadDatagram. `reduce(a, b)`: two answers as one, in any order and grouping; without it, all are collected.
    Answers may be lies: where two don't go into one, `reduce` and `pack` raise one of UNFIT, and a hole says so."""

    name: str
    read: Callable[[bytes, About], A]
    answer: Callable[[A, About], V | None]
    pack: Callable[[V], bytes]
    parse: Callable[[bytes], V]
    reduce: Callable[[V, V], V] | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[V]):
    """What a question came to. `value`: what the answers were reduced to, None if there were none; `answers`: those
    collected, by node id; `reached`: how many members answered, this node included; `missing`: who did not;
    `complete`: nobody is known to be missing; `overflowed`: answers beyond MAX_ANSWERS, not kept."""

    value: V | None
    answers: Mapping[int, V]
    reached: int
    missing: tuple[Missing, ...]
    overflowed: int = 0

    @property
    def complete(self) -> bool:
        return not self.missing and not self.overflowed


class Child:
    """A part of the ring that was handed to somebody."""

    __slots__ = ("arc", "branch", "held", "id", "label", "taken", "told")

    def __init__(self, branch: Branch, node_id: int, arc: Arc, label: int) -> None:
        self.branch, self.id, self.arc, self.label = branch, node_id, arc, label
        self.taken = False
        self.told: set[int] = set()  # indices of the pieces that came
        self.held: set[int] = set()  # of those not yet confirmed, for want of room


class Up(Protocol):
    """Where a branch's answers go: to the parent, or to who asked."""

    def when_room(self, then: Callable[[], None]) -> None: ...

    def add(self, entry: Answer | Missing) -> None: ...

    def end(self, reached: int, value: bytes) -> None: ...

    def stop(self) -> None: ...


@dataclass(slots=True, eq=False)
class Branch:
    """One question at this node."""

    kind: Kind[Any, Any]
    argument: bytes
    read: Any  # the argument, typed
    about: About
    deadline: float
    up: Up
    value: Any = None
    reached: int = 0
    ended: bool = False
    over: bool = False  # the parent has all of it, or is gone
    handed_on: int = 0
    children: dict[int, Child] = field(default_factory=dict)  # by label
    sought: list[Arc] = field(default_factory=list)  # parts for which somebody is being looked for
    avoid: set[int] = field(default_factory=set)  # whom to ask no more
    named: set[int] = field(default_factory=set)  # who may be missing, and was not asked
    timers: dict[str, Timer] = field(default_factory=dict)

    def later(self, name: str, timer: Timer) -> None:
        """Keep the timer that is called `name`, to be cancelled with the branch."""
        self.timers[name] = timer
