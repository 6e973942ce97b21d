"""Seals and opens a *run*: datagrams of one size that lie one behind the other, the last of them perhaps shorter.

The AEAD writes at once to where datagrams are sent from, or where plaintexts are read, so that nothing is joined or
copied, and no step of Python is taken for a single datagram. Views into that memory, and what all datagrams of a
size have in common, are prepared once. The memory serves the next run of that size: a result is good only until then.
Pure; knows no session and no window. Whatever is unusual is left to those who take datagrams one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise, repeat
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag

MAX_RUN: Final = 64  # UDP_MAX_SEGMENTS of kernels before 6.11
MAX_RUN_BYTES: Final = 65_507  # what one IPv4 datagram can hold
LEAST_RUN: Final = 3  # fewer are as quickly done one by one
COUNTER_BYTES: Final = 8
TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_SIZES_AT_ONCE: Final = 4  # of which rooms are kept, 64 KiB each

Into = Callable[[bytes | memoryview, bytes | memoryview, None, memoryview], int]  # encrypt_into and decrypt_into


def is_run(plaintexts: Sequence[bytes]) -> bool:
    """Whether all are of one length, but for the last, and enough."""
    size = len(plaintexts[0])
    *others, last = map(len, plaintexts)
    return len(plaintexts) >= LEAST_RUN and last <= size and others == [size] * len(others)


def most(size: int) -> int:
    """How many datagrams of `size` bytes one run may have."""
    return max(1, min(MAX_RUN, MAX_RUN_BYTES // size))


class _Room:
    """Memory for plaintexts or sealed datagrams of `size` bytes, the first `before` of them in the clear."""

    __slots__ = ("bodies", "buffer", "common", "view")

    def __init__(self, size: int, before: int) -> None:
        self.buffer = bytearray(size * most(size))
        self.view = view = memoryview(self.buffer)
        self.bodies = [view[start + before : start + size] for start in range(0, len(view), size)]
        self.common = b""  # what stands in front of every counter's last two bytes


class _Nonces:
    """Places for the nonces of a run."""

    def __init__(self) -> None:
        self.buffer = bytearray(_NONCE_BYTES * MAX_RUN)
        view = memoryview(self.buffer)
        self.each = [view[start : start + _NONCE_BYTES] for start in range(0, len(view), _NONCE_BYTES)]


_nonces = _Nonces()


@lru_cache(maxsize=_SIZES_AT_ONCE)
def _sealing_room(size: int, before: int) -> _Room:
    return _Room(size, before)


@lru_cache(maxsize=_SIZES_AT_ONCE)
def _opening_room(size: int) -> _Room:
    return _Room(size, 0)


@lru_cache(maxsize=2 * MAX_RUN)
def _nonce_format(count: int, big_endian: bool) -> Struct:
    return Struct((">" if big_endian else "<") + "4xQ" * count)


@lru_cache(maxsize=MAX_RUN)
def _low_format(count: int) -> Struct:
    return Struct(f">{count}H")


@lru_cache(maxsize=2 * MAX_RUN)
def _cutter(front_bytes: int, body_bytes: int, skip: int, count: int) -> Struct:
    """Takes `count` datagrams apart: front, counter and what is sealed."""
    return Struct(">" + f"{skip}x{front_bytes}sQ{body_bytes}s" * count)


def seal_run(encrypt_into: Into, big_endian: bool, front: bytes, first: int, plaintexts: Sequence[bytes]) -> memoryview:
    """The datagrams of `plaintexts`, at `most` so many, with counters from `first` on, each behind `front`."""
    count, before = len(plaintexts), len(front) + COUNTER_BYTES
    body_bytes, last_bytes = len(plaintexts[0]) + TAG_BYTES, len(plaintexts[-1]) + TAG_BYTES
    size = before + body_bytes
    room = _sealing_room(size, before)
    buffer, counters = room.buffer, range(first, first + count)
    common = front + (first >> 16).to_bytes(COUNTER_BYTES - 2, "big")
    if common != room.common:
        for at, octet in enumerate(common):
            buffer[at::size] = bytes((octet,)) * len(room.bodies)
        room.common = common
    end = (count - 1) * size + before
    if first & 0xFFFF <= 0xFFFF - count:
        low = _low_format(count).pack(*range(first & 0xFFFF, (first & 0xFFFF) + count))
        buffer[before - 2 : end : size], buffer[before - 1 : end : size] = low[::2], low[1::2]
    else:
        room.common = b""
        for start, counter in zip(range(len(front), end, size), counters, strict=True):
            buffer[start : start + COUNTER_BYTES] = counter.to_bytes(COUNTER_BYTES, "big")
    _nonce_format(count, big_endian).pack_into(_nonces.buffer, 0, *counters)
    bodies = room.bodies
    if last_bytes != body_bytes:
        bodies = [*bodies[: count - 1], room.view[end : end + last_bytes]]
    deque(map(encrypt_into, _nonces.each, plaintexts, repeat(None), bodies), maxlen=0)
    return room.view[: end + last_bytes]


def open_run(
    decrypt_into: Into, big_endian: bool, front: bytes, buffer: memoryview, size: int, skip: int
) -> tuple[memoryview, int, Sequence[int]] | None:
    """The plaintexts of the datagrams in `buffer`, one behind the other; how long each is, but for the last; and the
    counters. None when some do not bear `front` (behind `skip` bytes that are not theirs), are not in the order of
    their counters, or do not authenticate."""
    before = skip + len(front) + COUNTER_BYTES
    whole, rest_bytes = divmod(len(buffer), size)
    body_bytes = size - before
    if not LEAST_RUN <= whole < MAX_RUN or body_bytes <= TAG_BYTES:
        return None
    cut = _cutter(len(front), body_bytes, skip, whole).unpack_from(buffer)
    if rest_bytes:
        if rest_bytes <= before + TAG_BYTES:
            return None
        cut += _cutter(len(front), rest_bytes - before, skip, 1).unpack_from(buffer, whole * size)
    fronts, counters, sealed = cut[::3], cut[1::3], cut[2::3]
    count = len(sealed)
    if fronts != (front,) * count or not _rising(counters):
        return None
    _nonce_format(count, big_endian).pack_into(_nonces.buffer, 0, *counters)
    plaintext_bytes = body_bytes - TAG_BYTES
    room = _opening_room(plaintext_bytes)
    bodies, end = room.bodies, count * plaintext_bytes
    if rest_bytes:
        end += rest_bytes - size
        bodies = [*bodies[:whole], room.view[whole * plaintext_bytes : end]]
    if len(bodies) < count or end > len(room.view):
        return None  # a rest behind a full room: of long datagrams, the plaintexts may be more than `most`
    try:
        deque(map(decrypt_into, _nonces.each, sealed, repeat(None), bodies), maxlen=0)
    except InvalidTag:
        return None
    return room.view[:end], plaintext_bytes, counters


def _rising(counters: Sequence[int]) -> bool:
    first, last = counters[0], counters[-1]
    if last - first == len(counters) - 1 and counters == tuple(range(first, last + 1)):
        return True
    return all(one < following for one, following in pairwise(counters))
