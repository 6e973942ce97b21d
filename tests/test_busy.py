"""When a multicast group gets a ring of its own, and which ways its packets go meanwhile."""

from __future__ import annotations

from itertools import pairwise, product

from ipop.busy import (
    ANNOUNCE_S,
    BUSY_PACKETS,
    HEARD_S,
    LINGER_S,
    MAX_METERED,
    MAX_ORIGINS,
    MAX_OVERHEARD,
    MAX_RINGS,
    NEXT,
    OVERLAP_S,
    RETRY_S,
    TICK_S,
    BusyGroups,
    Note,
    Sign,
    Way,
)
from ipop.cast_wire import Kind

GROUP, OTHER = bytes((239, 0, 0, 1)), bytes((239, 0, 0, 2))
SENDER, SECOND = bytes((10, 77, 0, 1)), bytes((10, 77, 0, 2))


class Clock:
    """One node's machine, and time."""

    def __init__(self, *wanted: bytes) -> None:
        self.wanted = set(wanted)
        self.now = 1000.0
        self.groups = BusyGroups(lambda group: group in self.wanted, lambda a, b: (a + b) / 2, self.now)
        self.notes: list[tuple[float, Note]] = []

    def run(self, seconds: float, each: float = TICK_S) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += each
            self.notes += [(self.now, note) for note in self.groups.tick(self.now)]

    def send(self, count: int, every_s: float, group: bytes = GROUP) -> list[Way]:
        ways = []
        for _ in range(count):
            ways.append(self.groups.sent(group, self.now))
            self.run(every_s, each=min(every_s, TICK_S))
        return ways

    def said(self, kind: Kind) -> list[float]:
        return [at for at, note in self.notes if note.kind is kind]


def test_every_legal_move_leads_somewhere_and_no_other_is_made() -> None:
    assert set(NEXT) <= set(product(Way, Sign))
    assert set(NEXT.values()) == set(Way)


def test_a_few_packets_a_second_stay_quiet() -> None:
    clock = Clock()
    assert set(clock.send(60, 0.25)) == {Way.QUIET}
    assert clock.groups.rings() == set() and not clock.notes


def test_many_go_both_ways_first_then_by_the_ring_and_in_the_end_by_the_network() -> None:
    clock = Clock()
    ways = clock.send(400, 0.05)
    assert ways[: BUSY_PACKETS - 1] == [Way.QUIET] * (BUSY_PACKETS - 1)
    both = ways.count(Way.BOTH)
    assert OVERLAP_S / 0.05 - 2 <= both <= OVERLAP_S / 0.05 + 12
    assert ways == [Way.QUIET] * (BUSY_PACKETS - 1) + [Way.BOTH] * both + [Way.RING] * (400 - both - BUSY_PACKETS + 1)
    assert clock.groups.rings() == {GROUP}
    assert len(clock.said(Kind.BUSY)) == 2 and clock.said(Kind.BUSY)[0] <= 1000 + 0.05 * BUSY_PACKETS + TICK_S
    clock.run(LINGER_S - 1)
    assert clock.groups.rings() == {GROUP}
    clock.run(2)
    assert clock.groups.rings() == set() and clock.groups.idle
    assert clock.groups.sent(GROUP, clock.now) is Way.QUIET


def test_whoever_misses_it_makes_the_sender_send_both_ways_again() -> None:
    clock = Clock()
    assert clock.send(300, 0.05)[-1] is Way.RING
    clock.groups.heard(Kind.WANTED, GROUP, SECOND, clock.now)
    assert clock.groups.way(GROUP) is Way.BOTH
    announced = len(clock.said(Kind.BUSY))
    clock.send(40, 0.05)
    assert len(clock.said(Kind.BUSY)) == announced + 1, "who came late is told at once"
    assert clock.send(200, 0.05)[-1] is Way.RING


def test_many_senders_of_a_little_make_a_group_busy_as_well() -> None:
    clock = Clock()
    for _ in range(40):
        clock.groups.came(GROUP, SECOND, clock.now, by_ring=False, twice=False)
        clock.run(0.1, each=0.1)
    assert clock.groups.sent(GROUP, clock.now) is Way.BOTH


def test_a_receiver_joins_the_ring_of_a_group_that_it_wants_and_no_other() -> None:
    clock = Clock(GROUP)
    for group in (GROUP, OTHER):
        clock.groups.heard(Kind.BUSY, group, SENDER, clock.now)
    assert clock.groups.rings() == {GROUP}
    clock.run(LINGER_S - 1)
    assert clock.groups.rings() == {GROUP}
    clock.run(2)
    assert clock.groups.rings() == set()


def test_a_receiver_leaves_when_its_hosts_do() -> None:
    clock = Clock(GROUP)
    clock.groups.heard(Kind.BUSY, GROUP, SENDER, clock.now)
    clock.wanted.clear()
    clock.groups.ended(GROUP)
    assert clock.groups.rings() == set()


def receive(clock: Clock, seconds: float, *, network: bool, ring: bool, twice: bool = True) -> None:
    for _ in range(round(seconds / 0.1)):
        if network:
            clock.groups.came(GROUP, SENDER, clock.now, by_ring=False, twice=twice)
        if ring:
            clock.groups.came(GROUP, SENDER, clock.now, by_ring=True, twice=twice)
        clock.run(0.1, each=0.1)


def test_a_receiver_says_so_while_frames_come_by_the_network_only() -> None:
    clock = Clock(GROUP)
    clock.groups.heard(Kind.BUSY, GROUP, SENDER, clock.now)
    receive(clock, 8, network=True, ring=False)
    missed = clock.said(Kind.WANTED)
    assert 2 <= len(missed) <= 4, missed
    receive(clock, 8, network=True, ring=True)
    assert len(clock.said(Kind.WANTED)) <= len(missed) + 1


def test_a_sender_that_uses_the_network_alone_is_not_missed_on_the_ring() -> None:
    clock = Clock(GROUP)
    clock.groups.heard(Kind.BUSY, GROUP, SECOND, clock.now)
    receive(clock, 8, network=True, ring=False, twice=False)
    assert clock.said(Kind.WANTED) == []


def test_a_receiver_that_hears_of_traffic_and_gets_none_says_so() -> None:
    clock = Clock(GROUP)
    clock.groups.heard(Kind.BUSY, GROUP, SENDER, clock.now)
    receive(clock, 5, network=False, ring=True)
    clock.run(ANNOUNCE_S)
    clock.groups.heard(Kind.BUSY, GROUP, SENDER, clock.now)
    clock.run(2)
    assert len(clock.said(Kind.WANTED)) == 1


def test_one_word_serves_everybody_who_misses_the_same() -> None:
    clock = Clock(GROUP)
    clock.groups.heard(Kind.BUSY, GROUP, SENDER, clock.now)
    for _ in range(20):
        receive(clock, 0.4, network=True, ring=False)
        clock.groups.heard(Kind.WANTED, GROUP, SECOND, clock.now)
    assert clock.said(Kind.WANTED) == []


def test_who_begins_to_want_a_group_says_so_only_if_it_may_be_busy() -> None:
    clock = Clock()
    assert clock.groups.begun(GROUP, clock.now) == Note(Kind.WANTED, GROUP), "too young to have heard of it"
    clock.run(HEARD_S + 1)
    assert clock.groups.begun(GROUP, clock.now) is None
    clock.groups.overheard(GROUP, clock.now)
    clock.run(ANNOUNCE_S)
    assert clock.groups.begun(GROUP, clock.now) == Note(Kind.WANTED, GROUP)
    assert clock.groups.begun(GROUP, clock.now) is None, "once"
    for number in range(2 * MAX_OVERHEARD):
        clock.groups.overheard(number.to_bytes(4, "big"), clock.now)
    assert len(clock.groups._overheard) == MAX_OVERHEARD


def test_a_sender_without_a_ring_uses_the_network_and_tries_again_later() -> None:
    clock = Clock()
    assert clock.send(2 * BUSY_PACKETS, 0.05)[-1] is Way.BOTH
    clock.groups.refused(GROUP, clock.now)
    assert clock.groups.rings() == set()
    assert set(clock.send(100, 0.05)) == {Way.QUIET}
    clock.send(round(RETRY_S / 0.05), 0.05)
    assert clock.groups.way(GROUP) is Way.BOTH and clock.groups.rings() == {GROUP}


def test_a_receiver_without_a_ring_goes_on_saying_that_it_misses_what_it_wants() -> None:
    clock = Clock(GROUP)
    clock.groups.heard(Kind.BUSY, GROUP, SENDER, clock.now)
    clock.groups.refused(GROUP, clock.now)
    receive(clock, 2 * OVERLAP_S, network=True, ring=False)
    said = clock.said(Kind.WANTED)
    assert len(said) >= 4 and clock.groups.rings() == set()
    assert max(after - before for before, after in pairwise(said)) < OVERLAP_S / 2, "before senders rely on the ring"


def test_who_wants_more_busy_groups_than_it_may_have_rings_misses_them_aloud() -> None:
    clock = Clock()
    groups = [bytes((239, 0, 1, number)) for number in range(MAX_RINGS + 3)]
    clock.wanted.update(groups)
    for group in groups:
        clock.groups.heard(Kind.BUSY, group, SENDER, clock.now)
    assert len(clock.groups.rings()) == MAX_RINGS
    without = set(groups) - clock.groups.rings()
    for _ in range(60):
        for group in without:
            clock.groups.came(group, SENDER, clock.now, by_ring=False, twice=True)
        clock.run(0.1, each=0.1)
    assert {note.group for _, note in clock.notes if note.kind is Kind.WANTED} == without


def test_rings_meters_and_senders_are_bounded() -> None:
    clock = Clock()
    for number in range(MAX_METERED + 50):
        group = (0xEF000000 + number).to_bytes(4, "big")
        clock.wanted.add(group)
        clock.groups.came(group, SENDER, clock.now, by_ring=False, twice=False)
        clock.groups.heard(Kind.BUSY, group, SENDER, clock.now)
    assert len(clock.groups.rings()) == MAX_RINGS
    assert clock.send(BUSY_PACKETS * 2, 0.01, bytes((239, 255, 0, 1)))[-1] is Way.QUIET, (
        "no ring is free: the network carries it"
    )
    first = min(clock.groups.rings())
    for number in range(MAX_ORIGINS * 2):
        clock.groups.came(first, number.to_bytes(4, "big"), clock.now, by_ring=True, twice=True)
    assert len(clock.groups._busy[first].origins) == MAX_ORIGINS
    assert len(clock.groups._meters) == MAX_METERED
