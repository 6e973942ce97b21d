"""The arithmetic of dividing the ring."""

from __future__ import annotations

from random import Random

import pytest

from dht.arcs import CIRCLE, Arc, around, divide, without


def test_an_arc_holds_its_low_end_and_not_its_high_end_also_over_the_top() -> None:
    assert Arc(10, 20).holds(10) and not Arc(10, 20).holds(20)
    over = Arc(CIRCLE - 5, 5)
    assert over.holds(CIRCLE - 1) and over.holds(0) and not over.holds(5)
    assert over.length == 10
    assert Arc(7, 7).length == CIRCLE


def test_an_arc_covers_what_lies_in_it_whole_also_over_the_top() -> None:
    over = Arc(CIRCLE - 5, 5)
    assert over.covers(over) and over.covers(Arc(CIRCLE - 1, 3)) and over.covers(Arc(4, 5))
    assert not over.covers(Arc(4, 6)) and not over.covers(Arc(CIRCLE - 6, 0)) and not over.covers(Arc(0, 0))
    assert not over.covers(Arc(4, CIRCLE - 4)), "around the other way"
    assert Arc(7, 7).covers(Arc(7, 7)) and Arc(7, 7).covers(over)


def test_without_leaves_no_empty_arcs() -> None:
    assert without(Arc(10, 20), 10) == [Arc(11, 20)]
    assert without(Arc(10, 20), 19) == [Arc(10, 19)]
    assert without(Arc(10, 20), 15) == [Arc(10, 15), Arc(16, 20)]
    assert without(Arc(10, 11), 10) == []


@pytest.mark.parametrize("seed", range(30))
def test_parts_cover_every_region_with_members_once_and_hold_their_own_member(seed: int) -> None:
    rng = Random(seed)
    me = rng.getrandbits(64)
    regions = around(me)
    if seed % 3:
        low, high = (me - rng.getrandbits(62)) % CIRCLE, (me + 1 + rng.getrandbits(62)) % CIRCLE
        regions = without(Arc(low, high), me)
    members = [(place, place) for place in {rng.getrandbits(64) for _ in range(rng.randrange(1, 60))}]
    most = rng.randrange(2, 12)
    parts = divide(regions, members, most)
    standing = [place for place, _ in members if any(region.holds(place) for region in regions)]
    assert len(parts) == min(len(standing), max(most, 2)) or len(parts) <= len(regions), f"seed {seed}"
    for place, part in parts:
        assert part.holds(place) and not part.holds(me), f"seed {seed}"
    lengths = [part.length for _, part in parts]
    assert lengths == sorted(lengths, reverse=True)
    for region in regions:
        inside = [part for _, part in parts if region.holds(part.low)]
        occupied = any(region.holds(place) for place, _ in members)
        assert sum(part.length for part in inside) == (region.length if occupied else 0), f"seed {seed}"
    for place in standing:
        assert sum(part.holds(place) for _, part in parts) == 1, f"seed {seed}"


def test_who_is_left_out_lies_where_parts_are_smallest() -> None:
    parts = divide([Arc(0, 1000)], [(10, "a"), (12, "b"), (500, "c"), (900, "d")], 3)
    assert {name for name, _ in parts} in ({"a", "c", "d"}, {"b", "c", "d"})
