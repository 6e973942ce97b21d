"""Numbers from rows: one a seed, and the interval over seeds."""

from __future__ import annotations

from math import isclose

import pytest

from sims.scenario.measures import Estimate, Reduce, Selection, distributions, lines, quantile, reduced, student_t


@pytest.mark.parametrize(
    ("degrees", "expected"),
    # Abramowitz and Stegun, table 26.10
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_students_t_is_that_of_the_tables(degrees: int, expected: float) -> None:
    assert student_t(degrees) == pytest.approx(expected, abs=6e-4)


def test_an_interval_needs_two_seeds() -> None:
    assert Estimate.of([3.0]) == Estimate(3.0, None, None, (3.0,))
    two = Estimate.of([1.0, 3.0])
    assert two.low is not None and two.high is not None
    assert two.mean == 2.0 and isclose(two.high - two.mean, 12.706, abs_tol=1e-3)
    with pytest.raises(ValueError, match="no value"):
        Estimate.of([])


def test_reductions() -> None:
    values = [4.0, 1.0, 3.0, 0.0]
    expected = {
        Reduce.MEAN: 2.0,
        Reduce.MEDIAN: 2.0,
        Reduce.P90: pytest.approx(3.7),
        Reduce.P99: pytest.approx(3.97),
        Reduce.MIN: 0.0,
        Reduce.MAX: 4.0,
        Reduce.SUM: 8.0,
        Reduce.COUNT: 4.0,
        Reduce.SHARE: 0.75,
        Reduce.LAST: 0.0,
    }
    assert {reduce: reduced(reduce, values) for reduce in Reduce} == expected
    assert quantile([5.0], 0.99) == 5.0
    empty = {reduce: reduced(reduce, []) for reduce in Reduce}
    assert {reduce for reduce, value in empty.items() if value is not None} == {Reduce.SUM, Reduce.COUNT}


ROWS = [
    {"kind": "lookup", "seed": seed, "nodes": nodes, "t_s": t_s, "hops": hops, "ok": hops < 5}
    for seed, nodes, t_s, hops in [(1, 8, 0.5, 1), (1, 8, 1.5, 3), (2, 8, 0.5, 4), (1, 16, 0.5, 2), (2, 16, 3.0, 6)]
]
HOPS = Selection("lookup", "hops", Reduce.MEAN, {})


def test_a_line_has_at_each_x_one_number_a_seed() -> None:
    (line,) = lines([*ROWS, {"kind": "other", "seed": 1, "hops": 99}], HOPS, "nodes", "")
    assert [(x, estimate.values) for x, estimate in line.points] == [(8, (2.0, 4.0)), (16, (2.0, 6.0))]


def test_lines_are_told_apart_and_time_is_binned() -> None:
    first, second = lines(ROWS, HOPS, "t_s", "nodes", x_step=2.0)
    assert (first.label, second.label) == ("nodes = 8", "nodes = 16")
    assert [(x, estimate.mean) for x, estimate in first.points] == [(0.0, 3.0)]
    assert [(x, estimate.mean) for x, estimate in second.points] == [(0.0, 2.0), (2.0, 6.0)]


def test_only_rows_with_the_wanted_values_count() -> None:
    right = Selection("lookup", "hops", Reduce.MAX, {"ok": True, "nodes": 16})
    assert right.number(ROWS) == 2.0
    assert Selection("lookup", "", Reduce.COUNT, {"nodes": 8}).number(ROWS) == 3.0
    assert Selection("lookup", "absent", Reduce.MEAN, {}).number(ROWS) is None
    with pytest.raises(ValueError, match="'kind' is 'lookup' in a row of kind 'lookup'"):
        Selection("lookup", "kind", Reduce.MEAN, {}).number(ROWS)


def test_a_distribution_ends_at_one_and_never_falls() -> None:
    (line,) = distributions(ROWS, HOPS, "")
    means = [estimate.mean for _, estimate in line.points]
    assert means == sorted(means) and means[-1] == 1.0
    # At 3 hops: all three but none of seed 1's, none of seed 2's.
    assert dict(line.points)[3.0].values == (1.0, 0.0)
