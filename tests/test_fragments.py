"""Long plaintexts in pieces: whatever order, loss, repetition or malice does to them, only whole ones come out."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from dht.fragments import (
    MAX_FRAGMENTS,
    MAX_MESSAGE_BYTES,
    MAX_PARTIAL,
    MAX_PLAINTEXT_BYTES,
    PATIENCE_S,
    Reassembly,
    cut,
)
from tests.fuzzing import fuzzed

HEADER_BYTES = 6


def plaintext_of(size: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(size)


long_sizes = st.integers(MAX_PLAINTEXT_BYTES + 1, MAX_MESSAGE_BYTES)


@given(size=long_sizes, message=st.integers(0, (1 << 32) - 1), order=st.randoms(use_true_random=False))
@fuzzed()
def test_pieces_in_any_order_make_the_whole(size: int, message: int, order: Random) -> None:
    plaintext = plaintext_of(size)
    pieces = cut(plaintext, message)
    assert 2 <= len(pieces) <= MAX_FRAGMENTS
    # With the byte before it that says "fragment", each fits one datagram.
    assert all(1 + len(piece) <= MAX_PLAINTEXT_BYTES for piece in pieces)
    order.shuffle(pieces)
    reassembly = Reassembly()
    assert [reassembly.add(piece, 0.0) for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert reassembly.add(pieces[-1], 0.0) == plaintext


def test_a_piece_that_comes_twice_does_no_harm() -> None:
    plaintext = plaintext_of(3000)
    first, second, third = cut(plaintext, 5)
    reassembly = Reassembly()
    assert [reassembly.add(piece, 0.0) for piece in (first, first, third, first, third)] == [None] * 5
    assert reassembly.add(second, 0.0) == plaintext


def test_messages_do_not_mix() -> None:
    plaintexts = [plaintext_of(3000, seed) for seed in range(MAX_PARTIAL)]
    rows = [cut(plaintext, number) for number, plaintext in enumerate(plaintexts)]
    reassembly = Reassembly()
    whole = [reassembly.add(row[column], 0.0) for column in range(3) for row in rows]
    assert whole == [None] * 2 * MAX_PARTIAL + plaintexts


def test_a_message_that_misses_a_piece_is_forgotten_after_a_while() -> None:
    reassembly = Reassembly()
    first, second = cut(plaintext_of(2000), 5)
    reassembly.add(first, 0.0)
    assert reassembly.add(second, PATIENCE_S + 0.1) is None
    assert reassembly.add(first, PATIENCE_S + 0.2) == plaintext_of(2000), "the late piece began it anew"


def test_the_oldest_of_too_many_gives_way() -> None:
    reassembly = Reassembly()
    rows = [cut(plaintext_of(2000, seed), seed) for seed in range(MAX_PARTIAL + 1)]
    for row in rows:
        reassembly.add(row[0], 0.0)
    assert [reassembly.add(row[1], 0.0) for row in rows[1:]] == [plaintext_of(2000, s) for s in range(1, len(rows))]
    assert reassembly.add(rows[0][1], 0.0) is None


@pytest.mark.parametrize(
    ("packed", "rule"),
    [
        (b"", "0 bytes"),
        (bytes(HEADER_BYTES), "6 bytes"),
        (bytes(4) + b"\x00\x02" + bytes(MAX_PLAINTEXT_BYTES), "bytes"),
        (bytes(4) + b"\x00\x00x", "0 of 0"),
        (bytes(4) + b"\x00\x01x", "0 of 1"),
        (bytes(4) + b"\x02\x02x", "2 of 2"),
        (bytes(4) + bytes((0, MAX_FRAGMENTS + 1)) + b"x", "0 of 9"),
        (bytes(4) + b"\xff\xffx", "255 of 255"),
    ],
)
def test_a_piece_that_breaks_a_rule_is_refused(packed: bytes, rule: str) -> None:
    with pytest.raises(BadDatagram, match=rule):
        Reassembly().add(packed, 0.0)


def test_pieces_that_disagree_on_their_number_are_refused_and_the_message_stays_whole() -> None:
    reassembly = Reassembly()
    plaintext = plaintext_of(2000)
    first, second = cut(plaintext, 5)
    reassembly.add(first, 0.0)
    with pytest.raises(BadDatagram, match="disagree"):
        reassembly.add(cut(plaintext_of(3000), 5)[1], 0.0)
    assert reassembly.add(second, 0.0) == plaintext


def test_what_does_not_fit_is_our_own_mistake() -> None:
    assert len(cut(bytes(MAX_MESSAGE_BYTES), 0)) == MAX_FRAGMENTS
    with pytest.raises(AssertionError, match="too long"):
        cut(bytes(MAX_MESSAGE_BYTES + 1), 0)


headers = st.builds(
    lambda message, index, count: message.to_bytes(4, "big") + bytes((index, count)),
    st.integers(0, 3),
    st.integers(0, 9),
    st.integers(0, 9),
)
pieces = st.binary(max_size=20) | st.builds(bytes.__add__, headers, st.binary(max_size=1500))


@given(st.lists(st.tuples(pieces, st.floats(0, 2)), max_size=30))
@fuzzed()
def test_any_bytes_are_a_piece_or_refused(arrivals: list[tuple[bytes, float]]) -> None:
    reassembly = Reassembly()
    now = 0.0
    for packed, wait_s in arrivals:
        now += wait_s
        try:
            whole = reassembly.add(packed, now)
        except BadDatagram:
            continue
        assert whole is None or 2 <= len(whole) <= MAX_MESSAGE_BYTES


def test_an_edge_that_only_sends_first_pieces_takes_little_memory() -> None:
    reassembly = Reassembly()
    piece = cut(bytes(MAX_PLAINTEXT_BYTES * 2), 0)[0][4:]
    tracemalloc.start()
    for message in range(10_000):
        reassembly.add(message.to_bytes(4, "big") + piece, 0.0)
    used_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used_bytes < 2 * MAX_PARTIAL * MAX_PLAINTEXT_BYTES
