"""Greedy routing as a graph: against a search that looks at every node, and against rings of product nodes."""

from __future__ import annotations

import statistics
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from dht.envelope import Mode
from dht.ids import RING
from dht.ring import NEAR
from dht.suite import NOISE
from sims.constructed import construct
from sims.engine import Engine
from sims.graph import BITS, Graph, look_up
from sims.identities import members
from sims.latency import Constant
from sims.network import Network
from sims.plain import PLAIN
from sims.world import World


def slow_route(graph: Graph, source: int, target: int, live: list[bool]) -> tuple[int, int, int]:
    """End, hops and timeouts of one lookup, followed one node at a time."""
    ids = [int(each) for each in graph.ids]
    around = 1 << BITS

    def away(place: int) -> int:
        forth = (ids[place] - target) % around
        return min(forth, around - forth)

    at, hops, timeouts = source, 0, 0
    while True:
        ends = [int(end) for end in graph.ends[graph.starts[at] : graph.starts[at + 1]]]
        nearer = min((away(end) for end in ends if live[end]), default=around)
        timeouts += sum(not live[end] and away(end) < min(nearer, away(at)) for end in ends)
        if nearer >= away(at):
            return at, hops, timeouts
        at = next(end for end in ends if live[end] and away(end) == nearer)
        hops += 1


@pytest.mark.parametrize("failed", [0.0, 0.3])
def test_routes_are_those_that_one_would_follow_by_hand(failed: float) -> None:
    rng = np.random.default_rng(1)
    graph = Graph.random(300, rng)
    live = np.ones(300, np.bool_)
    live[rng.choice(300, round(failed * 300), replace=False)] = False
    sources = rng.choice(np.flatnonzero(live), 200).astype(np.int32)
    targets = rng.integers(0, 1 << BITS, 200, dtype=np.uint64, endpoint=False)
    routes = graph.route(sources, targets, live)
    nearest = graph.nearest(targets, live)
    for number in range(200):
        end, hops, timeouts = slow_route(graph, int(sources[number]), int(targets[number]), live.tolist())
        assert (routes.hops[number], routes.timeouts[number]) == (hops, timeouts)
        assert routes.right[number] == (end == nearest[number])
    assert failed or routes.right.all()


def test_every_node_has_its_neighbours_and_a_finger_an_octave_and_edges_lead_both_ways() -> None:
    graph = Graph.random(500, np.random.default_rng(2))
    ends = [set(graph.ends[graph.starts[k] : graph.starts[k + 1]].tolist()) for k in range(500)]
    for place in range(500):
        assert {(place + step) % 500 for step in range(-NEAR, NEAR + 1)} - {place} <= ends[place]
        assert place not in ends[place]
        assert all(place in ends[end] for end in ends[place])
        octaves = {(int(graph.ids[end]) - int(graph.ids[place])) % (1 << BITS) for end in ends[place]}
        covered = (int(graph.ids[(place + NEAR) % 500]) - int(graph.ids[place])) % (1 << BITS)
        for exponent in range(covered.bit_length(), BITS):
            inside = np.sum((graph.ids - graph.ids[place]) >> np.uint64(exponent) == 1)
            assert not inside or any(away >> exponent == 1 for away in octaves)


@pytest.mark.parametrize("nodes", [2, 3, 7, 8, 12])
def test_small_rings_have_no_wrong_end(nodes: int) -> None:
    rng = np.random.default_rng(3)
    routes = look_up(Graph.random(nodes, rng), 500, 0.0, rng)
    assert routes.right.all()
    assert routes.hops.max() <= max(1, nodes // 2)


def test_what_can_be_no_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="not 1"):
        Graph.random(1, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="no node lives"):
        look_up(Graph.random(10, rng), 5, 1.0, rng)


def test_hops_grow_by_less_than_half_a_hop_when_the_ring_doubles() -> None:
    means = []
    for nodes in (1000, 2000, 4000, 8000, 16000):
        rng = np.random.default_rng(5)
        means.append(look_up(Graph.random(nodes, rng), 4000, 0.0, rng).hops.mean())
    steps = [later - earlier for earlier, later in pairwise(means)]
    assert all(0.25 < step < 0.5 for step in steps), f"{means}: Chord's are half a hop"


@pytest.mark.parametrize(("nodes", "grown"), [(100, True), (1740, False)])
def test_the_graph_and_the_product_agree_on_hops(nodes: int, grown: bool) -> None:
    """The full stack, all edges alike, one seed: grown and settled, and as many as measured King hosts, constructed."""
    engine = Engine(1)
    world = World(engine, Network(engine, Constant(50.0)), members(nodes, 1, NOISE if grown else PLAIN))
    if grown:
        world.grow(nodes, gap_s=0.05)
        engine.run_for(30)
    else:
        construct(world, nodes)
    by_id = {node.id: node for node in world.nodes}
    rng = Random(1)
    hops = []
    for _ in range(3000):
        at, target, passed = rng.choice(world.nodes), rng.randrange(0, RING), 0
        while (hop := at.parts.router.next_hop(target, Mode.NEAREST)) is not None:
            at, passed = by_id[hop.id], passed + 1
        hops.append(passed)
    ids = np.array(sorted(node.id >> (160 - BITS) for node in world.nodes), np.uint64)
    means = []
    for seed in range(5):
        drawn = np.random.default_rng(seed)
        means.append(float(look_up(Graph.of(ids, drawn), 3000, 0.0, drawn).hops.mean()))
    assert statistics.fmean(hops) == pytest.approx(statistics.fmean(means), rel=0.06), f"{hops[:5]}, {means}"
