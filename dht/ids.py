"""Arithmetic on the ring of 160-bit ids. Pure: no clock, no I/O.

Source: Stoica et al., "Chord", SIGCOMM 2001, section 4 (the identifier circle).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

BITS = 160
RING = 1 << BITS
HALF = RING >> 1
ID_BYTES = BITS // 8


def clockwise(start: int, end: int) -> int:
    """Distance from `start` to `end`, in the direction of growing ids."""
    return (end - start) % RING


def distance(a: int, b: int) -> int:
    """The shorter way round between `a` and `b`."""
    forth = (b - a) % RING
    return forth if forth <= HALF else RING - forth


def in_open(x: int, left: int, right: int) -> bool:
    """x in (left, right); everything but `left` when left == right."""
    if left == right:
        return x != left
    return 0 < clockwise(left, x) < clockwise(left, right)


def in_open_closed(x: int, left: int, right: int) -> bool:
    """x in (left, right]; the whole ring when left == right, as in Chord."""
    return left == right or 0 < clockwise(left, x) <= clockwise(left, right)


def closer(target: int, a: int, b: int) -> bool:
    """Whether `a` is nearer to `target` than `b`. Of two equally near, the clockwise one of `target` wins, so
    that every target has exactly one nearest node."""
    forth_a, forth_b = (a - target) % RING, (b - target) % RING
    distance_a = forth_a if forth_a <= HALF else RING - forth_a
    distance_b = forth_b if forth_b <= HALF else RING - forth_b
    if distance_a != distance_b:
        return distance_a < distance_b
    return a != b and forth_a == distance_a


def nearest(target: int, ids: Iterable[int], count: int) -> list[int]:
    """The `count` of `ids` that are nearest to `target` in the sense of `closer`, nearest first."""

    def away(node_id: int) -> int:
        # Twice the distance, and one more for the side that loses between two equally near.
        forth = (node_id - target) % RING
        return 2 * forth if forth <= HALF else 2 * (RING - forth) + 1

    return sorted(ids, key=away)[:count]


def key_of(name: str) -> int:
    """The place of a DHT name on the ring: the first 160 bits of its BLAKE2b hash."""
    return int.from_bytes(blake2b(name.encode(), digest_size=ID_BYTES).digest(), "big")


def id_bytes(node_id: int) -> bytes:
    return node_id.to_bytes(ID_BYTES, "big")


def short(node_id: int) -> str:
    """The first 8 hex digits, for logs and people."""
    return f"{node_id >> (BITS - 32):08x}"
