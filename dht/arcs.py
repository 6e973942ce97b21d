"""Dividing the ring among the members one knows: the arithmetic of bounded broadcasts. Pure: no clock, no I/O.

A node that holds an arc around its own place gives every part of it to one of its edges there: to the left and to the
right of itself, cut half-way between neighbours. So an edge reaches both ways from where it stands, and a tree is about
half as deep as one whose parts begin at their edge. Whoever lies between this node and its first edge belongs to that
edge, which knows its own neighbours: a member that joined a moment ago is known to its successor first.

Places are the first 64 bits of ids, so that headers stay short. Ids are drawn at random; two of a network that share 64
bits are not to be expected, and one of them would be passed over.
Source: bounded broadcast in Brunet (Boykin et al., "A symphony conducted by Brunet", 2007; Lee et al. on bounded
broadcasts, 2009), where parts begin at their edge; the cuts half-way are ours.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from dht.ids import BITS

PLACE_BITS: Final = 64
CIRCLE: Final = 1 << PLACE_BITS
FEWEST_CHILDREN: Final = 2  # one a side

T = TypeVar("T")


class Arc(NamedTuple):
    """The places from `low` on, clockwise, before `high`; all of them when the two are equal."""

    low: int
    high: int

    @property
    def length(self) -> int:
        return (self.high - self.low) % CIRCLE or CIRCLE

    def holds(self, place: int) -> bool:
        return (place - self.low) % CIRCLE < self.length

    def covers(self, other: Arc) -> bool:
        """Whether all of another arc lies in this one."""
        return (other.low - self.low) % CIRCLE + other.length <= self.length


def place_of(node_id: int) -> int:
    """Where a node stands."""
    return node_id >> (BITS - PLACE_BITS)


def without(arc: Arc, place: int) -> list[Arc]:
    """What lies before and behind `place`, which the arc holds: two arcs, one or none."""
    before, behind = (place - arc.low) % CIRCLE, arc.length - (place - arc.low) % CIRCLE - 1
    parts = []
    if before:
        parts.append(Arc(arc.low, place))
    if behind:
        parts.append(Arc((place + 1) % CIRCLE, arc.high))
    return parts


def around(place: int) -> list[Arc]:
    """The whole circle as it looks from a node that stands at `place`: everything but itself."""
    return [Arc((place + 1) % CIRCLE, place)]


def divide(regions: Sequence[Arc], members: Sequence[tuple[int, T]], most: int) -> list[tuple[T, Arc]]:
    """Cut `regions`, which don't overlap, among those `members` (place, what) that stand in them, the largest part
    first. Every place of a region in which anybody stands goes to exactly one member, who stands in its part; a region
    in which nobody stands goes to nobody.

    At most `most` members are used (more where there are more regions): those are left out whose absence makes the
    parts least unequal, so that depth hardly suffers."""
    standing: list[list[tuple[int, int]]] = [[] for _ in regions]  # offset in the region, index into members
    for index, (place, _) in enumerate(members):
        for region, inside in zip(regions, standing, strict=True):
            offset = (place - region.low) % CIRCLE
            if offset < region.length:
                insort(inside, (offset, index))
                break
    for inside in standing:
        inside[:] = [each for at, each in enumerate(inside) if at == 0 or each[0] != inside[at - 1][0]]
    used = sum(map(len, standing))
    while used > max(most, FEWEST_CHILDREN) and any(len(inside) > 1 for inside in standing):
        _leave_one_out(regions, standing)
        used -= 1
    parts: list[tuple[T, Arc]] = []
    for region, inside in zip(regions, standing, strict=True):
        start = 0
        for at, (offset, index) in enumerate(inside):
            end = region.length if at + 1 == len(inside) else (offset + inside[at + 1][0] + 1) // 2
            part = Arc((region.low + start) % CIRCLE, (region.low + end) % CIRCLE)
            parts.append((members[index][1], part))
            start = end
    parts.sort(key=lambda part: -part[1].length)
    return parts


def _leave_one_out(regions: Sequence[Arc], standing: list[list[tuple[int, int]]]) -> None:
    """Drop the member between whose neighbours there is the least room."""
    least: tuple[int, int, int] | None = None
    for number, (region, inside) in enumerate(zip(regions, standing, strict=True)):
        if len(inside) < 2:
            continue
        for at in range(len(inside)):
            before = inside[at - 1][0] if at else 0
            behind = inside[at + 1][0] if at + 1 < len(inside) else region.length
            if least is None or behind - before < least[0]:
                least = (behind - before, number, at)
    assert least is not None
    del standing[least[1]][least[2]]
