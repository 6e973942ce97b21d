"""A run is sealed and opened as its datagrams would be one by one, and joined as its segments would be."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.replay import REJECT_AT, ReplayWindow
from dht.runs import LEAST_RUN, MAX_RUN, MAX_RUN_BYTES, is_run, most
from dht.session import AES_REJECT_AFTER_MESSAGES, OVERHEAD_BYTES, Keypair
from ipop.superpacket import Run, split
from tests.fuzzing import fuzzed
from tests.test_session import keypairs
from tests.test_session_batch import opened_one_by_one
from tests.test_superpacket import LIMIT_BYTES, Super

FRONT = b"a label!"


def plaintexts_of(count: int, size: int, last: int) -> list[bytes]:
    return [bytes((number,)) * size for number in range(count - 1)] + [b"e" * last]


def cut(run: bytes | memoryview, size: int) -> list[bytes]:
    return [bytes(run[start : start + size]) for start in range(0, len(run), size)]


@pytest.mark.parametrize(("aes", "before"), list(product((True, False), (b"", FRONT))))
@pytest.mark.parametrize("first", [0, 200, 65_530, (1 << 16) - 5, (1 << 24) - 3, (1 << 27) + 65_535])
def test_a_run_is_the_same_bytes_as_single_datagrams(aes: bool, before: bytes, first: int) -> None:
    alice, _ = keypairs(aes)
    other, _ = keypairs(aes)
    alice.sent = other.sent = first
    # Sizes that share memory, counts that leave something of the run before in it, a bound of the counter crossed.
    for count, size, last in ((5, 900, 900), (45, 1405, 700), (3, 900, 1), (45, 1405, 1405), (64, 10, 10), (5, 900, 0)):
        plaintexts = plaintexts_of(count, size, last)
        assert is_run(plaintexts)
        run = alice.seal_run(plaintexts, before)
        assert run is not None
        assert cut(run, len(before) + size + OVERHEAD_BYTES) == [before + each for each in other.seal_all(plaintexts)]
    assert alice.sent == other.sent


def test_what_is_no_run_is_not_taken_for_one() -> None:
    assert not is_run(plaintexts_of(LEAST_RUN - 1, 100, 100))
    assert not is_run(plaintexts_of(5, 100, 101))
    assert not is_run([*plaintexts_of(5, 100, 99), bytes(100)])
    assert most(100) == MAX_RUN
    assert most(1437) * 1437 <= MAX_RUN_BYTES < (most(1437) + 1) * 1437
    assert most(MAX_RUN_BYTES + 1) == 1


def test_a_run_beyond_what_keys_may_seal_is_refused_whole() -> None:
    alice, _ = keypairs()
    alice.sent = AES_REJECT_AFTER_MESSAGES - 3
    assert alice.seal_run([b"1"] * 4, b"") is None
    assert alice.seal_run([b"1"] * 3, b"") is not None
    assert alice.spent


def opened_as_run(keypair: Keypair, buffer: memoryview, size: int, skip: int) -> list[bytes]:
    """As the sessions do it: what is no run is opened datagram by datagram."""
    run = keypair.open_run(buffer, size, skip)
    if run is not None:
        return cut(*run)
    return keypair.open_all(buffer, size, skip)[0]


@pytest.mark.parametrize(("aes", "before"), list(product((True, False), (b"", FRONT))))
@fuzzed(weight=0.5)
@given(data=st.data())
def test_any_order_repetition_and_damage_opens_as_one_by_one(aes: bool, before: bytes, data: st.DataObject) -> None:
    alice, bob = keypairs(aes)
    _, other_bob = keypairs(aes)
    sealed = alice.seal_all([bytes((number,)) * 40 for number in range(24)] + [b"end"])
    size = len(before) + len(sealed[0])
    order = list(range(24))
    for _ in range(4):
        begin = data.draw(st.integers(0, 20))
        numbers = order[begin : begin + data.draw(st.integers(1, 24))]
        for at in data.draw(st.lists(st.integers(0, 23), max_size=2)):  # losses; twice in a row also a swap
            numbers[at : at + 1] = []
        if data.draw(st.booleans()):
            numbers += data.draw(st.lists(st.sampled_from(order), max_size=2))
        damaged = [bytearray(sealed[number]) for number in numbers]
        for index, at in data.draw(st.lists(st.tuples(st.integers(0, 23), st.integers(0, 71)), max_size=1)):
            if damaged:
                damaged[index % len(damaged)][at] ^= 1
        tail = data.draw(st.sampled_from((b"", sealed[-1], sealed[-1][:20], sealed[0][:3])))
        datagrams = [*map(bytes, damaged), *([tail] if tail else [])]
        if datagrams:
            buffer = memoryview(b"".join(before + datagram for datagram in datagrams))
            taken = opened_as_run(bob, buffer, size, len(before))
            assert sorted(taken) == sorted(opened_one_by_one(other_bob, datagrams))


def test_what_came_as_a_run_does_not_come_again_in_any_way() -> None:
    alice, bob = keypairs()
    sealed = alice.seal_all(plaintexts_of(12, 40, 40))
    size = len(sealed[0])
    gaps = sealed[:4] + sealed[6:9]
    run = bob.open_run(memoryview(b"".join(gaps)), size)
    assert run is not None
    assert len(cut(*run)) == 7
    assert bob.open_run(memoryview(b"".join(gaps)), size) is None
    assert not opened_one_by_one(bob, gaps)
    assert len(opened_as_run(bob, memoryview(b"".join(sealed)), size, 0)) == 5  # the two gaps, and what came after


@pytest.mark.parametrize(("size", "last"), [(2000, 100), (3000, 1500), (9000, 1)])
def test_long_datagrams_whose_plaintexts_fill_the_room_are_opened_with_what_follows(size: int, last: int) -> None:
    alice, bob = keypairs()
    plaintexts = plaintexts_of(most(size) + 1, size, last)
    sealed = alice.seal_all(plaintexts)
    assert len(b"".join(sealed)) <= MAX_RUN_BYTES, "it can come in one piece"
    assert opened_as_run(bob, memoryview(b"".join(sealed)), len(sealed[0]), 0) == plaintexts


@fuzzed(weight=0.5)
@given(
    gaps=st.lists(st.sampled_from((1, 1, 1, 2, 7, 8127, 9000)), min_size=1, max_size=12), late=st.integers(0, 20_000)
)
def test_the_window_takes_rising_counters_together_as_one_by_one(gaps: list[int], late: int) -> None:
    together, single = ReplayWindow(), ReplayWindow()
    counters, last = [], -1
    for gap in gaps:
        last += gap
        counters.append(last)
    assert together.accept_rising(counters)
    assert all(map(single.accept, counters))
    assert not together.accept_rising(counters)
    late = min(late, last)
    assert together.accept(late) == single.accept(late)
    assert not together.accept_rising([last, last + 1])
    assert not together.accept_rising([REJECT_AT - 1, REJECT_AT])
    assert together.accept_rising([last + 1, last + 3])


@pytest.mark.parametrize(("version", "tcp"), list(product((4, 6), (True, False))))
@fuzzed(weight=0.5)
@given(data=st.data())
def test_segments_in_one_memory_join_as_segments_one_by_one(version: int, tcp: bool, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from((60, 200)))
    first, second = (
        split(
            Super(version, tcp, size, bytes((octet,)) * data.draw(st.integers(size + 1, size * 70))).frame, LIMIT_BYTES
        )
        for octet in (1, 2)
    )
    row = [*first, *second]
    for at in data.draw(st.lists(st.integers(0, len(row)), max_size=3)):
        row[at : at + 1] = data.draw(st.sampled_from(([], row[:1], row[at : at + 1] * 2)))
    # As in one receive: all of one length, but for the last.
    length = max(map(len, row), default=0)
    last = data.draw(st.sampled_from(([], [first[-1]], [second[-1]])))
    row = [each for each in row if len(each) == length] + [each for each in last if len(each) <= length]
    joined = memoryview(b"".join(row))
    at, runs = 0, []
    while at < len(joined):
        run = Run(bytes(joined[at : at + length]))
        at += length
        at += run.extend_all(joined, at, length)
        runs.append(run)
    expected: list[Run] = []
    for plaintext in row:
        if not expected or not expected[-1].extend(plaintext):
            expected.append(Run(plaintext))
    assert [run.virtual(b"") for run in runs] == [run.virtual(b"") for run in expected]
    assert sum(run.segments for run in runs) == len(row)
