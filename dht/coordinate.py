"""Where a node is in the space of round-trip times: two dimensions and a height, and how sure it is of that.

The distance of two coordinates predicts the round trip between their owners: the Euclidean distance on the plane,
which stands for the core of the network, plus both heights, which stand for the access links. Pings carry coordinates
as 14 bytes of fixed-point numbers, so that NaN and infinity can't even be written. Nothing here decides where a node
is: that is `shortcuts.vivaldi`. A peer's coordinate is a claim; only its range is checked.
Source: Dabek, Cox, Kaashoek, Morris, "Vivaldi: a decentralized network coordinate system" (SIGCOMM 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from struct import Struct
from typing import Final

from dht.errors import BadDatagram

MAX_PLANE_MS: Final = 5_000.0  # of x and y, either way from the origin
MAX_HEIGHT_MS: Final = 5_000.0
MAX_ERROR: Final = 1.0
COORDINATE_BYTES: Final = 14

_PACKED: Final = Struct(">iiIH")  # x, y and height in µs, error in 1/10000
_US_PER_MS: Final = 1000
_ERROR_UNITS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A point on the plane and a height above it, in ms of round trip, and the owner's local error: how far its
    predictions have lately been off, relative to what was measured, from 0 to 1.

    Raises ValueError for numbers out of range, NaN included."""

    x_ms: float
    y_ms: float
    height_ms: float
    error: float

    def __post_init__(self) -> None:
        # Written so that NaN, which compares false with everything, is refused too.
        if not (abs(self.x_ms) <= MAX_PLANE_MS and abs(self.y_ms) <= MAX_PLANE_MS):
            raise ValueError(f"a coordinate at ({self.x_ms}, {self.y_ms}) ms, beyond {MAX_PLANE_MS}")
        if not 0.0 <= self.height_ms <= MAX_HEIGHT_MS:
            raise ValueError(f"a coordinate with a height of {self.height_ms} ms, not 0 to {MAX_HEIGHT_MS}")
        if not 0.0 <= self.error <= MAX_ERROR:
            raise ValueError(f"a coordinate with an error of {self.error}, not 0 to {MAX_ERROR}")

    def pack(self) -> bytes:
        """COORDINATE_BYTES, rounded to µs and to 1/10000 of error."""
        return _PACKED.pack(
            round(self.x_ms * _US_PER_MS),
            round(self.y_ms * _US_PER_MS),
            round(self.height_ms * _US_PER_MS),
            round(self.error * _ERROR_UNITS),
        )

    @classmethod
    def parse(cls, packed: bytes) -> Coordinate:
        """The inverse of `pack`. Raises BadDatagram for another length or numbers out of range."""
        if len(packed) != COORDINATE_BYTES:
            raise BadDatagram(f"a coordinate has {COORDINATE_BYTES} bytes, not {len(packed)}")
        x, y, height, error = _PACKED.unpack(packed)
        try:
            return cls(x / _US_PER_MS, y / _US_PER_MS, height / _US_PER_MS, error / _ERROR_UNITS)
        except ValueError as refused:
            raise BadDatagram(str(refused)) from None


def distance_ms(a: Coordinate, b: Coordinate) -> float:
    """The round trip that two coordinates predict. Not 0 for a node and itself: its packets would climb its access
    link twice."""
    return hypot(a.x_ms - b.x_ms, a.y_ms - b.y_ms) + a.height_ms + b.height_ms
