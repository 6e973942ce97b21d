"""Rings of real nodes in simulated worlds, judged from above. Every failure names its seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest

from dht.ids import RING, nearest
from dht.lingering import LINGER_S
from dht.messages import Find, Found, Message
from dht.node import GetResult, Node, PutResult
from dht.ring import NEAR
from sims.constructed import construct
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from sims.world import RingInvariants, World
from tests.identities import START_S, make_identities

SEEDS = range(1, 1 + int(os.environ.get("P2PVPN_SEEDS", "3")))  # `make sim` takes more


def make_world(nodes: int, seed: int, rtt_ms: float = 50.0, loss: float = 0.0) -> World:
    """A world with identities for `nodes` nodes, none of them started."""
    engine = Engine(seed)
    return World(engine, Network(engine, Constant(rtt_ms), loss=loss), make_identities(nodes, seed, now=START_S))


def found(world: World, node: Node, name: str) -> list[bytes]:
    """What `node` reads under `name`, running the world until it knows."""
    results: list[GetResult] = []
    node.get(name, results.append)
    world.engine.run_until(lambda: bool(results), limit_s=30)
    return [record.value for record in results[0].records]


def stored(world: World, put: Callable[..., None], name: str, value: bytes) -> PutResult:
    results: list[PutResult] = []
    put(name, value, 3600.0, results.append)
    world.engine.run_until(lambda: bool(results), limit_s=60)
    return results[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_invariants_hold_after_every_event_while_200_nodes_join(seed: int) -> None:
    world = make_world(200, seed)
    world.grow(NEAR + 1)
    invariants = RingInvariants(world)
    world.engine.after_event.append(invariants)
    rng = world.engine.rng
    while len(world.nodes) < 200:
        # Bursts of nodes that start at the same instant, each knowing some earlier node.
        for _ in range(min(rng.randrange(1, 12), 200 - len(world.nodes))):
            number = len(world.nodes)
            world.start(number, (rng.randrange(0, number),))
        world.engine.run_for(rng.uniform(0.0, 1.0))
    world.engine.run_until(world.whole, limit_s=120)
    assert invariants.checks > 500


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ring_is_whole_again_after_a_tenth_crashes_at_once_and_no_key_is_lost(seed: int) -> None:
    world = make_world(200, seed)
    world.grow(200, gap_s=0.05)
    world.engine.run_for(5)
    rng = world.engine.rng
    owners = rng.sample(world.nodes, 30)
    for number, owner in enumerate(owners):
        assert stored(world, owner.put, f"key {number}", b"value %d" % number).ok
    victims = rng.sample(world.nodes, 20)
    for victim in victims:
        world.crash(victim)
    took_s = world.engine.run_until(world.whole, limit_s=60)
    print(f"seed {seed}: whole again after {took_s:.1f} s")
    for number in range(30):
        reader = rng.choice(world.nodes)
        assert found(world, reader, f"key {number}") == [b"value %d" % number], f"seed {seed}, key {number}"


@pytest.mark.parametrize("seed", SEEDS)
def test_one_dead_node_is_gone_from_the_ring_within_ten_seconds(seed: int) -> None:
    world = make_world(50, seed)
    world.grow(50, gap_s=0.05)
    world.engine.run_for(30)
    world.crash(world.engine.rng.choice(world.nodes))
    assert world.engine.run_until(world.whole, limit_s=60) <= 10.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_partition_of_five_minutes_heals_into_one_ring_where_the_higher_sequence_wins(seed: int) -> None:
    world = make_world(100, seed)
    world.grow(100, gap_s=0.05)
    world.engine.run_for(30)
    owner = world.nodes[7]
    assert stored(world, owner.put, "shared", b"before").ok
    hosts = [world.hosts[node.id] for node in world.nodes]
    world.network.partition([hosts[:60], hosts[60:]])
    world.engine.run_for(60)
    assert not world.faults(world.nodes[:60]), f"seed {seed}: the larger part is no ring of its own"
    assert not world.faults(world.nodes[60:]), f"seed {seed}: the smaller part is no ring of its own"
    results: list[PutResult] = []
    owner.put("shared", b"during", 3600.0, results.append)
    world.engine.run_for(240)
    world.network.heal()
    took_s = world.engine.run_until(world.whole, limit_s=300)
    print(f"seed {seed}: one ring {took_s:.1f} s after the partition ended")
    world.engine.run_for(5)
    for reader in (world.nodes[3], world.nodes[70], world.nodes[99]):
        assert found(world, reader, "shared") == [b"during"]


@pytest.mark.parametrize("seed", SEEDS)
def test_two_nodes_that_join_at_the_same_instant_both_find_their_place(seed: int) -> None:
    world = make_world(12, seed)
    world.grow(10)
    world.start(10)
    world.start(11)
    assert world.engine.run_until(world.whole, limit_s=60) <= 5.0


@pytest.mark.parametrize("seed", SEEDS)
def test_fifty_nodes_that_start_at_the_same_instant_form_one_ring_within_seconds(seed: int) -> None:
    world = make_world(50, seed, rtt_ms=100.0)
    world.start(0, ())
    world.engine.run_until(lambda: world.nodes[0].member, limit_s=10)
    for number in range(1, 50):
        world.start(number, (0,))
    took_s = world.engine.run_until(world.whole, limit_s=60)
    print(f"seed {seed}: whole after {took_s:.1f} s")
    assert took_s <= 8.0, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_lookups_find_their_way_around_a_third_of_all_nodes_that_has_just_died(seed: int) -> None:
    engine = Engine(seed)
    world = World(engine, Network(engine, Constant(50.0)), make_identities(150, seed, now=START_S))
    construct(world, 150)
    engine.run_for(5)
    for victim in engine.rng.sample(world.nodes, 50):
        world.crash(victim)
    wanted: list[int] = []
    answers: list[tuple[int, Message | None]] = []
    for _ in range(60):
        target = engine.rng.randrange(0, RING)
        wanted.append(nearest(target, [node.id for node in world.nodes], 1)[0])
        engine.rng.choice(world.nodes).find(Find(target), partial(answered, answers, wanted[-1]))
    engine.run_until(lambda: len(answers) == 60, limit_s=6)
    found = [answer.contacts[0].id == right for right, answer in answers if isinstance(answer, Found)]
    print(f"seed {seed}: {len(found)} of 60 answered, {sum(found)} by the right node")
    assert len(found) >= 59, f"seed {seed}"
    assert sum(found) >= 57, f"seed {seed}"


def wrong_lookups(world: World, count: int, per_s: float) -> int:
    """Of `count` lookups in a ring of which nobody is dead."""
    ids = [node.id for node in world.nodes]
    answers: list[tuple[int, Message | None]] = []
    for _ in range(count):
        target = world.engine.rng.randrange(0, RING)
        node = world.engine.rng.choice(world.nodes)
        node.find(Find(target), partial(answered, answers, nearest(target, ids, 1)[0]))
        world.engine.run_for(1.0 / per_s)
    world.engine.run_until(lambda: len(answers) == count, limit_s=10)
    return sum(not isinstance(answer, Found) or answer.contacts[0].id != right for right, answer in answers)


@pytest.mark.parametrize("seed", SEEDS)
def test_lookups_in_a_young_ring_of_nodes_far_apart_are_right(seed: int) -> None:
    world = make_world(60, seed, rtt_ms=400.0)  # most edges' first use: an end that did not dial knows no round trip
    world.grow(60, gap_s=0.1)
    assert wrong_lookups(world, 1000, per_s=200.0) == 0, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_lookups_are_right_where_round_trips_vary(seed: int) -> None:
    world = make_world(60, seed)
    construct(world, 60)
    world.engine.run_for(10.0)
    world.network.jitter_s = 0.3  # each way, as of a line at home that is in use
    world.engine.run_for(80.0)
    assert wrong_lookups(world, 2000, per_s=50.0) == 0, f"seed {seed}"


def answered(answers: list[tuple[int, Message | None]], right: int, answer: Message | None) -> None:
    answers.append((right, answer))


@pytest.mark.parametrize("seed", SEEDS)
def test_two_nodes_that_know_only_each_other_become_one_ring(seed: int) -> None:
    world = make_world(2, seed)
    world.start(0, (1,))
    world.start(1, (0,))
    assert world.engine.run_until(world.whole, limit_s=60) <= 15.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_rejoins_through_peers_of_an_earlier_run_when_its_bootstrap_is_dead(seed: int) -> None:
    world = make_world(20, seed)
    world.grow(20, gap_s=0.1)
    world.engine.run_for(5)
    world.crash(world.nodes[0])
    restarted = world.nodes[4]
    number = 5
    world.crash(restarted)
    world.engine.run_for(10)
    world.start(number)
    assert world.engine.run_until(world.whole, limit_s=60) <= 5.0, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restarted_node_is_back_on_the_ring_at_once(seed: int) -> None:
    world = make_world(20, seed)
    world.grow(20, gap_s=0.1)
    world.engine.run_for(5)
    world.crash(world.nodes[4])
    world.engine.run_for(0.2)
    world.start(4)
    assert world.engine.run_until(world.whole, limit_s=60) <= 3.0, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_slept_five_minutes_is_reachable_within_ten_seconds(seed: int) -> None:
    world = make_world(20, seed)
    world.grow(20, gap_s=0.1)
    world.engine.run_for(5)
    sleeper = world.nodes[9]
    world.network.freeze(world.hosts[sleeper.id])
    world.engine.run_for(300)
    world.network.thaw(world.hosts[sleeper.id])
    assert world.engine.run_until(world.whole, limit_s=60) <= 10.0, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_moves_to_another_address_keeps_its_place(seed: int) -> None:
    world = make_world(20, seed)
    world.grow(20, gap_s=0.1)
    world.engine.run_for(5)
    mover = world.nodes[9]
    host = world.hosts[mover.id]
    world.network.move(host, world.endpoint(999))
    answers: list[object] = []
    other = world.nodes[2]
    other.ping(mover.id, answers.append)
    world.engine.run_until(lambda: bool(answers), limit_s=10)
    world.engine.run_for(5)
    answers.clear()
    other.ping(mover.id, answers.append)
    world.engine.run_until(lambda: bool(answers), limit_s=10)
    assert answers[0] is not None, f"seed {seed}"
    assert world.whole()


@pytest.mark.parametrize("seed", SEEDS)
def test_one_identity_started_twice_raises_an_alarm_on_both_and_does_not_flap(seed: int) -> None:
    world = make_world(10, seed)
    world.grow(10, gap_s=0.1)
    world.engine.run_for(5)
    first = world.nodes[4]
    edges_before = first.counters["edge_lost"]
    twin_host = world.network.host(world.endpoint(500))
    twin = Node(twin_host, first.identity, type(world.storages[first.id])())
    twin.start([world.endpoint(0)])
    world.engine.run_for(60)
    assert first.alarm is not None and str(world.endpoint(500)) in first.alarm, f"seed {seed}"
    assert twin.alarm is not None, f"seed {seed}"
    assert world.whole(), f"seed {seed}: the ring with the first of the two is not whole"
    assert first.counters["edge_lost"] == edges_before
    answers: list[object] = []
    world.nodes[0].ping(first.id, answers.append)
    world.engine.run_for(3)
    assert answers and answers[0] is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_of_two_who_create_one_name_at_most_one_succeeds(seed: int) -> None:
    world = make_world(30, seed)
    world.grow(30, gap_s=0.05)
    world.engine.run_for(5)
    results: list[PutResult] = []
    world.nodes[3].create("only one", b"a", 3600.0, results.append)
    world.nodes[8].create("only one", b"b", 3600.0, results.append)
    world.engine.run_until(lambda: len(results) == 2, limit_s=60)
    assert sum(result.ok for result in results) <= 1, f"seed {seed}"
    assert not stored(world, world.nodes[11].create, "only one", b"c").ok or not any(r.ok for r in results)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leaving_node_is_gone_from_every_list_within_a_second(seed: int) -> None:
    world = make_world(20, seed)
    world.grow(20, gap_s=0.1)
    world.engine.run_for(5)
    leaver = world.nodes.pop(6)
    leaver.stop()
    assert world.engine.run_until(world.whole, limit_s=60) <= 1.0, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ring_forms_over_a_network_that_loses_a_tenth(seed: int) -> None:
    world = make_world(40, seed, loss=0.1)
    world.grow(40, gap_s=0.2, settle_s=300)


def test_the_same_seed_gives_the_same_run() -> None:
    hashes = []
    for _ in range(2):
        world = make_world(30, 77)
        world.grow(30, gap_s=0.1)
        world.engine.run_for(20)
        hashes.append(world.engine.trace_hash)
    assert hashes[0] == hashes[1]
    other = make_world(30, 78)
    other.grow(30, gap_s=0.1)
    other.engine.run_for(20)
    assert other.engine.trace_hash != hashes[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_on_its_way_while_an_edge_is_given_up_arrives(seed: int) -> None:
    world = make_world(3, seed)
    world.grow(3)
    world.engine.run_for(60)
    one, other, _ = world.nodes
    heard: list[bytes] = []
    one.traffic.on_packet(lambda member, packet: heard.append(packet))
    one.broadcast.on(3, lambda origin, payloads: heard.extend(payloads))
    peer = one.parts.sessions.peers[other.id]
    one.parts.liveness.lost(peer, False)
    assert other.id not in one.parts.sessions.peers
    assert other.traffic.send_packet(one.id, b"a packet"), f"seed {seed}"
    assert other.broadcast.send(3, [b"a frame"]) == 1
    world.engine.run_for(0.5)
    assert sorted(heard) == [b"a frame", b"a packet"], f"seed {seed}"
    # Nothing more of that session is heard, nor is it kept.
    world.engine.run_for(LINGER_S)
    assert not one.parts.sessions._late
