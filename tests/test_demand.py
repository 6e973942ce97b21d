"""Demand: the first packet connects, the busiest are kept, the idle go, and nobody flaps."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcuts.demand import (
    CONNECT_BURST,
    CONNECTS_PER_S,
    IDLE_S,
    LEAK_PER_S,
    MAX_PEERS,
    MAX_SCORE,
    MIN_HELD_S,
    OUTRANK_MARGIN,
    Decision,
    Demand,
    Reason,
)
from tests.fuzzing import fuzzed

NOW = 1_800_000_000.0
A, B, C, D = 1, 2, 3, 4


def reasons(decisions: tuple[Decision, ...]) -> dict[int, Reason]:
    return {decision.peer_id: decision.reason for decision in decisions}


def test_the_first_packet_connects() -> None:
    demand = Demand()
    assert demand.note(NOW, A, 1)
    assert not demand.note(NOW, A, 1)
    assert reasons(demand.decide(NOW).connect) == {A: Reason.FIRST_PACKET}
    again = demand.decide(NOW)
    assert not again.connect
    assert reasons(again.keep) == {A: Reason.IN_USE}
    assert demand.reason(A) is Reason.IN_USE
    assert demand.reason(B) is None


def test_the_score_counts_packets_and_leaks() -> None:
    demand = Demand()
    demand.note(NOW, A, 100)
    assert demand.score(NOW, A) == 100
    assert demand.score(NOW + 10, A) == 100 - 10 * LEAK_PER_S
    assert demand.score(NOW + 1000, A) == 0
    assert demand.score(NOW, B) == 0
    demand.note(NOW + 10, A, 10**9)
    assert demand.score(NOW + 10, A) == MAX_SCORE


def test_a_clock_that_stands_still_or_slips_back_leaks_nothing() -> None:
    demand = Demand()
    demand.note(NOW, A, 10)
    assert demand.score(NOW - 5, A) == 10


def test_a_quiet_peer_lingers_and_then_goes() -> None:
    demand = Demand()
    demand.note(NOW, A, 1)
    demand.decide(NOW)
    assert reasons(demand.decide(NOW + IDLE_S - 1).keep) == {A: Reason.LINGERING}
    assert reasons(demand.decide(NOW + IDLE_S).trim) == {A: Reason.IDLE}
    assert len(demand) == 0
    assert demand.note(NOW + IDLE_S + 1, A, 1), "its next packet is a first one"


def busy_demand(places: int, packets: int = 100) -> Demand:
    """All places taken since long ago by peers from 1 up, each with `packets` more than the one before."""
    demand = Demand(places)
    for peer_id in range(1, places + 1):
        demand.note(NOW - MIN_HELD_S, peer_id, 1)
    demand.decide(NOW - MIN_HELD_S)
    for peer_id in range(1, places + 1):
        demand.note(NOW, peer_id, peer_id * packets)
    return demand


def test_a_peer_without_a_place_waits_until_it_is_clearly_busier_and_takes_that_of_the_least_busy() -> None:
    demand = busy_demand(2)
    demand.note(NOW, C, 150)
    assert reasons(demand.decide(NOW).wait) == {C: Reason.OVER_BUDGET}
    demand.note(NOW, C, 60)
    decisions = demand.decide(NOW)
    assert reasons(decisions.connect) == {C: Reason.BUSIER}
    assert reasons(decisions.trim) == {A: Reason.OUTRANKED}
    assert reasons(decisions.keep) == {B: Reason.IN_USE}
    assert reasons(demand.decide(NOW).wait) == {A: Reason.OVER_BUDGET}


def test_nobody_loses_a_place_just_given() -> None:
    demand = Demand(1)
    demand.note(NOW, A, 1)
    demand.decide(NOW)
    demand.note(NOW + 1, B, 1000)
    assert reasons(demand.decide(NOW + 1).wait) == {B: Reason.OVER_BUDGET}
    assert reasons(demand.decide(NOW + MIN_HELD_S).connect) == {B: Reason.BUSIER}


def test_a_handful_of_packets_takes_nobodys_place_however_quiet_it_is() -> None:
    demand = Demand(1)
    demand.note(NOW, A, 1)
    demand.decide(NOW)
    demand.note(NOW + 100, B, int(OUTRANK_MARGIN) - 1)
    assert reasons(demand.decide(NOW + 100).wait) == {B: Reason.OVER_BUDGET}


def test_new_shortcuts_have_a_rate_and_the_busiest_come_first() -> None:
    demand = Demand()
    crowd = int(CONNECT_BURST) + 30
    for peer_id in range(crowd):
        demand.note(NOW, peer_id, peer_id + 1)
    first = demand.decide(NOW)
    assert [decision.peer_id for decision in first.connect] == list(range(crowd - 1, 29, -1))
    assert set(reasons(first.wait).values()) == {Reason.OVER_RATE}
    assert len(demand.decide(NOW + 1).connect) == CONNECTS_PER_S


def test_a_node_told_to_have_no_shortcuts_has_none() -> None:
    demand = Demand(0)
    demand.note(NOW, A, 10_000)
    assert reasons(demand.decide(NOW).wait) == {A: Reason.OVER_BUDGET}


@pytest.mark.parametrize("number", [-1, MAX_PEERS // 2 + 1])
def test_an_impossible_budget_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="shortcuts"):
        Demand(number)


def test_a_peer_that_is_gone_leaves_its_place() -> None:
    demand = busy_demand(1)
    demand.note(NOW, B, 1)
    demand.forget(A)
    assert reasons(demand.decide(NOW).connect) == {B: Reason.FIRST_PACKET}


def test_a_crowd_of_strangers_costs_bounded_memory_and_no_shortcut() -> None:
    demand = busy_demand(2)
    for peer_id in range(10, 3 * MAX_PEERS):
        demand.note(NOW, peer_id, 1)
    assert len(demand) == MAX_PEERS
    assert set(reasons(demand.decide(NOW).keep)) == {A, B}


@pytest.mark.parametrize("seed", range(3))
def test_equally_busy_peers_do_not_take_turns(seed: int) -> None:
    rng = Random(seed)
    demand = Demand(4)
    changes = 0
    for second in range(600):
        for peer_id in range(8):
            demand.note(NOW + second, peer_id, rng.randrange(5, 15))
        decisions = demand.decide(NOW + second)
        changes += second > 0 and len(decisions.connect)
    print(f"seed {seed}: {changes} changes")
    assert changes == 0


steps = st.tuples(st.floats(0, 200), st.integers(0, 12), st.integers(1, 2000), st.sampled_from("nnnnnndf"))


@given(st.integers(0, 5), st.lists(steps, max_size=80))
@fuzzed()
def test_whatever_happens_the_books_are_right(places: int, happens: list[tuple[float, int, int, str]]) -> None:
    demand = Demand(places)
    held: set[int] = set()
    now = NOW
    for passed_s, peer_id, packets, step in happens:
        now += passed_s
        if step == "f":
            demand.forget(peer_id)
            held.discard(peer_id)
        if step == "n":
            demand.note(now, peer_id, packets)
        if step != "d":
            continue
        decisions = demand.decide(now)
        connected, kept, waiting, trimmed = (
            {decision.peer_id for decision in part}
            for part in (decisions.connect, decisions.keep, decisions.wait, decisions.trim)
        )
        assert trimmed <= held
        assert not connected & held
        assert kept == held - trimmed
        assert not waiting & (connected | kept)
        held = kept | connected
        assert len(held) <= places
