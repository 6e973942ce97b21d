"""What a store keeps, what it refuses, and how little one owner can take up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dht.ids import RING, in_open_closed, key_of
from dht.records import CLOCK_TOLERANCE_S, MAX_LIFETIME_S, MAX_VALUE_BYTES, Record, replica_points
from dht.store import (
    MAX_KEY_OWNERS,
    MAX_OWNER_BYTES,
    MAX_OWNER_RECORDS,
    OWNER_BURST,
    OWNER_RATE_PER_S,
    SWEEP_INTERVAL_S,
    Outcome,
    RecordStore,
)
from tests.fuzzing import examples, stateful_settings
from tests.identities import START_S, make_identities

NOW = START_S + 60
IDENTITIES = make_identities(4, 1)
ALICE, BOB, CAROL, DAVE = IDENTITIES


def record(
    owner: int = 0,
    name: str = "printer",
    sequence: int = 1,
    value: bytes = b"",
    life_s: int = 3600,
    exclusive: bool = False,
    now: float = NOW,
) -> Record:
    return Record.sign(IDENTITIES[owner], name, value, sequence, int(now) + life_s, exclusive)


def test_a_record_is_found_until_it_expires() -> None:
    store = RecordStore()
    kept = record(life_s=100)
    assert store.offer(kept, NOW) is Outcome.STORED
    assert store.find(kept.key, NOW) == [kept]
    assert store.find(kept.key, kept.expires_at - 0.1) == [kept]
    assert store.find(kept.key, kept.expires_at) == []
    assert store.expire(kept.expires_at - 0.1) == 0
    assert store.expire(kept.expires_at) == 1
    assert len(store) == 0
    assert store.offer(kept, kept.expires_at) is Outcome.EXPIRED


def test_nothing_is_found_under_another_key() -> None:
    assert RecordStore().find(key_of("printer"), NOW) == []


def test_a_higher_sequence_replaces_and_a_lower_never_does() -> None:
    store = RecordStore()
    first, second, third = (record(sequence=sequence, value=b"%d" % sequence) for sequence in (1, 2, 3))
    assert store.offer(second, NOW) is Outcome.STORED
    assert store.offer(first, NOW) is Outcome.OLDER
    assert store.find(second.key, NOW) == [second]
    assert store.sequence(second.key, ALICE.member.id) == 2
    assert store.offer(third, NOW) is Outcome.STORED
    assert store.offer(second, NOW) is Outcome.OLDER
    assert store.find(second.key, NOW) == [third]
    assert len(store) == 1


def test_the_same_sequence_with_another_content_is_refused() -> None:
    store = RecordStore()
    kept = record(value=b"a")
    store.offer(kept, NOW)
    assert store.offer(kept, NOW) is Outcome.SAME
    assert store.offer(record(value=b"a"), NOW) is Outcome.SAME
    for other in (record(value=b"b"), record(value=b"a", life_s=3601), record(value=b"a", exclusive=True)):
        assert store.offer(other, NOW) is Outcome.OLDER
    assert store.find(kept.key, NOW) == [kept]


def test_an_older_record_does_not_come_back_after_the_newer_has_expired() -> None:
    store = RecordStore()
    old, new = record(sequence=1, life_s=MAX_LIFETIME_S), record(sequence=2, life_s=60)
    assert store.offer(new, NOW) is Outcome.STORED
    store.expire(NOW + 60)
    assert len(store) == 0
    assert store.offer(old, NOW + 60) is Outcome.OLDER
    assert store.sequence(old.key, ALICE.member.id) == 2
    later = NOW + MAX_LIFETIME_S - 1
    store.expire(later)
    assert store.offer(old, later) is Outcome.OLDER, "up to its last second"
    assert store.offer(record(sequence=3, now=later), later) is Outcome.STORED


def test_floors_are_forgotten_when_nothing_older_can_be_alive() -> None:
    store = RecordStore()
    store.offer(record(sequence=9, life_s=60), NOW)
    store.expire(NOW + 60)
    end = NOW + 60 + MAX_LIFETIME_S + CLOCK_TOLERANCE_S
    store.expire(end)
    assert store.sequence(key_of("printer"), ALICE.member.id) == 0
    assert store.offer(record(sequence=1, now=end), end) is Outcome.STORED


def test_floors_are_bounded_by_owner_and_nobody_pushes_out_anothers() -> None:
    store = RecordStore()
    store.offer(record(1, sequence=5, life_s=60), NOW)
    now = NOW
    for batch in range(3):
        for number in range(MAX_OWNER_RECORDS):
            assert store.offer(record(0, f"{batch} {number}", sequence=5, life_s=60, now=now), now) is Outcome.STORED
        now += 60
        store.expire(now)
    floors = [
        store.sequence(key_of(f"{batch} {number}"), ALICE.member.id)
        for batch in range(3)
        for number in range(MAX_OWNER_RECORDS)
    ]
    assert floors == [0] * 2 * MAX_OWNER_RECORDS + [5] * MAX_OWNER_RECORDS, "the latest are kept"
    assert store.sequence(key_of("printer"), BOB.member.id) == 5


def test_several_owners_share_a_name_and_are_found_newest_first() -> None:
    store = RecordStore()
    shared = [record(owner, sequence=sequence) for owner, sequence in ((0, 5), (1, 9), (2, 7))]
    assert {store.offer(each, NOW) for each in shared} == {Outcome.STORED}
    assert [found.sequence for found in store.find(key_of("printer"), NOW)] == [9, 7, 5]


def test_an_exclusive_name_is_its_owners_until_it_expires() -> None:
    store = RecordStore()
    assert store.offer(record(0, exclusive=True, life_s=100), NOW) is Outcome.STORED
    assert store.offer(record(1, exclusive=True), NOW) is Outcome.TAKEN
    assert store.offer(record(1, exclusive=False, sequence=99), NOW) is Outcome.TAKEN
    assert store.offer(record(0, exclusive=True, sequence=2, life_s=100), NOW) is Outcome.STORED, "its owner renews it"
    assert store.offer(record(1, exclusive=True), NOW + 100) is Outcome.STORED, "even before a sweep"
    assert [found.owner.id for found in store.find(key_of("printer"), NOW + 100)] == [BOB.member.id]


def test_nobody_makes_a_shared_name_exclusive() -> None:
    store = RecordStore()
    store.offer(record(0), NOW)
    assert store.offer(record(1, exclusive=True), NOW) is Outcome.TAKEN
    store.offer(record(1), NOW)
    assert store.offer(record(0, sequence=2, exclusive=True), NOW) is Outcome.TAKEN
    assert store.offer(record(0, sequence=3), NOW) is Outcome.STORED


def test_an_owner_has_a_bounded_number_of_records_and_others_are_not_touched() -> None:
    store = RecordStore()
    for number in range(MAX_OWNER_RECORDS):
        assert store.offer(record(0, f"name {number}"), NOW) is Outcome.STORED
    assert store.offer(record(0, "one more"), NOW) is Outcome.FULL
    assert store.offer(record(0, "name 0", sequence=2), NOW) is Outcome.STORED, "replacing takes no room"
    assert store.offer(record(1, "one more"), NOW) is Outcome.STORED
    assert len(store) == MAX_OWNER_RECORDS + 1


def test_an_owner_has_a_bounded_number_of_bytes() -> None:
    store = RecordStore()
    large = [record(0, f"name {number:02}", value=bytes(MAX_VALUE_BYTES)) for number in range(MAX_OWNER_RECORDS)]
    outcomes = [store.offer(each, NOW) for each in large]
    fitting = MAX_OWNER_BYTES // len(large[0].raw)
    assert outcomes == [Outcome.STORED] * fitting + [Outcome.FULL] * (MAX_OWNER_RECORDS - fitting)
    assert store.offer(record(1, "small"), NOW) is Outcome.STORED, "others have room"

    shrunk = record(0, "name 00", sequence=2)
    assert store.offer(shrunk, NOW) is Outcome.STORED, "a smaller one always fits"
    filler = record(0, "filler", value=bytes(MAX_VALUE_BYTES - 100))
    assert store.offer(filler, NOW) is Outcome.STORED, "into the room that left"
    grown = record(0, "name 00", sequence=3, value=bytes(MAX_VALUE_BYTES))
    assert store.offer(grown, NOW) is Outcome.FULL, "growing takes room too"
    assert store.find(shrunk.key, NOW) == [shrunk], "and a refused one leaves the old in place"


def test_room_comes_back_when_records_expire() -> None:
    store = RecordStore()
    for number in range(MAX_OWNER_RECORDS):
        store.offer(record(0, f"name {number}", life_s=60), NOW)
    assert store.offer(record(0, "one more"), NOW + 59) is Outcome.FULL
    swept_at = NOW + 59 + SWEEP_INTERVAL_S
    assert store.offer(record(0, "one more"), swept_at) is Outcome.STORED, "an offer sweeps by itself"
    assert len(store) == 1


def test_the_whole_table_is_bounded() -> None:
    store = RecordStore(max_records=5)
    outcomes = [store.offer(record(number % 4, f"name {number}"), NOW) for number in range(8)]
    assert outcomes == [Outcome.STORED] * 5 + [Outcome.FULL] * 3
    assert store.offer(record(0, "name 0", sequence=2), NOW) is Outcome.STORED
    assert len(store) == 5


def test_one_key_has_a_bounded_number_of_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_KEY_OWNERS == 256
    monkeypatch.setattr("dht.store.MAX_KEY_OWNERS", 3)
    store = RecordStore()
    assert [store.offer(record(owner), NOW) for owner in range(4)] == [Outcome.STORED] * 3 + [Outcome.FULL]


def test_an_owner_changes_its_records_at_a_bounded_rate() -> None:
    store = RecordStore()
    for sequence in range(OWNER_BURST):
        assert store.offer(record(sequence=sequence), NOW) is Outcome.STORED
    last = record(sequence=OWNER_BURST)
    assert store.offer(last, NOW) is Outcome.LIMITED
    assert store.offer(record(1), NOW) is Outcome.STORED, "others are not slowed"
    assert store.offer(last, NOW + 1 / OWNER_RATE_PER_S) is Outcome.STORED
    assert store.offer(record(sequence=OWNER_BURST + 1), NOW + 1 / OWNER_RATE_PER_S) is Outcome.LIMITED


def test_replaying_somebodys_records_does_not_use_up_its_rate() -> None:
    store = RecordStore()
    old, new = record(sequence=1), record(sequence=2)
    store.offer(old, NOW)
    store.offer(new, NOW)
    for _ in range(10 * OWNER_BURST):
        store.offer(old, NOW)
        store.offer(new, NOW)
    assert store.offer(record(sequence=3), NOW) is Outcome.STORED


def test_a_rate_is_not_restored_by_letting_a_record_expire() -> None:
    store = RecordStore()
    for sequence in range(OWNER_BURST):
        store.offer(record(sequence=sequence, life_s=1), NOW)
    store.expire(NOW + 1)
    outcomes = [store.offer(record(sequence=OWNER_BURST + n), NOW + 1) for n in range(10)]
    assert outcomes.count(Outcome.STORED) <= OWNER_RATE_PER_S


def test_what_a_new_neighbour_should_have_is_found_by_replica_point() -> None:
    seed = 7
    rng = Random(seed)
    store = RecordStore()
    kept = [record(number % 4, f"name {number}") for number in range(40)]
    for each in kept:
        store.offer(each, NOW)
    left, right = rng.randrange(RING), rng.randrange(RING)
    expected = {
        (point, each.raw) for each in kept for point in replica_points(each.key) if in_open_closed(point, left, right)
    }
    assert {(point, each.raw) for point, each in store.between(left, right, NOW)} == expected, f"seed {seed}"
    assert len(list(store.between(left, left, NOW))) == 4 * len(kept), "the whole ring"
    assert {each.raw for _, each in store.between(left, left, NOW, replicas=1)} == {each.raw for each in kept}
    assert list(store.between(left, left, NOW + 3600)) == [], "only what is alive"


def test_records_may_be_offered_while_others_are_handed_over() -> None:
    store = RecordStore()
    for number in range(10):
        store.offer(record(0, f"name {number}"), NOW)
    for place, _ in enumerate(store.between(0, 0, NOW)):
        store.offer(record(1, f"new {place}"), NOW)
        store.offer(record(0, f"name {place % 10}", sequence=place + 2), NOW)


def test_digests_are_equal_exactly_when_the_records_are() -> None:
    here, there = RecordStore(), RecordStore()
    kept = [record(owner, name) for owner in range(3) for name in ("a", "b", "c")]
    for each in kept:
        here.offer(each, NOW)
    for each in reversed(kept):
        there.offer(each, NOW)
    keys = [key_of(name) for name in ("a", "b", "c")]
    assert here.digest(keys, NOW) == there.digest(reversed(keys), NOW) == here.digest(keys + keys, NOW)
    assert here.digest(keys, NOW) != here.digest(keys[:2], NOW)
    there.offer(record(0, "a", sequence=2), NOW)
    assert here.digest(keys, NOW) != there.digest(keys, NOW)
    assert here.digest(keys[1:], NOW) == there.digest(keys[1:], NOW)
    assert here.digest(keys, NOW + 3600) == RecordStore().digest([], NOW)


def test_two_contents_under_one_sequence_show_in_the_digest() -> None:
    here, there = RecordStore(), RecordStore()
    here.offer(record(value=b"a"), NOW)
    there.offer(record(value=b"b"), NOW)
    assert here.digest([key_of("printer")], NOW) != there.digest([key_of("printer")], NOW)


def test_outcomes_keep_their_numbers() -> None:
    assert [outcome.value for outcome in Outcome] == list(range(7))
    assert (Outcome.STORED, Outcome.OLDER, Outcome.EXPIRED) == (0, 2, 6)


class StoreAgainstModel(RuleBasedStateMachine):
    """Random offers against the plainest model of the rules that matter most."""

    def __init__(self) -> None:
        super().__init__()
        self.store = RecordStore(max_records=8)
        self.now = NOW
        self.highest: dict[tuple[str, int], int] = {}
        self.live: dict[tuple[str, int], Record] = {}

    @rule(
        owner=st.integers(0, 3),
        name=st.sampled_from("abcd"),
        sequence=st.integers(0, 6),
        life_s=st.integers(1, 50),
        exclusive=st.booleans(),
        value=st.binary(max_size=2),
    )
    def offer(self, owner: int, name: str, sequence: int, life_s: int, exclusive: bool, value: bytes) -> None:
        offered = record(owner, name, sequence, value, life_s, exclusive, self.now)
        place = (name, owner)
        outcome = self.store.offer(offered, self.now)
        others = [each for (other, who), each in self.alive().items() if other == name and who != owner]
        match outcome:
            case Outcome.STORED:
                assert sequence > self.highest.get(place, -1)
                assert not any(each.exclusive or exclusive for each in others)
                self.highest[place] = sequence
                self.live[place] = offered
            case Outcome.SAME:
                assert self.live[place].body == offered.body
            case Outcome.OLDER:
                assert sequence <= self.highest[place]
            case Outcome.TAKEN:
                assert any(each.exclusive or exclusive for each in others)
            case Outcome.FULL:
                assert len(self.store) == 8
            case _:
                assert outcome is Outcome.LIMITED

    @rule(seconds=st.floats(0.1, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.live)
    @rule()
    def sweep(self) -> None:
        self.store.expire(self.now)
        assert len(self.store) == len(self.alive())

    def alive(self) -> dict[tuple[str, int], Record]:
        return {place: each for place, each in self.live.items() if each.expires_at > self.now}

    @invariant()
    def finds_exactly_what_is_alive(self) -> None:
        for name in "abcd":
            expected = {each.raw for (other, _), each in self.alive().items() if other == name}
            assert {each.raw for each in self.store.find(key_of(name), self.now)} == expected


StoreAgainstModel.TestCase.settings = stateful_settings(weight=0.15)
TestStoreAgainstModel = StoreAgainstModel.TestCase


def test_fuzzing_effort_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PVPN_FUZZ_EXAMPLES", "4000")
    assert examples() == 4000 and examples(0.5) == 2000
    monkeypatch.delenv("P2PVPN_FUZZ_EXAMPLES")
    assert examples() == 200
