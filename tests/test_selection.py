"""The choice among proven paths: the better kind, the clearly faster, away from what fails, and never to and fro."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcuts.selection import (
    FASTER_MS,
    FASTER_SHARE,
    FRESH_S,
    LAPSE_S,
    MAX_RETAKE_S,
    RETAKE_S,
    PathClass,
    ProvenPath,
    Reason,
    choose,
)
from tests.fuzzing import fuzzed

NOW = 1_800_000_000.0
Path = ProvenPath[str | None]

DIRECT: Path = ProvenPath("direct", PathClass.DIRECT, 100.0, NOW - 1)
OTHER: Path = ProvenPath("other", PathClass.DIRECT, 100.0, NOW - 1)
PROXY: Path = ProvenPath("proxy", PathClass.PROXY, 60.0, NOW - 1)
OVERLAY: Path = ProvenPath(None, PathClass.OVERLAY, 250.0, 0.0)

failing = {"failures": 1, "failed_at": NOW}
stale = {"proven_at": NOW - FRESH_S - 1}
lapsed = {"proven_at": NOW - LAPSE_S - 1}


def but(path: Path, **changes: float | None) -> Path:
    return replace(path, **changes)  # type: ignore[arg-type]


STAY = Reason.NO_REASON_TO_CHANGE

# What is known, the path in use, what is chosen, and why.
TABLE: list[tuple[str, list[Path], str | None, str | None, Reason]] = [
    ("only the overlay", [OVERLAY], None, None, STAY),
    ("nothing was in use", [DIRECT, PROXY], None, "direct", Reason.FIRST),
    ("direct is proven", [OVERLAY, DIRECT], None, "direct", Reason.BETTER_CLASS),
    ("a proxy is proven", [OVERLAY, PROXY], None, "proxy", Reason.BETTER_CLASS),
    ("direct, though slower than the proxy", [OVERLAY, PROXY, DIRECT], "proxy", "direct", Reason.BETTER_CLASS),
    ("no proxy, though faster than direct", [OVERLAY, PROXY, DIRECT], "direct", "direct", STAY),
    ("clearly faster", [DIRECT, but(OTHER, rtt_ms=79.0)], "direct", "other", Reason.FASTER),
    ("not by the share", [DIRECT, but(OTHER, rtt_ms=81.0)], "direct", "direct", STAY),
    ("not by the milliseconds", [but(DIRECT, rtt_ms=6.0), but(OTHER, rtt_ms=2.0)], "direct", "direct", STAY),
    ("a measured one before one that isn't", [but(DIRECT, rtt_ms=None), OTHER], "direct", "other", Reason.FASTER),
    ("none is measured", [but(DIRECT, rtt_ms=None), but(OTHER, rtt_ms=None)], "direct", "direct", STAY),
    ("direct fails", [OVERLAY, PROXY, but(DIRECT, **failing)], "direct", "proxy", Reason.FAILED),
    ("direct fails, not the other", [OVERLAY, PROXY, OTHER, but(DIRECT, **failing)], "direct", "other", Reason.FAILED),
    (
        "all but the overlay fail",
        [OVERLAY, but(PROXY, **failing), but(DIRECT, **failing)],
        "direct",
        None,
        Reason.FAILED,
    ),
    ("direct was proven too long ago", [OVERLAY, PROXY, but(DIRECT, **lapsed)], "direct", "proxy", Reason.LAPSED),
    ("direct is not fresh, but holds", [OVERLAY, PROXY, but(DIRECT, **stale)], "direct", "direct", STAY),
    ("direct is not fresh enough", [OVERLAY, PROXY, but(DIRECT, **stale)], "proxy", "proxy", STAY),
    ("the fresh one", [PROXY, but(DIRECT, **stale), but(OTHER, rtt_ms=300.0)], "proxy", "other", Reason.BETTER_CLASS),
    ("the path in use vanished", [OVERLAY, PROXY], "direct", "proxy", Reason.GONE),
    ("all fail", [but(PROXY, failures=3), but(DIRECT, failures=2)], "proxy", "direct", Reason.LAST_RESORT),
    ("all lapsed", [but(PROXY, **lapsed), but(DIRECT, **lapsed)], "proxy", "direct", Reason.LAST_RESORT),
    ("the only one fails", [but(DIRECT, **failing)], "direct", "direct", Reason.LAST_RESORT),
    ("even the overlay fails", [but(OVERLAY, **failing), PROXY], None, "proxy", Reason.FAILED),
    ("direct failed a moment ago", [PROXY, but(DIRECT, failed_at=NOW - 1)], "proxy", "proxy", STAY),
    (
        "direct failed a while ago",
        [PROXY, but(DIRECT, failed_at=NOW - RETAKE_S)],
        "proxy",
        "direct",
        Reason.BETTER_CLASS,
    ),
    (
        "direct keeps failing",
        [PROXY, but(DIRECT, failed_at=NOW - RETAKE_S, relapses=1)],
        "proxy",
        "proxy",
        STAY,
    ),
    (
        "direct kept failing, but is back",
        [PROXY, but(DIRECT, failed_at=NOW - MAX_RETAKE_S, relapses=1000)],
        "proxy",
        "direct",
        Reason.BETTER_CLASS,
    ),
    (
        "a path that failed a moment ago, when nothing else works",
        [but(PROXY, **failing), but(DIRECT, failed_at=NOW - 1)],
        "proxy",
        "direct",
        Reason.FAILED,
    ),
]


@pytest.mark.parametrize(("what", "paths", "current", "expected", "reason"), TABLE, ids=[row[0] for row in TABLE])
def test_the_choice(what: str, paths: list[Path], current: str | None, expected: str | None, reason: Reason) -> None:
    for order in (paths, paths[::-1]):
        choice = choose(NOW, order, current)
        assert choice.chosen is not None
        assert choice.chosen.path == expected
        assert choice.reason is reason


# As above, when the path in use began to fail two seconds ago: what was proven before doesn't count for much.
DOUBTED_AT = NOW - 2
before, since = {"proven_at": NOW - 3}, {"proven_at": NOW - 1}
DOUBTED: list[tuple[str, list[Path], str | None, str | None, Reason]] = [
    (
        "direct failed, the other is untried",
        [OVERLAY, PROXY, but(OTHER, **before), but(DIRECT, **failing)],
        "direct",
        "proxy",
        Reason.FAILED,
    ),
    (
        "direct failed, the other is proven",
        [OVERLAY, PROXY, but(OTHER, **since), but(DIRECT, **failing)],
        "direct",
        "other",
        Reason.FAILED,
    ),
    (
        "direct failed, all others are untried",
        [OVERLAY, but(PROXY, **before), but(OTHER, **before), but(DIRECT, **failing)],
        "direct",
        None,
        Reason.FAILED,
    ),
    (
        "direct failed, and without an overlay an untried one must do",
        [but(OTHER, **before), but(DIRECT, **failing)],
        "direct",
        "other",
        Reason.FAILED,
    ),
    ("a better kind, but untried", [PROXY, but(DIRECT, **before)], "proxy", "proxy", STAY),
    ("a better kind, and proven", [PROXY, but(DIRECT, **since)], "proxy", "direct", Reason.BETTER_CLASS),
    ("faster, but untried", [DIRECT, but(OTHER, rtt_ms=9.0, **before)], "direct", "direct", STAY),
    ("the path in use is no worse for it", [PROXY, but(DIRECT, **before)], "direct", "direct", STAY),
]


@pytest.mark.parametrize(("what", "paths", "current", "expected", "reason"), DOUBTED, ids=[row[0] for row in DOUBTED])
def test_the_choice_after_the_path_in_use_began_to_fail(
    what: str, paths: list[Path], current: str | None, expected: str | None, reason: Reason
) -> None:
    for order in (paths, paths[::-1]):
        choice = choose(NOW, order, current, DOUBTED_AT)
        assert choice.chosen is not None
        assert choice.chosen.path == expected
        assert choice.reason is reason


def test_without_any_path_there_is_no_choice() -> None:
    choice = choose(NOW, [], "direct")
    assert choice.chosen is None
    assert choice.reason is Reason.NO_PATH
    assert choice.spare is None


def test_the_best_of_the_others_is_kept_warm_if_it_works() -> None:
    assert choose(NOW, [OVERLAY, PROXY, DIRECT], "direct").spare == PROXY
    assert choose(NOW, [OVERLAY, but(PROXY, failures=1), DIRECT], "direct").spare == OVERLAY
    assert choose(NOW, [but(PROXY, failures=1), DIRECT], "direct").spare is None
    assert choose(NOW, [DIRECT], "direct").spare is None


def switches(paths_at: Callable[[int], list[Path]], steps: int, current: str | None) -> int:
    """How often the choice changes after the first, one step a second."""
    changes = -1
    chosen: str | None = current
    first = True
    for step in range(steps):
        choice = choose(NOW + step, paths_at(step), chosen)
        assert choice.chosen is not None
        changes += first or choice.chosen.path != chosen
        first, chosen = False, choice.chosen.path
    return changes


@given(
    st.floats(1.0, 500.0),
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)), min_size=10, max_size=100),
)
@fuzzed()
def test_jitter_below_the_margin_never_makes_the_choice_flap(
    rtt_ms: float, noise: list[tuple[float, float, float]]
) -> None:
    # Both ends of the noise: (1 - share/2.5) / (1 + share/2.5) is still more than 1 - share.
    jitter = FASTER_SHARE / 2.5

    def paths_at(step: int) -> list[Path]:
        return [
            ProvenPath(f"path {number}", PathClass.DIRECT, rtt_ms * (1 + jitter * each), NOW + step)
            for number, each in enumerate(noise[step])
        ]

    assert switches(paths_at, len(noise), None) == 0


@given(st.lists(st.floats(0.0, 2 * FASTER_MS - 0.1), min_size=4, max_size=100))
@fuzzed()
def test_on_a_lan_no_choice_depends_on_fractions_of_a_millisecond(rtts_ms: list[float]) -> None:
    def paths_at(step: int) -> list[Path]:
        quick = FASTER_MS / 2 + rtts_ms[step] / 4
        return [
            ProvenPath("a", PathClass.DIRECT, quick, NOW + step),
            ProvenPath("b", PathClass.DIRECT, FASTER_MS / 2, NOW + step),
        ]

    assert switches(paths_at, len(rtts_ms), "a") == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_direct_path_that_comes_and_goes_takes_the_traffic_ever_more_seldom(seed: int) -> None:
    rng = Random(seed)
    failed_at, relapses, works, proven_at = None, 0, True, NOW
    history: list[Path] = []
    for step in range(300):
        was_working, works = works, rng.random() < 0.7
        if works:
            proven_at = NOW + step
        else:
            failed_at = NOW + step
            relapses += was_working
        history.append(ProvenPath("direct", PathClass.DIRECT, 20.0, proven_at, 0 if works else 1, failed_at, relapses))

    def paths_at(step: int) -> list[Path]:
        return [history[step], ProvenPath("proxy", PathClass.PROXY, 50.0, NOW + step)]

    changes = switches(paths_at, len(history), "proxy")
    print(f"seed {seed}: {changes} changes for {relapses} relapses")
    assert relapses > 40
    assert changes <= 8


kinds = st.sampled_from(PathClass)
times = st.floats(NOW - 2 * LAPSE_S, NOW)
anything = st.builds(
    ProvenPath[int],
    st.integers(0, 5),
    kinds,
    st.none() | st.floats(0.1, 2000.0),
    times,
    st.integers(0, 3),
    st.none() | times,
    st.integers(0, 50),
)


@given(
    st.lists(anything, max_size=6, unique_by=lambda each: each.path), st.none() | st.integers(0, 5), st.none() | times
)
@fuzzed()
def test_whatever_is_known_the_choice_is_one_of_it_and_stands(
    paths: list[ProvenPath[int]], current: int | None, doubted_at: float | None
) -> None:
    choice = choose(NOW, paths, current, doubted_at)
    assert (choice.chosen is None) == (not paths)
    if choice.chosen is None:
        return
    assert choice.chosen in paths
    assert choice.spare is None or (choice.spare in paths and choice.spare != choice.chosen)
    again = choose(NOW, paths, choice.chosen.path, doubted_at)
    works = choice.reason is not Reason.LAST_RESORT
    assert again.chosen == choice.chosen
    assert again.reason is (Reason.NO_REASON_TO_CHANGE if works else Reason.LAST_RESORT)
    if works:
        assert choice.chosen.failures == 0
