"""The replay window against WireGuard's published sequence and against a plain model of the rule."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.replay import REJECT_AT, WINDOW, ReplayWindow
from tests.evaluation import DATA
from tests.fuzzing import fuzzed

SEQUENCE = DATA / "noise" / "replay_window_sequence.json"

# The order of WireGuard's own test (wireguard-go replay/replay_test.go, MIT), in terms of the window and limit.
W, R = WINDOW, REJECT_AT
SHIPPED = [
    (0, True),
    (1, True),
    (1, False),
    (9, True),
    (8, True),
    (7, True),
    (7, False),
    (W + 1, True),
    (W, True),
    (W, False),
    (W - 1, True),
    (2, True),
    (2, False),
    (W + 17, True),
    (3, False),
    (W + 17, False),
    (W * 4 + 4, True),
    (W * 4 - W + 4, True),
    (10, False),
    (W * 4 - W + 3, False),
    (W * 4 - W + 2, False),
    (W * 4 - W + 5, True),
    (W * 4 - W + 4, False),
    (0, False),
    (R, False),
    (R - 1, True),
    (R, False),
    (R - 1, False),
    (R - 2, True),
    (R + 1, False),
    (R + 2, False),
    (R - 2, False),
    (R - 3, True),
    (0, False),
]


class Model:
    """The rule itself, with no thought for memory."""

    def __init__(self) -> None:
        self.accepted: set[int] = set()
        self.last = -1

    def accept(self, counter: int) -> bool:
        if counter >= REJECT_AT or counter in self.accepted or self.last - counter > WINDOW:
            return False
        self.accepted.add(counter)
        self.last = max(self.last, counter)
        return True


def test_window_and_limit_are_wireguards() -> None:
    assert WINDOW == 8128
    assert REJECT_AT == 2**64 - 2**13 - 1


def test_the_shipped_sequence_is_judged_exactly() -> None:
    window = ReplayWindow()
    assert [(counter, window.accept(counter)) for counter, _ in SHIPPED] == SHIPPED


@pytest.mark.skipif(not SEQUENCE.exists(), reason=f"WireGuard's sequence is not at {SEQUENCE}; set P2PVPN_DATA")
def test_the_published_sequence_is_judged_exactly() -> None:
    published = json.loads(SEQUENCE.read_text())
    assert (published["window"], published["reject_at"]) == (WINDOW, REJECT_AT)
    window = ReplayWindow()
    for counter, expected in published["sequence"]:
        assert window.accept(counter) is expected, counter
    assert [tuple(step) for step in published["sequence"]] == SHIPPED


@pytest.mark.parametrize(
    ("counters", "then"),
    [
        (range(1, W + 1), [(0, True), (0, False)]),
        (range(2, W + 2), [(1, True), (0, False)]),
        (range(W + 1, 0, -1), []),
        (range(W + 2, 1, -1), [(0, False)]),
        (range(W, 0, -1), [(W + 1, True), (0, False)]),
        (range(W, 0, -1), [(0, True), (W + 1, True)]),
    ],
)
def test_whole_windows_are_judged_exactly(counters: range, then: list[tuple[int, bool]]) -> None:
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in counters)
    assert [(counter, window.accept(counter)) for counter, _ in then] == then


def test_a_long_unbroken_run_is_remembered_across_a_gap() -> None:
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in range(3 * W))
    assert window.accept(3 * W + 1)
    for counter in range(2 * W - 10, 3 * W):
        assert not window.accept(counter)
    assert window.accept(3 * W)


@pytest.mark.parametrize("seed", range(20))
def test_random_traffic_is_judged_as_by_the_model(seed: int) -> None:
    print("seed", seed)
    rng = Random(seed)
    window, model = ReplayWindow(), Model()
    head = 0
    for _ in range(4000):
        kind = rng.random()
        if kind < 0.5:
            head += 1
            counter = head
        elif kind < 0.6:
            head += rng.choice([2, 3, 60, 1000, W - 1, W, W + 1, W + 64, W + 65, 3 * W])
            counter = head
        else:
            counter = max(0, head - rng.choice([rng.randrange(10), rng.randrange(200), rng.randrange(W - 5, W + 70)]))
        assert window.accept(counter) == model.accept(counter), counter


@fuzzed()
@given(
    st.lists(
        st.one_of(
            st.integers(0, 40), st.integers(W - 5, W + 70), st.integers(R - 10, R + 10), st.integers(0, 2**64 - 1)
        )
    )
)
def test_any_counters_are_judged_as_by_the_model(counters: list[int]) -> None:
    window, model = ReplayWindow(), Model()
    for counter in counters:
        assert window.accept(counter) == model.accept(counter)


def test_no_counter_makes_the_window_grow() -> None:
    window = ReplayWindow()
    for counter in (0, 5, 2**40, 2**40 + 1, 2**63, R - 1):
        assert window.accept(counter)
        assert window._bitmap.bit_length() <= 8192
    for _ in range(3 * W):
        window.accept(2**30)
    assert window._bitmap.bit_length() <= 8192
