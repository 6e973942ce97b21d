"""Numbers from raw rows: reductions, their mean over seeds with a 95 % confidence interval, and series for plots.

Each seed gives one number; the interval is Student's t over the seeds. Rows of one run are never treated as
independent samples. Pure.
Source of the t-distribution: Abramowitz and Stegun, "Handbook of Mathematical Functions", section 26.7.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import atan, cos, floor, fsum, pi, sin, sqrt
from statistics import fmean, stdev
from typing import Any, assert_never

Row = Mapping[str, Any]

CONFIDENCE = 0.95
CDF_STEPS = 200  # places at most that a distribution's curve has


class Reduce(StrEnum):
    """How the rows of one seed become one number."""

    MEAN = "mean"
    MEDIAN = "median"
    P90 = "p90"
    P99 = "p99"
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    COUNT = "count"
    SHARE = "share"  # of rows whose value is true or not 0
    LAST = "last"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % confidence interval; without an interval when there is one seed only."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Raises ValueError without values."""
        if not values:
            raise ValueError("no value to estimate from")
        mean = fmean(values)
        if len(values) < 2:
            return cls(mean, None, None, tuple(values))
        half = student_t(len(values) - 1) * stdev(values) / sqrt(len(values))
        return cls(mean, mean - half, mean + half, tuple(values))

    def __str__(self) -> str:
        half = "" if self.high is None else f" ± {self.high - self.mean:.3g}"
        return f"{self.mean:.4g}{half}"


def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t. Raises ValueError below one degree of freedom."""
    if degrees < 1:
        raise ValueError("Student's t needs at least one degree of freedom")
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return low


def _within(t: float, degrees: int) -> float:
    """The probability that Student's t lies between -t and t: exact sums, 26.7.3 and 26.7.4."""
    angle = atan(t / sqrt(degrees))
    cosine = cos(angle)
    term = total = cosine if degrees % 2 else 1.0
    for k in range(3 if degrees % 2 else 2, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if degrees == 1:
        return 2 * angle / pi
    return 2 / pi * (angle + sin(angle) * total) if degrees % 2 else sin(angle) * total


@dataclass(frozen=True)
class Selection:
    """Which rows count, and which of their values: those of kind `rows` that have every value of `where`."""

    rows: str
    value: str
    reduce: Reduce
    where: Mapping[str, Any]

    def takes(self, row: Row) -> bool:
        return row["kind"] == self.rows and all(row.get(key) == wanted for key, wanted in self.where.items())

    def counted(self, row: Row) -> float | None:
        """What a row that is taken adds; None when it has no such value. Raises ValueError for one that is no
        number."""
        if self.reduce is Reduce.COUNT:
            return 1.0
        value = row.get(self.value)
        if value is None:
            return None
        if not isinstance(value, bool | int | float):
            raise ValueError(f"'{self.value}' is {value!r} in a row of kind '{row['kind']}', which is no number")
        return float(value)

    def number(self, rows: Iterable[Row]) -> float | None:
        """What rows of one seed come to; None where there is nothing to reduce. Raises ValueError as `counted`."""
        values = (self.counted(row) for row in rows if self.takes(row))
        return reduced(self.reduce, [value for value in values if value is not None])


def reduced(reduce: Reduce, values: Sequence[Any]) -> float | None:
    """One number from many; None from nothing, but for counts and sums, which are 0."""
    if reduce is Reduce.COUNT:
        return float(len(values))
    if reduce is Reduce.SUM:
        return fsum(values)
    if not values:
        return None
    match reduce:
        case Reduce.MEAN:
            return fmean(values)
        case Reduce.MEDIAN:
            return quantile(values, 0.5)
        case Reduce.P90:
            return quantile(values, 0.9)
        case Reduce.P99:
            return quantile(values, 0.99)
        case Reduce.MIN:
            return float(min(values))
        case Reduce.MAX:
            return float(max(values))
        case Reduce.SHARE:
            return sum(bool(value) for value in values) / len(values)
        case Reduce.LAST:
            return float(values[-1])
        case _ as never:
            assert_never(never)


def quantile(values: Sequence[float], share: float) -> float:
    """With linear interpolation between order statistics (type 7 of Hyndman and Fan, 1996)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = floor(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


@dataclass(frozen=True)
class Series:
    """One line of a plot: an estimate at each x, in the order of x. Texts are their own labels."""

    label: str
    points: tuple[tuple[Any, Estimate], ...]


def lines(rows: Iterable[Row], chosen: Selection, x: str, by: str, x_step: float = 0.0) -> list[Series]:
    """For each value of `by` (one line without it) and each `x`, rounded down to multiples of `x_step`: the estimate
    over seeds of what the rows there come to."""
    cells: dict[Any, dict[Any, dict[int, list[float]]]] = {}
    for row in rows:
        if not chosen.takes(row) or (at := row.get(x)) is None or (value := chosen.counted(row)) is None:
            continue
        if x_step and isinstance(at, int | float):
            at = floor(at / x_step) * x_step
        line = cells.setdefault(row.get(by) if by else None, {})
        line.setdefault(at, {}).setdefault(row["seed"], []).append(value)
    found = []
    for label in sorted(cells, key=_order):
        points = []
        for at in sorted(cells[label], key=_order):
            numbers = [reduced(chosen.reduce, own) for _, own in sorted(cells[label][at].items())]
            points.append((at, Estimate.of([number for number in numbers if number is not None])))
        found.append(Series("" if label is None else f"{by} = {shown(label)}", tuple(points)))
    return found


def distributions(rows: Iterable[Row], chosen: Selection, by: str) -> list[Series]:
    """For each value of `by`: at quantiles of all its values, the estimate over seeds of the share of values up to
    there."""
    cells: dict[Any, dict[int, list[float]]] = {}
    for row in rows:
        if chosen.takes(row) and (value := chosen.counted(row)) is not None:
            cells.setdefault(row.get(by) if by else None, {}).setdefault(row["seed"], []).append(value)
    found = []
    for label in sorted(cells, key=_order):
        samples = [sorted(own) for _, own in sorted(cells[label].items())]
        pooled = sorted(value for own in samples for value in own)
        places = sorted({pooled[round(step * (len(pooled) - 1) / CDF_STEPS)] for step in range(CDF_STEPS + 1)})
        points = [(at, Estimate.of([bisect_right(own, at) / len(own) for own in samples])) for at in places]
        found.append(Series("" if label is None else f"{by} = {shown(label)}", tuple(points)))
    return found


def shown(value: Any) -> str:
    """A swept or recorded value as scenarios write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers first, by size; then texts."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)
