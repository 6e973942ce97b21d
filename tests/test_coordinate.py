"""Coordinates: one encoding, nothing absurd let in, and a distance that behaves like one."""

from __future__ import annotations

from math import inf, nan
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.coordinate import COORDINATE_BYTES, MAX_ERROR, MAX_HEIGHT_MS, MAX_PLANE_MS, Coordinate, distance_ms
from dht.errors import BadDatagram
from tests.fuzzing import fuzzed

plane = st.floats(-MAX_PLANE_MS, MAX_PLANE_MS)
heights = st.floats(0.0, MAX_HEIGHT_MS)
errors = st.floats(0.0, MAX_ERROR)
coordinates = st.builds(Coordinate, plane, plane, heights, errors)


@given(coordinates)
@fuzzed()
def test_a_coordinate_comes_back_to_the_microsecond(coordinate: Coordinate) -> None:
    packed = coordinate.pack()
    again = Coordinate.parse(packed)
    assert len(packed) == COORDINATE_BYTES
    assert again.x_ms == pytest.approx(coordinate.x_ms, abs=0.0006)
    assert again.y_ms == pytest.approx(coordinate.y_ms, abs=0.0006)
    assert again.height_ms == pytest.approx(coordinate.height_ms, abs=0.0006)
    assert again.error == pytest.approx(coordinate.error, abs=0.00006)
    assert again.pack() == packed


@given(st.binary(min_size=COORDINATE_BYTES, max_size=COORDINATE_BYTES) | st.binary(max_size=2 * COORDINATE_BYTES))
@fuzzed()
def test_any_bytes_are_one_coordinate_or_refused(packed: bytes) -> None:
    try:
        coordinate = Coordinate.parse(packed)
    except BadDatagram:
        return
    assert coordinate.pack() == packed
    assert abs(coordinate.x_ms) <= MAX_PLANE_MS
    assert abs(coordinate.y_ms) <= MAX_PLANE_MS
    assert coordinate.height_ms <= MAX_HEIGHT_MS


@pytest.mark.parametrize(
    "numbers",
    [
        (5_000_001, 0, 0, 0),
        (-5_000_001, 0, 0, 0),
        (0, 5_000_001, 0, 0),
        (0, 0, 5_000_001, 0),
        (0, 0, 0xFFFFFFFF, 0),
        (0, 0, 0, 10_001),
    ],
)
def test_numbers_out_of_range_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(BadDatagram, match="a coordinate"):
        Coordinate.parse(pack(">iiIH", *numbers))


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("place", range(4))
def test_what_is_no_number_cannot_be_a_coordinate(bad: float, place: int) -> None:
    numbers = [1.0, 1.0, 1.0, 0.5]
    numbers[place] = bad
    with pytest.raises(ValueError, match="a coordinate"):
        Coordinate(*numbers)


def test_the_distance_is_that_on_the_plane_and_both_heights() -> None:
    assert distance_ms(Coordinate(0, 0, 5, 0), Coordinate(30, 40, 7, 1)) == pytest.approx(62.0)


@given(coordinates, coordinates, coordinates)
@fuzzed()
def test_distances_are_symmetric_and_obey_the_triangle_inequality(a: Coordinate, b: Coordinate, c: Coordinate) -> None:
    assert distance_ms(a, b) == pytest.approx(distance_ms(b, a))
    assert distance_ms(a, b) >= 0.0
    assert distance_ms(a, c) <= distance_ms(a, b) + distance_ms(b, c) + 1e-6
