"""Which groups are wanted on the TAP: RFC 3376's machine, seen from outside, and its bounds."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipop.igmp import MAX_SOURCES, Change
from ipop.membership import (
    LAST_MEMBER_S,
    MAX_GROUPS,
    MEMBERSHIP_S,
    QUERY_INTERVAL_S,
    STARTUP_INTERVAL_S,
    Membership,
)
from tests.fuzzing import fuzzed
from tests.test_igmp_mld import GROUP4, GROUP6, ONE4, ONE6, TWO4, igmp_packet, report3, report_mld2

THREE4 = IPv4Address("10.77.0.10").packed
NOW = 1000.0


def ready() -> Membership:
    """One whose first queries have been sent."""
    membership = Membership(NOW)
    assert len(membership.tick(NOW)) == 2
    return membership


def after(membership: Membership, seconds: float) -> float:
    """Let timers run, as their owner would; the moment."""
    now = NOW + seconds
    while membership.due_at() <= now:
        membership.tick(membership.due_at())
    membership.tick(now)
    return now


def test_it_asks_at_the_start_and_then_every_125_seconds() -> None:
    membership = Membership(NOW)
    asked = []
    while membership.due_at() <= NOW + 3 * QUERY_INTERVAL_S:
        now = membership.due_at()
        queries = membership.tick(now)
        assert [query[0] >> 4 for query in queries] == [4, 6]
        asked.append(now - NOW)
    assert asked == [0, STARTUP_INTERVAL_S, STARTUP_INTERVAL_S + 125, STARTUP_INTERVAL_S + 250]


def test_a_group_is_wanted_until_its_reports_cease() -> None:
    membership = ready()
    for packet, group, source in (
        (report3((2, GROUP4, ())), GROUP4, ONE4),
        (report_mld2((2, GROUP6, ())), GROUP6, ONE6),
    ):
        assert not membership.wants(group, source, NOW)
        assert membership.take(packet, NOW) == []
        assert membership.wants(group, source, NOW)
    assert membership.groups() == {GROUP4, GROUP6}
    late = after(membership, MEMBERSHIP_S - 1)
    assert membership.wants(GROUP4, ONE4, late)
    late = after(membership, MEMBERSHIP_S + 1)
    assert not membership.wants(GROUP4, ONE4, late) and membership.groups() == set()


@pytest.mark.parametrize("leave", (igmp_packet(b"\x17\0\0\0" + GROUP4), report3((3, GROUP4, ()))), ids=("v2", "v3"))
def test_a_leave_is_asked_about_and_takes_two_seconds(leave: bytes) -> None:
    membership = ready()
    membership.take(report3((4, GROUP4, ())), NOW)
    (query,) = membership.take(leave, NOW)
    assert query[16:20] == GROUP4 and query[28:32] == GROUP4
    assert membership.wants(GROUP4, ONE4, NOW + LAST_MEMBER_S - 0.1)
    assert len(membership.tick(NOW + 1.0)) == 1, "the question is repeated once"
    assert not membership.wants(GROUP4, ONE4, after(membership, LAST_MEMBER_S))


def test_another_host_that_answers_keeps_the_group() -> None:
    membership = ready()
    membership.take(report3((4, GROUP4, ())), NOW)
    membership.take(report3((3, GROUP4, ())), NOW)
    membership.take(report3((2, GROUP4, ())), NOW + 0.5)
    assert membership.wants(GROUP4, ONE4, after(membership, 60))


def test_only_the_sources_that_are_included_are_wanted() -> None:
    membership = ready()
    membership.take(report3((5, GROUP4, (ONE4, TWO4))), NOW)
    assert membership.wants(GROUP4, ONE4, NOW) and not membership.wants(GROUP4, THREE4, NOW)
    (query,) = membership.take(report3((6, GROUP4, (ONE4,))), NOW)
    assert query.endswith(b"\0\x01" + ONE4)
    now = after(membership, LAST_MEMBER_S)
    assert not membership.wants(GROUP4, ONE4, now) and membership.wants(GROUP4, TWO4, now)


def test_sources_that_are_excluded_are_not_wanted() -> None:
    membership = ready()
    membership.take(report3((4, GROUP4, (ONE4,))), NOW)
    assert not membership.wants(GROUP4, ONE4, NOW) and membership.wants(GROUP4, TWO4, NOW)
    membership.take(report3((5, GROUP4, (ONE4,))), NOW)
    assert membership.wants(GROUP4, ONE4, NOW)


def test_a_host_without_source_filters_makes_others_filters_void() -> None:
    membership = ready()
    membership.take(igmp_packet(b"\x16\0\0\0" + GROUP4), NOW)
    membership.take(report3((6, GROUP4, (ONE4,))), NOW)
    membership.take(report3((4, GROUP4, (TWO4,))), NOW)
    assert membership.wants(GROUP4, ONE4, NOW) and membership.wants(GROUP4, TWO4, NOW)


def test_tables_are_bounded_and_too_many_sources_mean_everybody() -> None:
    membership = ready()
    for number in range(MAX_GROUPS + 10):
        membership.take(report3((4, (0xEF000000 + number).to_bytes(4, "big"), ())), NOW)
    assert len(membership.groups()) == MAX_GROUPS and membership.refused == 10
    membership = ready()
    for number in range(MAX_SOURCES + 1):
        membership.take(report3((5, GROUP4, (number.to_bytes(4, "big"),))), NOW)
    assert membership.wants(GROUP4, THREE4, NOW)


def test_damaged_reports_are_counted() -> None:
    membership = ready()
    assert membership.take(igmp_packet(b"\x16\0\0\0" + ONE4), NOW) == []
    assert membership.refused == 1 and membership.groups() == set()


SOURCES = st.lists(st.sampled_from((ONE4, TWO4, THREE4)), max_size=3, unique=True)


@given(st.lists(st.tuples(st.sampled_from(list(Change)), SOURCES, st.floats(0, 3)), max_size=12))
@fuzzed()
def test_the_last_full_word_of_a_host_always_counts_in_the_end(words: list[tuple[Change, list[bytes], float]]) -> None:
    """Whatever was said before: after the answer to a query and the time for old interests to lapse, wanted is what the
    answer says, and nothing else."""
    membership = ready()
    now = NOW
    for change, sources, pause_s in words:
        membership.take(report3((change, GROUP4, tuple(sources))), now)
        now += pause_s
        while membership.due_at() <= now:
            membership.tick(membership.due_at())
    answered = now
    membership.take(report3((Change.IS_INCLUDE, GROUP4, (TWO4,))), answered)
    later = answered + MEMBERSHIP_S - 1
    while membership.due_at() <= later:
        membership.tick(membership.due_at())
    membership.take(report3((Change.IS_INCLUDE, GROUP4, (TWO4,))), later)
    end = answered + MEMBERSHIP_S + 1
    while membership.due_at() <= end:
        membership.tick(membership.due_at())
    assert membership.wants(GROUP4, TWO4, end)
    assert not membership.wants(GROUP4, ONE4, end) and not membership.wants(GROUP4, THREE4, end)


def test_ipv6_groups_and_addresses_are_kept_apart_from_ipv4() -> None:
    membership = ready()
    membership.take(report_mld2((5, GROUP6, (ONE6,))), NOW)
    assert membership.wants(GROUP6, ONE6, NOW)
    assert not membership.wants(GROUP6, IPv6Address("fd00::9").packed, NOW)
    assert not membership.wants(GROUP4, ONE4, NOW)
