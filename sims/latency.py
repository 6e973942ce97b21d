"""How long a datagram takes from one place to another: a constant, a measured matrix, or points on a plane.

A model knows places by number. It holds no state and draws no random numbers: loss and jitter are the network's.
Sources of the file formats: NetLatency-Data (PlanetLab matrices of round-trip times in ms) and OverSim (node lists
whose Euclidean distance is the one-way delay in ms).
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from math import hypot, isfinite
from typing import Protocol

COLOCATED_RTT_MS = 1.0  # between two hosts that share a row of a matrix, or a point: one site, one switch


class Latency(Protocol):
    """One-way delays between places."""

    def one_way_s(self, source: int, destination: int) -> float:
        """Seconds from `source` to `destination`; never negative."""


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
    def load(cls, path: str) -> Matrix:
        """Reads a square matrix of RTTs in ms, one row a line, between blanks; gzipped or not. Raises ValueError."""
        rows: list[list[float]] = []
        for number, line in _lines(path):
            if not line.strip():
                continue
            row = [_number(word, path, number) for word in line.split()]
            if any(ms < 0 for ms in row):
                raise ValueError(f"{path}, line {number}: a round-trip time is negative")
            if rows and len(row) != len(rows[0]):
                raise ValueError(f"{path}, line {number}: {len(row)} columns, where line 1 has {len(rows[0])}")
            rows.append(row)
        if not rows or len(rows) != len(rows[0]):
            columns = len(rows[0]) if rows else 0
            raise ValueError(f"{path}: {len(rows)} rows of {columns} columns are not a square matrix")
        return cls(rows)

    def __len__(self) -> int:
        return self._rows

    def one_way_s(self, source: int, destination: int) -> float:
        return self._one_way_s[source % self._rows][destination % self._rows]


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
        for number, line in _lines(path):
            text = line.strip()
            if match := _COORDINATE.fullmatch(text):
                if not opened_at:
                    raise ValueError(f"{path}, line {number}: a coordinate outside any node")
                coordinates.append(_number(match[1], path, number))
            elif text == "</node>":
                if not opened_at or len(coordinates) != 2:
                    raise ValueError(f"{path}, line {number}: a node has {len(coordinates)} coordinates, not 2")
                if not is_root:
                    points.append((coordinates[0], coordinates[1]))
                opened_at, coordinates = 0, []
            elif text.startswith("<node ") or text == "<node>":
                if opened_at:
                    raise ValueError(f"{path}, line {number}: the node of line {opened_at} is not closed")
                opened_at, is_root = number, 'isroot="1"' in text
            elif text and not _FRAME.fullmatch(text):
                raise ValueError(f"{path}, line {number}: '{text[:40]}' is not part of a node list")
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


def _number(word: str, path: str, line: int) -> float:
    try:
        number = float(word)
    except ValueError:
        raise ValueError(f"{path}, line {line}: '{word[:40]}' is not a number") from None
    if not isfinite(number):
        raise ValueError(f"{path}, line {line}: '{word}' is not a finite number")
    return number


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file that may be gzipped. Raises ValueError when it is neither."""
    with io.FileIO(path) as file, io.BufferedReader(file) as plain:
        zipped = plain.peek(2)[:2] == b"\x1f\x8b"
        try:
            with io.TextIOWrapper(gzip.GzipFile(fileobj=plain) if zipped else plain, encoding="ascii") as text:
                yield from enumerate(text, start=1)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path}: damaged gzip file: {error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a text file") from None
