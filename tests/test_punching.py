"""Which pairs of NATs can be punched, as real NATs in namespaces showed it, and which ports are worth a guess."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcuts.nat import Answer, Filtering, Mapping, Nat
from shortcuts.punching import (
    FIRST_PORT,
    LAST_PORT,
    MAX_GUESSED,
    MAX_PREDICTED,
    Expectation,
    expectation,
    guessed_ports,
    predicted_ports,
)
from tests.fuzzing import fuzzed

PUBLIC = Nat(Mapping.NONE, Filtering.NONE)
FIREWALLED = Nat(Mapping.NONE, Filtering.ADDRESS_AND_PORT_DEPENDENT)
FULL = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
ADDRESS = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT)
PORT = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
SYMMETRIC = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
OPEN_SYMMETRIC = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
UNKNOWN = Nat()

YES, MAYBE, NO, BY_GUESSING = Expectation.YES, Expectation.MAYBE, Expectation.NO, Expectation.BY_GUESSING_PORTS


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (FULL, FULL, YES),
        (FULL, SYMMETRIC, YES),
        (ADDRESS, ADDRESS, YES),
        (ADDRESS, SYMMETRIC, YES),
        (PORT, PORT, YES),
        (PORT, SYMMETRIC, BY_GUESSING),
        (SYMMETRIC, SYMMETRIC, NO),
        (PUBLIC, SYMMETRIC, YES),
        (FIREWALLED, PORT, YES),
        (FIREWALLED, FIREWALLED, YES),
        (FIREWALLED, SYMMETRIC, BY_GUESSING),
        (OPEN_SYMMETRIC, ADDRESS, YES),
        (OPEN_SYMMETRIC, SYMMETRIC, NO),
        (UNKNOWN, FULL, YES),
        (UNKNOWN, PORT, MAYBE),
        (UNKNOWN, SYMMETRIC, MAYBE),
        (UNKNOWN, UNKNOWN, MAYBE),
    ],
)
def test_what_to_expect_of_a_pair(a: Nat, b: Nat, expected: Expectation) -> None:
    assert expectation(a, b) is expected
    assert expectation(b, a) is expected


@pytest.mark.parametrize(
    ("hairpins", "expected"), [(Answer.YES, YES), (Answer.NO, NO), (Answer.UNKNOWN, MAYBE)], ids=str
)
def test_behind_one_nat_everything_depends_on_hairpinning(hairpins: Answer, expected: Expectation) -> None:
    inside = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Answer.YES, hairpins)
    assert expectation(inside, inside, same_outside=True) is expected
    assert expectation(inside, inside) is YES


def test_two_sessions_of_one_public_host_need_no_hairpin() -> None:
    assert expectation(PUBLIC, PUBLIC, same_outside=True) is YES


def test_the_order_of_a_pair_never_matters_and_knowing_more_never_contradicts() -> None:
    every = [Nat(mapping, filtering) for mapping, filtering in product(Mapping, Filtering)]
    for a, b in product(every, every):
        assert expectation(a, b) is expectation(b, a)
        if expectation(UNKNOWN, b) is YES:
            assert expectation(a, b) is YES


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([40_000, 40_001, 40_002], [40_003, 40_004, 40_005]),
        ([40_000, 40_002, 40_004, 40_006], [40_008, 40_010, 40_012]),
        ([40_000, 40_001, 40_003, 40_002], [40_004, 40_005, 40_006]),
        ([40_010, 40_008, 40_006], [40_004, 40_002, 40_000]),
        ([40_000, 40_004, 40_006, 40_012], [40_014, 40_016, 40_018]),
        ([65_533, 65_534, 65_535], [1024, 1025, 1026]),
        ([40_000, 40_001], []),
        ([], []),
        ([40_000, 12_345, 61_000, 33_210], []),
        ([1000, 20_000, 40_000], []),
    ],
)
def test_the_next_ports_of_a_nat_that_counts_are_predicted(seen: list[int], expected: list[int]) -> None:
    assert predicted_ports(seen, 3) == expected


def test_random_ports_are_hardly_ever_mistaken_for_an_order() -> None:
    rng = Random(1)
    fooled = sum(bool(predicted_ports([rng.randrange(1024, 65_536) for _ in range(6)])) for _ in range(1000))
    print(f"seed 1: {fooled} of 1000")
    assert fooled <= 10


@given(st.lists(st.integers(1, 65_535), max_size=50), st.integers(-1, 1000))
@fuzzed()
def test_predictions_are_ports_within_the_budget(seen: list[int], budget: int) -> None:
    ports = predicted_ports(seen, budget)
    assert len(ports) <= max(0, min(budget, MAX_PREDICTED))
    assert len(set(ports)) == len(ports)
    assert all(FIRST_PORT <= port <= LAST_PORT for port in ports)


def test_guesses_are_different_ports_within_the_budget() -> None:
    assert len(set(guessed_ports(Random(1), 10_000))) == MAX_GUESSED
    assert len(guessed_ports(Random(1), 5)) == 5
    assert all(FIRST_PORT <= port <= LAST_PORT for port in guessed_ports(Random(1)))
