"""The models that hold what they were given: a constant, a matrix of measured round trips, points on a plane.

Sources of the file formats: NetLatency-Data (PlanetLab matrices of round-trip times in ms, Seattle matrices in s with
missing values) and OverSim (node lists whose Euclidean distance is the one-way delay in ms).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from math import hypot, isnan, nan
from statistics import median
from typing import Protocol

from sims.latency.text import lines, number

COLOCATED_RTT_MS = 1.0  # between two hosts that share a row of a matrix, or a point: one site, one switch
MAX_ROWS = 20_000  # of a matrix: already 3 GB of numbers


class Latency(Protocol):
    """One-way delays between places."""

    def one_way_s(self, source: int, destination: int) -> float:
        """Seconds from `source` to `destination`; never negative."""


class Missing(Enum):
    """What becomes of a pair that was not measured: the file is refused, or the gap is filled with the value of the
    opposite direction, else with the median of what its row and its column have."""

    REFUSE = "refuse"
    FILL = "fill"


class Constant:
    """The same round-trip time between all places."""

    __slots__ = ("_one_way_s",)

    def __init__(self, rtt_ms: float) -> None:
        self._one_way_s = rtt_ms / 2000.0

    def one_way_s(self, source: int, destination: int) -> float:
        return self._one_way_s


class Matrix:
    """Measured round-trip times. Place k is row k modulo the number of rows; neighbours on a row are 1 ms apart."""

    __slots__ = ("_one_way_s", "_rows")

    def __init__(self, rtt_ms: Sequence[Sequence[float]]) -> None:
        if not rtt_ms or any(len(row) != len(rtt_ms) for row in rtt_ms):
            raise ValueError("a latency matrix has as many columns in every row as it has rows, and at least one")
        self._rows = len(rtt_ms)
        self._one_way_s = [
            [(ms if a != b else max(ms, COLOCATED_RTT_MS)) / 2000.0 for b, ms in enumerate(row)]
            for a, row in enumerate(rtt_ms)
        ]

    @classmethod
    def load(cls, path: str, unit_ms: float = 1.0, missing: Missing = Missing.REFUSE) -> Matrix:
        """Reads a square matrix of RTTs, one row a line, between blanks or commas; gzipped or not. `unit_ms`: what one
        of its numbers is, 1000 where they are seconds. A pair without value is -1 or nan, or nothing between commas;
        lines that begin with # say nothing. Raises ValueError."""
        rows: list[list[float]] = []
        for line, text in lines(path):
            if not text.strip() or text.startswith("#"):
                continue
            words = [word.strip() or "nan" for word in text.split(",")] if "," in text else text.split()
            row = [_measured(word, path, line, missing) * unit_ms for word in words]
            if rows and len(row) != len(rows[0]):
                raise ValueError(f"{path}, line {line}: {len(row)} columns, where line 1 has {len(rows[0])}")
            rows.append(row)
            if len(rows) > MAX_ROWS:
                raise ValueError(f"{path}, line {line}: a matrix has at most {MAX_ROWS} rows")
        if not rows or len(rows) != len(rows[0]):
            columns = len(rows[0]) if rows else 0
            raise ValueError(f"{path}: {len(rows)} rows of {columns} columns are not a square matrix")
        return cls(filled(rows, path))

    def __len__(self) -> int:
        return self._rows

    def one_way_s(self, source: int, destination: int) -> float:
        return self._one_way_s[source % self._rows][destination % self._rows]


def filled(rows: list[list[float]], path: str) -> list[list[float]]:
    """`rows` with every nan replaced, as `Missing.FILL` has it. Raises ValueError for a row of nothing else."""
    gaps = [(a, b) for a, row in enumerate(rows) for b, ms in enumerate(row) if isnan(ms)]
    if not gaps:
        return rows
    known: list[list[float]] = [
        [ms for b, ms in enumerate(row) if a != b and not isnan(ms)] for a, row in enumerate(rows)
    ]
    for a, row in enumerate(rows):
        for b, ms in enumerate(row):
            if a != b and not isnan(ms):
                known[b].append(ms)
    result = [list(row) for row in rows]
    middle = [median(values) if values else nan for values in known]
    for a, b in gaps:
        opposite = rows[b][a]
        if a == b:
            result[a][b] = 0.0
        elif not isnan(opposite):
            result[a][b] = opposite
        elif isnan(middle[a]) or isnan(middle[b]):
            raise ValueError(f"{path}: row {(a if isnan(middle[a]) else b) + 1} has no measured value at all")
        else:
            result[a][b] = (middle[a] + middle[b]) / 2
    return result


def _measured(word: str, path: str, line: int, missing: Missing) -> float:
    """One round trip in the file's unit; nan where there is none and `missing` allows it."""
    if word.lower() == "nan":
        if missing is Missing.FILL:
            return nan
        raise ValueError(f"{path}, line {line}: a round-trip time is missing; ask for filling (missing = 'fill')")
    value = number(word, path, line)
    if value < 0:
        if missing is Missing.FILL:
            return nan
        raise ValueError(
            f"{path}, line {line}: a round-trip time is negative; if that means that it is missing, ask for filling"
            " (missing = 'fill')"
        )
    return value


class Euclid:
    """Points whose distance is the one-way delay in ms. Place k is point k modulo their number."""

    __slots__ = ("_points",)

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        if not points:
            raise ValueError("no coordinates given")
        self._points = list(points)

    @classmethod
    def load(cls, path: str) -> Euclid:
        """Reads an OverSim node list, one element a line, gzipped or not; its root servers are left out.

        Not by an XML parser: the format has one element a line, and errors can name it. Raises ValueError.
        """
        points: list[tuple[float, float]] = []
        coordinates: list[float] = []
        opened_at, is_root = 0, False
        for line, content in lines(path):
            text = content.strip()
            if match := _COORDINATE.fullmatch(text):
                if not opened_at:
                    raise ValueError(f"{path}, line {line}: a coordinate outside any node")
                coordinates.append(number(match[1], path, line))
            elif text == "</node>":
                if not opened_at or len(coordinates) != 2:
                    raise ValueError(f"{path}, line {line}: a node has {len(coordinates)} coordinates, not 2")
                if not is_root:
                    points.append((coordinates[0], coordinates[1]))
                opened_at, coordinates = 0, []
            elif text.startswith("<node ") or text == "<node>":
                if opened_at:
                    raise ValueError(f"{path}, line {line}: the node of line {opened_at} is not closed")
                opened_at, is_root = line, 'isroot="1"' in text
            elif text and not _FRAME.fullmatch(text):
                raise ValueError(f"{path}, line {line}: '{text[:40]}' is not part of a node list")
        if opened_at:
            raise ValueError(f"{path}, line {opened_at}: this node is not closed")
        if not points:
            raise ValueError(f"{path}: no node with coordinates")
        return cls(points)

    def __len__(self) -> int:
        return len(self._points)

    def one_way_s(self, source: int, destination: int) -> float:
        points = self._points
        (x1, y1), (x2, y2) = points[source % len(points)], points[destination % len(points)]
        return max(hypot(x1 - x2, y1 - y2), COLOCATED_RTT_MS / 2) / 1000.0


_COORDINATE = re.compile(r"<coord>\s*(\S+)\s*</coord>")
_FRAME = re.compile(r"</?nodelist[^>]*>|<\?xml[^>]*>|<!--.*-->")
