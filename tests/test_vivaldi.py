"""Vivaldi: nodes find their places, newcomers at once, and neither jitter nor liars carry anybody away."""

from __future__ import annotations

import statistics
from math import hypot, inf, nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.coordinate import MAX_HEIGHT_MS, MAX_PLANE_MS, Coordinate, distance_ms
from shortcuts.vivaldi import (
    HISTORY,
    JOIN_SAMPLES,
    MAX_NEIGHBORS,
    MAX_RTT_MS,
    MAX_STEP_MS,
    MIN_ERROR,
    NEIGHBOR_LIFE_S,
    Vivaldi,
)
from sims.coordinates import accuracy
from sims.latency import Euclid, Matrix
from tests.evaluation import evaluation_file
from tests.fuzzing import fuzzed

NOW = 1_800_000_000.0
SEED = 1


def places(count: int, rng: Random) -> list[Coordinate]:
    """Sure nodes all over a plane of 200 ms, with access links of up to 20 ms."""
    return [Coordinate(rng.uniform(0, 200), rng.uniform(0, 200), rng.uniform(1, 20), MIN_ERROR) for _ in range(count)]


def placed(me: Coordinate, others: list[Coordinate], rng: Random, rounds: int = 5) -> Vivaldi:
    machine = Vivaldi(rng)
    for number in range(rounds):
        for peer_id, other in enumerate(others):
            machine.observe(NOW + 27 * number, peer_id, distance_ms(me, other), other)
    return machine


def median_error(machine: Vivaldi, me: Coordinate, others: list[Coordinate]) -> float:
    return statistics.median(abs(machine.estimate_ms(o) - distance_ms(me, o)) / distance_ms(me, o) for o in others)


@pytest.mark.parametrize("seed", range(5))
def test_a_newcomer_finds_its_place_among_nodes_that_know_theirs(seed: int) -> None:
    rng = Random(seed)
    me, *others = places(11, rng)
    machine = placed(me, others, rng)
    print(f"seed {seed}: error {median_error(machine, me, others):.3f}, says {machine.error:.3f}")
    assert median_error(machine, me, others) < 0.05
    assert machine.error < 0.3


def test_nodes_that_all_begin_at_the_origin_part_and_find_their_places() -> None:
    rng = Random(SEED)
    latency = Euclid([(rng.uniform(0, 100), rng.uniform(0, 100)) for _ in range(60)])
    found = accuracy(60, latency, SEED, rounds=12)
    print(f"seed {SEED}: median error {statistics.median(found.told):.3f}")
    assert statistics.median(found.told) < 0.05
    assert statistics.median(found.stable) < 0.08


def test_the_shortest_of_the_last_round_trips_counts() -> None:
    rng = Random(SEED)
    me, *others = places(11, rng)
    machine = Vivaldi(rng)
    for number in range(8):
        for peer_id, other in enumerate(others):
            delayed_ms = 0.0 if (number + peer_id) % 2 else 300.0
            machine.observe(NOW + number, peer_id, distance_ms(me, other) + delayed_ms, other)
    print(f"seed {SEED}: error {median_error(machine, me, others):.3f}")
    assert HISTORY >= 4
    assert median_error(machine, me, others) < 0.1


def test_the_stable_coordinate_rests_while_the_told_one_trembles() -> None:
    rng = Random(SEED)
    me, *others = places(21, rng)
    machine = placed(me, others, rng)
    told, stable = set(), set()
    for number in range(500):
        peer_id = rng.randrange(0, len(others))
        rtt_ms = distance_ms(me, others[peer_id]) * rng.uniform(0.95, 1.1)
        machine.observe(NOW + 200 + number, peer_id, rtt_ms, others[peer_id])
        told.add(machine.coordinate)
        stable.add(machine.stable)
    print(f"seed {SEED}: {len(told)} told, {len(stable)} stable")
    assert len(told) > 400
    assert len(stable) < 10


def test_the_stable_coordinate_follows_when_the_network_changes() -> None:
    rng = Random(SEED)
    me, *others = places(21, rng)
    machine = placed(me, others, rng)
    moved = Coordinate(me.x_ms + 80, me.y_ms, me.height_ms, MIN_ERROR)
    for number in range(400):
        peer_id = rng.randrange(0, len(others))
        machine.observe(NOW + 200 + number, peer_id, distance_ms(moved, others[peer_id]), others[peer_id])
    assert median_error(machine, moved, others) < 0.1


def test_after_a_move_to_another_network_a_node_is_placed_as_quickly_as_a_newcomer() -> None:
    rng = Random(SEED)
    me, *others = places(21, rng)
    machine = placed(me, others, rng)
    machine.moved()
    assert machine.error == 1.0
    elsewhere = Coordinate(150, 10, 5, MIN_ERROR)
    for peer_id, other in enumerate(others[:10]):
        machine.observe(NOW + 300, peer_id, distance_ms(elsewhere, other), other)
    assert median_error(machine, elsewhere, others) < 0.1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("claimed_ms", [-MAX_PLANE_MS, 2000.0, MAX_PLANE_MS])
def test_a_fifth_of_liars_does_not_carry_a_node_away(seed: int, claimed_ms: float) -> None:
    rng = Random(seed)
    me, *others = places(26, rng)
    machine = Vivaldi(rng)
    for number in range(20):
        for peer_id, other in enumerate(others):
            remote = Coordinate(claimed_ms, claimed_ms, 0.0, 0.0) if peer_id % 5 == 0 else other
            machine.observe(NOW + 27 * number, peer_id, distance_ms(me, other), remote)
    honest = [other for peer_id, other in enumerate(others) if peer_id % 5]
    print(f"seed {seed}: error {median_error(machine, me, honest):.3f}")
    assert median_error(machine, me, honest) < 0.15


def test_no_single_sample_of_a_settled_node_moves_it_far() -> None:
    rng = Random(SEED)
    me, *others = places(26, rng)
    machine = placed(me, others, rng)
    for number in range(50):
        before = machine.coordinate
        liar = Coordinate(MAX_PLANE_MS * (-1) ** number, MAX_PLANE_MS, MAX_HEIGHT_MS, 0.0)
        machine.observe(NOW + 200, 999, 1.0, liar)
        after = machine.coordinate
        assert hypot(after.x_ms - before.x_ms, after.y_ms - before.y_ms) <= MAX_STEP_MS + 1.0
    print(f"seed {SEED}: error {median_error(machine, me, others):.3f}")
    assert median_error(machine, me, others) < 0.25


def test_only_so_many_neighbours_are_remembered_and_old_ones_forgotten() -> None:
    rng = Random(SEED)
    machine = Vivaldi(rng)
    for peer_id, other in enumerate(places(3 * MAX_NEIGHBORS, rng)):
        machine.observe(NOW, peer_id, 50.0, other)
    assert len(machine) == MAX_NEIGHBORS
    machine.observe(NOW + NEIGHBOR_LIFE_S + 1, 1000, 50.0, Coordinate(0, 0, 1, 0.5))
    assert len(machine) == 1


@pytest.mark.parametrize("rtt_ms", [nan, inf, MAX_RTT_MS * 1.01])
def test_round_trips_that_say_nothing_are_ignored(rtt_ms: float) -> None:
    machine = Vivaldi(Random(SEED))
    before = machine.coordinate
    machine.observe(NOW, 1, rtt_ms, Coordinate(10, 10, 1, 0.5))
    assert machine.coordinate == before
    assert len(machine) == 0


wild = st.builds(
    Coordinate,
    st.floats(-MAX_PLANE_MS, MAX_PLANE_MS),
    st.floats(-MAX_PLANE_MS, MAX_PLANE_MS),
    st.floats(0, MAX_HEIGHT_MS),
    st.floats(0, 1),
)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 2 * MAX_RTT_MS), wild), max_size=3 * JOIN_SAMPLES))
@fuzzed()
def test_whatever_is_observed_the_coordinate_stays_one(samples: list[tuple[int, float, Coordinate]]) -> None:
    machine = Vivaldi(Random(SEED))
    for number, (peer_id, rtt_ms, remote) in enumerate(samples):
        machine.observe(NOW + number, peer_id, rtt_ms, remote)
        assert Coordinate.parse(machine.coordinate.pack())
        assert Coordinate.parse(machine.stable.pack())
        assert MIN_ERROR <= machine.error <= 1.0


def test_measured_round_trips_between_planetlab_sites_are_predicted() -> None:
    latency = Matrix.load(str(evaluation_file("planetlab490/PlanetLabData_1.gz")))
    found = accuracy(490, latency, SEED, rounds=12)
    told, stable, joiner = (statistics.median(errors) for errors in (found.told, found.stable, found.joiners))
    print(f"seed {SEED}: median error {told:.3f}, stable {stable:.3f}, of a joiner {joiner:.3f}")
    # Measured: 0.087, 0.100, 0.082; after 40 rounds less. One optimiser that sees all pairs reaches 0.06 to 0.08.
    assert told <= 0.11
    assert stable <= 0.13
    assert joiner <= 0.12
    assert sorted(found.joiners)[int(0.9 * len(found.joiners))] <= 0.20
