"""A node's near lists, and the four ways they may change. Pure: no clock, no I/O.

Chord as Zave corrected it ("Reasoning about identifier spaces: how to make Chord correct", TSE 43(12), 2017): a
ring stays whole if every member has a live successor in its list and no list skips a *principal* member. Hence the
rules here: a list's tail comes from the successor's own list only; a live member may be put between two entries,
never behind the last; dead entries leave. The predecessors' list mirrors it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dht.ids import RING, clockwise

NEAR = 5  # entries a list; with 10 % of nodes gone at once, a list dies whole in one of 100,000 nodes


class NearLists:
    """The ids of the nearest members on either side, nearest first."""

    __slots__ = ("length", "me", "predecessors", "successors", "version")

    def __init__(self, me: int, length: int = NEAR) -> None:
        self.me = me
        self.length = length
        self.successors: list[int] = []
        self.predecessors: list[int] = []
        self.version = 0  # grows with every change

    @property
    def alone(self) -> bool:
        """Whether this is a ring of one as far as the node knows."""
        return not self.successors and not self.predecessors

    def __contains__(self, node_id: int) -> bool:
        return node_id in self.successors or node_id in self.predecessors

    def members(self) -> list[int]:
        """Every id of both lists, once."""
        return list(dict.fromkeys((*self.successors, *self.predecessors)))

    def adjacent(self) -> tuple[int, ...]:
        """The immediate successor and predecessor; one id when they are the same node."""
        if not self.successors or not self.predecessors:
            return (*self.successors[:1], *self.predecessors[:1])
        after, before = self.successors[0], self.predecessors[0]
        return (after,) if after == before else (after, before)

    def takes(self, node_id: int) -> bool:
        """Whether `insert` would change a list."""
        return node_id != self.me and (
            self._place(self.successors, node_id, 1) is not None
            or self._place(self.predecessors, node_id, -1) is not None
        )

    def insert(self, node_id: int) -> bool:
        """Put a live member between two entries, or before the first. True when a list changed."""
        if node_id == self.me:
            return False
        changed = False
        # Both places before either insertion: in a ring of one, a first member goes on both sides.
        places = [self._place(self.successors, node_id, 1), self._place(self.predecessors, node_id, -1)]
        for entries, place in zip((self.successors, self.predecessors), places, strict=True):
            if place is not None:
                entries.insert(place, node_id)
                del entries[self.length :]
                self.version += 1
                changed = True
        return changed

    def follow_successor(self, tail: Iterable[int]) -> bool:
        """Take over the list of the immediate successor behind it. True when the own list changed."""
        self.successors, changed = self._follow(self.successors, tail, 1)
        return changed

    def follow_predecessor(self, tail: Iterable[int]) -> bool:
        """The mirror image of `follow_successor`."""
        self.predecessors, changed = self._follow(self.predecessors, tail, -1)
        return changed

    def join(self, successors: Sequence[int], predecessors: Sequence[int]) -> None:
        """Begin as a member between a successor, with its list, and the predecessor it had."""
        self.successors = self._ordered(successors, 1)
        self.predecessors = self._ordered(predecessors, -1)
        self.version += 1

    def remove(self, node_id: int) -> bool:
        """Drop a dead or leaving node. True when a list changed."""
        before = len(self.successors) + len(self.predecessors)
        self.successors = [entry for entry in self.successors if entry != node_id]
        self.predecessors = [entry for entry in self.predecessors if entry != node_id]
        changed = len(self.successors) + len(self.predecessors) != before
        self.version += changed
        return changed

    def size_estimate(self) -> int:
        """How many nodes the ring has, from how densely the near lists lie; exact while they overlap."""
        members = self.members()
        if len(members) < 2 * self.length:
            return len(members) + 1
        span = clockwise(self.predecessors[-1], self.successors[-1])
        return max(len(members) + 1, round(len(members) * (1 << 160) / span))

    def _away(self, node_id: int, direction: int) -> int:
        return clockwise(self.me, node_id) if direction > 0 else clockwise(node_id, self.me)

    def _place(self, entries: Sequence[int], node_id: int, direction: int) -> int | None:
        if node_id in entries:
            return None
        if not entries:
            return 0 if self.alone else None
        me = self.me
        away = (node_id - me) * direction % RING
        for place, entry in enumerate(entries):
            if away < (entry - me) * direction % RING:
                return place
        return None

    def _follow(self, entries: list[int], tail: Iterable[int], direction: int) -> tuple[list[int], bool]:
        if not entries:
            return entries, False
        followed = self._ordered([entries[0], *tail], direction)
        self.version += followed != entries
        return followed, followed != entries

    def _ordered(self, entries: Iterable[int], direction: int) -> list[int]:
        # A list that runs past ourselves has gone round the whole ring: it ends there.
        ordered: list[int] = []
        last = 0
        for entry in entries:
            away = self._away(entry, direction)
            if away <= last:
                break
            ordered.append(entry)
            last = away
        return ordered[: self.length]
