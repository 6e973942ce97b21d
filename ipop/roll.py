"""Who is in a group: every member is asked along the group's tree, and says how deep in it that is.

An aggregate (`dht.aggregate`) on every group's ring. What a member says of itself it may invent; who it is was proven
to its neighbours only. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dht.aggregate import About, Kind, Outcome
from dht.errors import BadDatagram
from dht.groups.subring import Subring
from dht.host import Host
from dht.node import Node
from dht.packing import Fields, pack

DEADLINE_S: Final = 3.0
GRACE_S: Final = 0.2
MAX_NAME_CHARS: Final = 63
MAX_HOPS: Final = 64


@dataclass(frozen=True, slots=True)
class Present:
    """One member's answer. `wants`: for the ring of a busy multicast group, whether hosts there want it."""

    name: str
    hops: int
    wants: bool

    def pack(self) -> bytes:
        return pack({0: self.name, 1: self.hops, 2: self.wants})

    @classmethod
    def parse(cls, packed: bytes) -> Present:
        """The inverse of `pack`. Raises BadDatagram."""
        fields = Fields.parse(packed, "roll call")
        return cls(fields.text(0, MAX_NAME_CHARS), fields.integer(1, 0, MAX_HOPS), fields.flag(2))


class RollCall:
    """Answers in every group of `node`, and asks. `wants(ring name)`: whether hosts here want what goes along it."""

    def __init__(self, host: Host, node: Node, wants: Callable[[str], bool]) -> None:
        self._host, self._node, self._wants = host, node, wants
        self._kinds: dict[Subring, Kind[None, Present]] = {}
        node.groups.made = self._made

    def ask(self, subring: Subring, done: Callable[[Outcome[Present] | None], None]) -> None:
        """Calls `done` once with who answered within DEADLINE_S; with None where this node has no place yet, or leaves
        the group meanwhile."""
        if not subring.ring.joined:
            done(None)
            return
        waiting = True

        def once(outcome: Outcome[Present] | None) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                done(outcome)

        subring.ring.aggregates.ask(self._kinds[subring], b"", DEADLINE_S, once)
        self._host.call_later(DEADLINE_S + GRACE_S, lambda: once(None))  # a ring that is left tells nobody

    def _made(self, subring: Subring) -> None:
        present = set(self._node.groups.all())
        self._kinds = {each: kind for each, kind in self._kinds.items() if each in present}

        def answer(_: None, about: About) -> Present:
            return Present(self._node.identity.member.name, about.hops, self._wants(subring.name))

        kind = self._kinds[subring] = Kind("roll", _nothing, answer, Present.pack, Present.parse)
        subring.ring.aggregates.register(kind)


def _nothing(argument: bytes, about: About) -> None:
    if argument:
        raise BadDatagram("a roll call takes no argument")
