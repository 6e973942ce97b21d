"""Handshake counters: ours only grow, a peer's is accepted once, whatever restarts, clocks and disks do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dht import counters as module
from dht.counters import COMPACT_AFTER, JOURNAL, OWN, RESERVE, Counters
from dht.ids import RING
from dht.storage import MemoryStorage
from tests.fuzzing import fuzzed, stateful_settings
from tests.identities import START_S

ENTRY_BYTES = 32


def test_our_counters_only_grow() -> None:
    counters = Counters(MemoryStorage(), START_S)
    numbers = [counters.next() for _ in range(1000)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0 and numbers[-1] < 1 << 64


def test_our_counters_grow_through_restarts_even_when_the_clock_goes_back() -> None:
    storage = MemoryStorage()
    last = 0
    for now in (START_S, START_S - 86_400, 0.0, START_S + 1, START_S - 1):
        counters = Counters(storage, now)
        for _ in range(3):
            number = counters.next()
            assert number > last
            last = number


def test_a_lost_state_directory_costs_nothing_while_the_clock_is_right() -> None:
    before = Counters(MemoryStorage(), START_S)
    last = max(before.next() for _ in range(5000))
    assert Counters(MemoryStorage(), START_S + 60).next() > last


def test_a_crash_between_two_steps_of_the_reserve_repeats_nothing() -> None:
    storage = MemoryStorage()
    counters = Counters(storage, START_S)
    used = counters.next()
    for _ in range(10):  # each life ends without a word
        counters = Counters(storage, 0.0)
        again = counters.next()
        assert again > used
        used = again
    assert used - START_S * 1000 * 1024 < 20 * RESERVE, "each restart skips one step at most"


def test_the_reserve_is_written_before_the_first_counter_beyond_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESERVE", 5)
    storage = MemoryStorage()
    counters = Counters(storage, START_S)
    for _ in range(50):
        number = counters.next()
        assert number <= int.from_bytes(storage.load(OWN) or b"", "big")


@pytest.mark.parametrize("stored", [b"", b"1234567", b"\xff" * 8, b"\xff" * 7 + b"\x00", b"123456789", bytes(8)])
def test_a_damaged_counter_file_is_worth_as_much_as_none(stored: bytes) -> None:
    storage = MemoryStorage()
    storage.save(OWN, stored)
    counters = Counters(storage, START_S)
    numbers = [counters.next() for _ in range(3)]
    assert numbers == sorted(set(numbers))
    # Whoever accepted a counter near the end would never hear this node again.
    assert numbers[-1] < 1 << 63
    assert int.from_bytes(storage.load(OWN) or b"", "big") > numbers[-1]


def test_a_peers_counter_is_accepted_once() -> None:
    counters = Counters(MemoryStorage(), START_S)
    assert not counters.is_new(7, 0)
    assert counters.is_new(7, 5)
    counters.accept(7, 5)
    assert [counters.is_new(7, counter) for counter in (0, 4, 5, 6)] == [False, False, False, True]
    assert counters.is_new(8, 1), "another peer's counters are its own"


def test_what_was_accepted_stays_refused_after_a_crash() -> None:
    storage = MemoryStorage()
    Counters(storage, START_S).accept(7, 5)
    restarted = Counters(storage, START_S)
    assert not restarted.is_new(7, 5)
    assert restarted.is_new(7, 6)


@pytest.mark.parametrize("torn_bytes", range(ENTRY_BYTES))
def test_half_an_entry_costs_only_itself(torn_bytes: int) -> None:
    storage = MemoryStorage()
    counters = Counters(storage, START_S)
    counters.accept(7, 5)
    storage.append(JOURNAL, (storage.load(JOURNAL) or b"")[:torn_bytes])
    for peer in range(20, 30):
        counters.accept(peer, 9)
    storage.append(JOURNAL, (storage.load(JOURNAL) or b"")[:torn_bytes])
    restarted = Counters(storage, START_S)
    assert [restarted.is_new(7, counter) for counter in (5, 6)] == [False, True]
    assert not any(restarted.is_new(peer, 9) for peer in range(20, 30))
    assert len(storage.load(JOURNAL) or b"") == 11 * ENTRY_BYTES, "reading it has mended it"


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=5))
@fuzzed()
def test_any_journal_is_read_and_the_entries_behind_rubbish_count(
    rubbish: bytes, accepted: list[tuple[int, int]]
) -> None:
    storage = MemoryStorage()
    storage.save(JOURNAL, rubbish)
    counters = Counters(storage, START_S)
    storage.append(JOURNAL, rubbish)
    greatest: dict[int, int] = {}
    for peer, counter in accepted:
        if counters.is_new(peer, counter):
            counters.accept(peer, counter)
            greatest[peer] = counter
    restarted = Counters(storage, START_S)
    for peer, counter in greatest.items():
        assert not restarted.is_new(peer, counter)


def test_the_journal_is_written_anew_before_it_grows_without_end() -> None:
    storage = MemoryStorage()
    counters = Counters(storage, START_S)
    for counter in range(1, 2 * COMPACT_AFTER):
        counters.accept(counter % 3, counter)
        assert len(storage.load(JOURNAL) or b"") <= (COMPACT_AFTER + 3) * ENTRY_BYTES
    restarted = Counters(storage, START_S)
    assert not any(restarted.is_new(counter % 3, counter) for counter in range(1, 2 * COMPACT_AFTER))


def test_when_the_table_is_full_whoever_was_heard_longest_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PEERS", 3)
    storage = MemoryStorage()
    counters = Counters(storage, START_S)
    for peer, counter in ((1, 1), (2, 1), (3, 1), (1, 2), (4, 1)):
        counters.accept(peer, counter)
    for present in (counters, Counters(storage, START_S)):
        assert [present.is_new(peer, 1) for peer in (1, 2, 3, 4)] == [False, True, False, False]


class CountersThatRestart(RuleBasedStateMachine):
    """Against a plain model: restarts at any time, with any clock, change no answer and repeat no counter."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage()
        self.counters = Counters(self.storage, START_S)
        self.greatest: dict[int, int] = {}
        self.last = 0

    peers = st.sampled_from([0, 1, 2, RING - 1])

    @rule(peer=peers, counter=st.integers(0, (1 << 64) - 1) | st.integers(0, 20))
    def hear(self, peer: int, counter: int) -> None:
        new = counter > self.greatest.get(peer, 0)
        assert self.counters.is_new(peer, counter) is new
        if new:
            self.counters.accept(peer, counter)
            self.greatest[peer] = counter

    @rule()
    def begin(self) -> None:
        number = self.counters.next()
        assert number > self.last
        self.last = number

    @rule(now=st.floats(0, 2 * START_S))
    def restart(self, now: float) -> None:
        self.counters = Counters(self.storage, now)

    @rule(size=st.integers(1, ENTRY_BYTES - 1))
    def crash_within_an_entry(self, size: int) -> None:
        self.storage.append(JOURNAL, b"\x00" * size)
        self.counters = Counters(self.storage, START_S)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        for peer, counter in self.greatest.items():
            assert not self.counters.is_new(peer, counter)


CountersThatRestart.TestCase.settings = stateful_settings()
TestCountersThatRestart = CountersThatRestart.TestCase
