"""Looking for somebody in a part of the ring in which one knows nobody: found, empty, or nobody could say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from dht.arcs import CIRCLE, Arc, place_of
from dht.contact import Contact
from dht.edge import Edge
from dht.messages import FindFor, Found
from dht.seeking import MAX_ROUNDS, MAX_TRIED, Nobody, Search
from sims.engine import HostState
from tests.tree_double import EdgeDouble, MemberDouble, TreeWorld

LIMIT_S = 40.0


class Sought:
    """One search of one member, from `helpers` (all its edges unless some are named)."""

    def __init__(self, world: TreeWorld, member: MemberDouble, region: Arc, helpers: Sequence[Edge] | None = None):
        self.results: list[Edge | Nobody] = []
        self.silent: list[int] = []
        self.avoid: set[int] = set()
        known = member.edges() if helpers is None else helpers
        helpers = [edge for edge in known if not region.holds(place_of(edge.id))]
        for edge in member.edges():
            if edge not in helpers:
                del member.known[edge.id]
        search = Search(
            member.host, member, region, helpers, self.avoid, lambda: False, self.silent.append, self.results.append
        )
        search.begin()
        world.engine.run_until(lambda: bool(self.results), limit_s=LIMIT_S)
        world.engine.run_for(10)
        assert len(self.results) == 1


def around(world: TreeWorld, first: int, last: int) -> Arc:
    """From just behind one member of the ring, by its number, to just before another."""
    ordered = world.ordered
    return Arc((place_of(ordered[first]) + 1) % CIRCLE, place_of(ordered[last % len(ordered)]))


@pytest.mark.parametrize("seed", range(3))
def test_somebody_is_found_in_short_parts_and_in_long_ones(seed: int) -> None:
    for count in (2, 3, 40):
        world = TreeWorld(100, seed)
        region = around(world, 50, 50 + count)
        (found,) = Sought(world, world.members[world.ordered[0]], region).results
        assert not isinstance(found, Nobody) and region.holds(place_of(found.id)), f"seed {seed}, {count}"


@pytest.mark.parametrize("seed", range(3))
def test_a_part_without_anybody_is_empty(seed: int) -> None:
    world = TreeWorld(100, seed)
    sought = Sought(world, world.members[world.ordered[0]], around(world, 50, 51))
    assert sought.results == [Nobody.EMPTY] and sought.silent == [], f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_of_a_part_with_the_dead_alone_all_are_named_and_beside_the_living_none_is_waited_for(seed: int) -> None:
    world = TreeWorld(100, seed)
    dead = world.ordered[51:54]
    for node_id in dead:
        world.members[node_id].host.halt(HostState.FROZEN)
    sought = Sought(world, world.members[world.ordered[0]], around(world, 50, 54))
    assert sought.results == [Nobody.EMPTY] and sorted(sought.silent) == sorted(dead), f"seed {seed}"
    assert sought.avoid == set(dead)
    (found,) = Sought(world, world.members[world.ordered[5]], around(world, 49, 54)).results
    assert not isinstance(found, Nobody) and found.id == world.ordered[50], f"seed {seed}"


def test_who_has_nobody_to_ask_is_told_so_at_once() -> None:
    world = TreeWorld(20, 4)
    assert Sought(world, world.members[world.ordered[0]], around(world, 10, 12), helpers=[]).results == [
        Nobody.UNREACHED
    ]


def test_a_liar_that_names_members_without_end_makes_a_bounded_number_of_edges_be_sought() -> None:
    world = TreeWorld(20, 5)
    asker = world.members[world.ordered[0]]
    liar = world.members[world.ordered[9]]
    region = around(world, 9, 10)
    rng = world.engine.rng

    def lie(incoming: object, message: FindFor) -> Found:
        places = [(region.low + rng.randrange(0, region.length)) % CIRCLE for _ in range(11)]
        return Found(tuple(Contact(place << 96, bytes(32), ()) for place in places), 1)

    for member in world.all():
        member.exchange.handle(FindFor, None, lie)
    asked: list[int] = []

    def link(contact: Contact, done: Callable[[Edge | None], None]) -> None:
        asked.append(contact.id)
        asker.host.call_later(0.1, lambda: done(None))

    asker.link = link  # type: ignore[method-assign]
    sought = Sought(world, asker, region, helpers=[EdgeDouble(asker, liar)])
    assert sought.results == [Nobody.UNREACHED]
    assert 0 < len(asked) <= MAX_ROUNDS * MAX_TRIED
