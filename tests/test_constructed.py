"""A ring that is built instead of grown: the protocol finds nothing to change in it, and builds the same one itself."""

from __future__ import annotations

import os
from random import Random

import pytest

from dht.ids import RING
from dht.messages import Find, Found, Message
from dht.node import Node
from sims.constructed import construct
from sims.engine import Engine
from sims.figures import grow, look_up, members
from sims.latency import Matrix
from sims.network import Network
from sims.plain import PLAIN
from sims.world import World

SEED = 11
NODES = 1000 if os.environ.get("P2PVPN_LONG") else 60
PLACES = 12


def empty_world(nodes: int, seed: int = SEED) -> World:
    rng = Random(seed)
    rtt_ms = [[0.0 if a == b else 20.0 + 180.0 * rng.random() for b in range(PLACES)] for a in range(PLACES)]
    engine = Engine(seed)
    return World(engine, Network(engine, Matrix(rtt_ms)), members(nodes, seed, PLAIN))


def built(nodes: int, seed: int = SEED) -> World:
    world = empty_world(nodes, seed)
    construct(world, nodes)
    return world


def near(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    view = node.ring_view()
    return view.successors, view.predecessors


def test_the_protocol_left_alone_changes_nothing() -> None:
    world = built(NODES)
    assert world.faults(world.nodes) == [] and world.network.counters == {}
    versions = [node.ring_version for node in world.nodes]
    lists = {node.id: near(node) for node in world.nodes}
    world.engine.run_for(400.0)  # keys are renewed, lists are compared, far nodes are asked who is near
    assert {node.id: near(node) for node in world.nodes} == lists
    assert [node.ring_version for node in world.nodes] == versions, f"seed {SEED}: a list changed and changed back"
    for trouble in ("edge_lost", "orphaned", "near_list_lost", "join_failed", "bad_datagram", "handshake_timeout"):
        assert sum(node.counters[trouble] for node in world.nodes) == 0, f"seed {SEED}: {trouble}"
    assert all(node.described for node in world.nodes), "descriptors are published by the protocol"


def test_keys_are_renewed_by_compact_handshakes() -> None:
    world = built(11)  # all are neighbours, so that nobody meets anybody new
    before = {index for node in world.nodes for peer in node.parts.sessions.peers.values() for index in peer.indices}
    full = 0

    def sizes(node_datagram: bytes) -> None:
        nonlocal full
        full += node_datagram[:1] == b"\x11" and len(node_datagram) == 1200

    for node in world.nodes:
        host, receive = world.hosts[node.id], node.parts.demux.receive
        host.on_receive(lambda datagram, source, receive=receive: (sizes(datagram), receive(datagram, source))[1])
    world.engine.run_for(600.0)
    after = {index for node in world.nodes for peer in node.parts.sessions.peers.values() for index in peer.indices}
    assert not before & after and after, f"seed {SEED}"
    assert full == 0, f"seed {SEED}: {full} renewals carried a certificate"


def test_a_ring_grown_by_the_protocol_has_the_same_near_lists() -> None:
    nodes = 40
    one, other = built(nodes), empty_world(nodes)
    grow(other, nodes)
    lists = [{node.id: near(node) for node in world.nodes} for world in (one, other)]
    assert lists[0] == lists[1], f"seed {SEED}"


def test_every_node_can_be_found_from_the_first_instant() -> None:
    world = built(NODES)
    rng = Random(SEED)
    answers: list[tuple[int, Message | None]] = []
    for node in world.nodes:
        target = rng.choice(world.nodes).id
        node.find(Find(target), lambda answer, target=target: answers.append((target, answer)))
    world.engine.run_for(3.0)
    assert len(answers) == len(world.nodes)
    assert all(isinstance(answer, Found) and answer.contacts[0].id == target for target, answer in answers)
    found = look_up(world, 100, per_s=500.0)
    assert found.failed == 0, f"seed {SEED}"


def test_it_heals_as_a_grown_ring_does() -> None:
    world = built(30)
    rng = Random(SEED)
    for node in rng.sample(world.nodes, 3):
        world.crash(node)
    assert not world.whole()
    world.engine.run_until(world.whole, limit_s=60)


def test_a_newcomer_joins_it() -> None:
    world = empty_world(31)
    construct(world, 30)
    world.start(30, bootstraps=(7,))
    world.engine.run_until(world.whole, limit_s=30)
    assert len(world.nodes) == 31


@pytest.mark.parametrize("nodes", [2, 3, 5, 11, 12])
def test_small_rings_are_whole_too(nodes: int) -> None:
    world = built(nodes)
    assert world.whole()
    world.engine.run_for(60.0)
    assert world.whole(), f"seed {SEED}"


def test_fingers_lie_where_they_belong() -> None:
    world = built(200)
    for node in world.nodes:
        view = node.ring_view()
        exponents = [((finger - node.id) % RING).bit_length() for finger in view.fingers]
        assert len(exponents) == len(set(exponents)) >= 3
        assert set(view.fingers) <= set(node.parts.sessions.peers)


def test_it_is_the_same_for_the_same_seed_alone() -> None:
    def trace(seed: int) -> str:
        world = built(30, seed)
        world.engine.run_for(30.0)
        return world.engine.trace_hash

    assert trace(1) == trace(1) != trace(2)


def test_a_world_with_nodes_and_a_ring_of_one_are_refused() -> None:
    world = built(2)
    with pytest.raises(ValueError, match="without nodes"):
        construct(world, 2)
    with pytest.raises(ValueError, match="two nodes"):
        construct(empty_world(1), 1)
