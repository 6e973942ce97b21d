"""The keepalive interval: below what loses mappings, above what wastes traffic, and bounded whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.liveness import LAPSE_S
from shortcuts.keepalive import (
    ENOUGH_HELD,
    MAX_INTERVAL_S,
    MIN_INTERVAL_S,
    SHORTEST_IDLE_S,
    START_INTERVAL_S,
    WELL_BELOW,
    Keepalive,
)
from tests.fuzzing import fuzzed


def hold(keepalive: Keepalive, times: int) -> None:
    """So many idle times as long as the interval are survived."""
    for _ in range(times):
        keepalive.held(keepalive.interval_s)


def behind(timeout_s: float, pings: int) -> tuple[Keepalive, int]:
    """A node whose NAT forgets after `timeout_s`, and how many mappings it lost."""
    keepalive, lost = Keepalive(), 0
    for _ in range(pings):
        if keepalive.interval_s < timeout_s:
            keepalive.held(keepalive.interval_s)
        else:
            keepalive.lost(keepalive.interval_s)
            lost += 1
    return keepalive, lost


def test_it_begins_below_the_half_minute_of_common_nats() -> None:
    assert Keepalive().interval_s == START_INTERVAL_S < 30.0


def test_a_lost_mapping_halves_it_down_to_a_limit() -> None:
    keepalive = Keepalive()
    intervals = []
    for _ in range(4):
        keepalive.lost(keepalive.interval_s)
        intervals.append(keepalive.interval_s)
    assert intervals == [START_INTERVAL_S / 2, MIN_INTERVAL_S, MIN_INTERVAL_S, MIN_INTERVAL_S]


def test_paths_that_were_silent_together_halve_it_once() -> None:
    keepalive = Keepalive()
    for _ in range(20):
        keepalive.lost(START_INTERVAL_S + 0.4)
    assert keepalive.interval_s == START_INTERVAL_S / 2


def test_what_is_lost_under_traffic_says_nothing() -> None:
    keepalive = Keepalive()
    keepalive.lost(SHORTEST_IDLE_S - 0.1)
    assert keepalive.interval_s == START_INTERVAL_S


def test_it_grows_slowly_and_never_so_far_that_the_other_end_gives_up() -> None:
    keepalive = Keepalive()
    hold(keepalive, ENOUGH_HELD - 1)
    assert keepalive.interval_s == START_INTERVAL_S
    hold(keepalive, 1)
    assert START_INTERVAL_S < keepalive.interval_s <= 1.1 * START_INTERVAL_S
    hold(keepalive, 20 * ENOUGH_HELD)
    assert keepalive.interval_s == MAX_INTERVAL_S
    assert MAX_INTERVAL_S + 1.5 < LAPSE_S


def test_short_idle_times_are_no_reason_to_grow() -> None:
    keepalive = Keepalive()
    for _ in range(10 * ENOUGH_HELD):
        keepalive.held(4.0)
    assert keepalive.interval_s == START_INTERVAL_S


def test_it_stays_well_below_what_was_lost() -> None:
    keepalive = Keepalive()
    keepalive.lost(20.0)
    hold(keepalive, 10 * ENOUGH_HELD)
    assert keepalive.interval_s <= WELL_BELOW * 20.0 * 1.1


@pytest.mark.parametrize("timeout_s", [10.0, 15.0, 20.0, 25.0])
def test_behind_an_impatient_nat_it_settles_where_next_to_nothing_is_lost(timeout_s: float) -> None:
    keepalive, lost = behind(timeout_s, 20_000)
    assert keepalive.interval_s < timeout_s
    assert keepalive.interval_s >= timeout_s / 2 * 0.8
    assert lost <= 10


def test_one_loss_for_another_reason_is_forgotten_in_the_end() -> None:
    keepalive = Keepalive()
    keepalive.lost(START_INTERVAL_S)
    hold(keepalive, 60 * ENOUGH_HELD)
    assert keepalive.interval_s > START_INTERVAL_S


def test_behind_another_nat_it_begins_anew() -> None:
    keepalive = Keepalive()
    keepalive.lost(20.0)
    keepalive.moved()
    assert keepalive.interval_s == START_INTERVAL_S
    hold(keepalive, 20 * ENOUGH_HELD)
    assert keepalive.interval_s == MAX_INTERVAL_S


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 1e6))))
@fuzzed()
def test_whatever_happens_it_stays_within_its_bounds(events: list[tuple[bool, float]]) -> None:
    keepalive = Keepalive()
    for was_held, idle_s in events:
        (keepalive.held if was_held else keepalive.lost)(idle_s)
        assert MIN_INTERVAL_S <= keepalive.interval_s <= MAX_INTERVAL_S
