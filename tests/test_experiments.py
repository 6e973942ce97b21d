"""What the experiments' probes see: right rings, wrong rings, hostile members, and messages by their type."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from dht.envelope import Content, Envelope, Inner, Mode
from dht.messages import Fetch, Kind, Leave, Ping, pack_control
from dht.ring import NEAR
from shortcuts.messages import Offer
from sims.attack import Attack, turn
from sims.engine import Engine
from sims.experiments.lookups import honest, nearest
from sims.experiments.paths import trail, trail_ms
from sims.experiments.ring import consistency, invariants
from sims.experiments.traffic import message_type
from sims.latency import Constant
from sims.network import Network
from sims.world import World
from tests.identities import START_S, make_identities


def grown(nodes: int, seed: int) -> World:
    engine = Engine(seed)
    world = World(engine, Network(engine, Constant(50.0)), make_identities(nodes, seed, now=START_S))
    world.grow(nodes, gap_s=0.05)
    engine.run_for(5)
    return world


def ring_of(members: Sequence[int], length: int = 2) -> dict[int, list[int]]:
    count = len(members)
    return {
        member: [members[(place + step) % count] for step in range(1, min(length, count - 1) + 1)]
        for place, member in enumerate(members)
    }


def slow_invariants(successors: dict[int, list[int]]) -> tuple[int, int]:
    """By the definition: a member is principal when no member's list jumps over it."""
    around = max(successors) + 1
    skipped = set()
    for member, entries in successors.items():
        last = 0
        for entry in entries:
            away = (entry - member) % around or around
            skipped |= {other for other in successors if last < (other - member) % around < away}
            last = away
    cut_off = sum(not any(entry in successors for entry in entries) for entries in successors.values())
    return cut_off, len(successors) - len(skipped)


def test_in_a_right_ring_everybody_is_principal_and_nobody_cut_off() -> None:
    assert invariants(ring_of([3, 10, 20, 40, 80])) == (0, 5)
    assert invariants(ring_of([3, 10])) == (0, 2)


def test_who_is_left_out_of_one_list_is_not_principal_and_dead_lists_cut_off() -> None:
    ring = ring_of([3, 10, 20, 40, 80])
    ring[10] = [40, 80]  # skips 20
    assert invariants(ring) == (0, 4)
    ring[80] = [90, 95]  # both dead, behind the last id: nobody skipped, nobody there
    assert invariants(ring) == (1, 4)
    ring[80] = [15, 20]  # over the top: skips 3 and 10, and a dead entry lies between
    assert invariants(ring) == (0, 2)


@pytest.mark.parametrize("seed", range(20))
def test_skipping_is_counted_as_the_definition_says(seed: int) -> None:
    rng = Random(seed)
    members = sorted(rng.sample(range(1000), 12))
    ring = ring_of(members, 3)
    for member in rng.sample(members, 5):
        entries = rng.sample([each for each in range(1000) if each != member], 3)
        ring[member] = sorted(entries, key=lambda entry: (entry - member) % 1000)
    ring[max(members)] = ring[max(members)][:1]
    # The definition above takes ids modulo one more than the largest: give it the same circle.
    ring_and_end = {**ring, 999: [members[0]]} if 999 not in ring else ring
    assert invariants(ring_and_end) == slow_invariants(ring_and_end), f"seed {seed}"


def test_consistency_is_the_share_of_right_left_neighbours() -> None:
    world = grown(12, 1)
    assert consistency(world.nodes) == 1.0
    assert consistency(world.nodes[:1]) == 1.0
    gone = world.nodes[5]
    world.crash(gone)
    # Before anybody notices: one node has a wrong first and second, the next a wrong second.
    assert consistency(world.nodes) == pytest.approx(1 - 3 / (2 * 11))
    assert len(world.nodes[0].ring_view().predecessors) == NEAR


def test_a_trail_is_followed_from_edge_to_edge_and_ends_where_a_member_is_gone() -> None:
    world = grown(30, 2)
    nodes = {node.id: node for node in world.nodes}
    one, other = world.nodes[3], world.nodes[17]
    passed = trail(nodes, one, other)
    assert passed is not None
    assert (passed[0], passed[-1]) == (one.id, other.id)
    assert trail_ms(world, passed) == pytest.approx(25.0 * (len(passed) - 1))
    del nodes[other.id]
    assert trail(nodes, one, other) is None
    assert nearest(world.nodes, one.id) == one.id


def test_who_turned_is_known_to_the_world_alone() -> None:
    world = grown(8, 3)
    turn(world.nodes[2], Attack.LIE, world.engine.rng)
    assert [honest(node) for node in world.nodes[:4]] == [True, True, False, True]
    assert world.nodes[2].ring_view().successors, "it keeps its place"


def test_messages_are_told_apart_by_their_first_bytes() -> None:
    control = bytes((Inner.CONTROL,))
    assert message_type(control + pack_control(Ping(True), Kind.ASK, 1)) == "Ping"
    assert message_type(control + pack_control(Leave(), Kind.TELL)) == "Leave"
    assert message_type(control + (4000).to_bytes(2, "big") + b"\0") == "code 4000"
    assert Offer.__name__ in {message_type(control + Offer.CODE.to_bytes(2, "big") + b"\0")}
    fetch = Envelope(9, Mode.NEAREST, Content.CONTROL, 1, 2, pack_control(Fetch(5), Kind.ASK, 1)).pack()
    assert message_type(bytes((Inner.ROUTED,)) + fetch) == "routed Fetch"
    sealed = Envelope(9, Mode.EXACT, Content.SEALED, 1, 2, bytes(40)).pack()
    assert message_type(bytes((Inner.ROUTED,)) + sealed) == "routed sealed"
    assert message_type(b"") == "keepalive"
    assert message_type(b"\xc8") == "kind 200"
