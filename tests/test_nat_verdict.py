"""NAT behaviour from observations: boxes of every RFC 4787 type are recognised, and one liar changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from dht.host import Endpoint
from shortcuts.nat import (
    MAX_MISSES,
    MAX_REPORTS,
    NAT_BYTES,
    OBSERVED_S,
    TRIED_S,
    Answer,
    Filtering,
    Mapping,
    Nat,
    NatObserver,
    Relation,
)
from tests.fuzzing import addresses, fuzzed

NOW = 1_800_000_000.0
HOME = Endpoint("192.168.1.7", 7000)
OUTSIDE = Endpoint("198.51.100.1", 7000)
PEERS = [Endpoint(f"203.0.113.{number}", 9000 + number) for number in range(1, 9)]


def observer(*local: Endpoint, ipv6: bool = False) -> NatObserver:
    made = NatObserver(ipv6=ipv6)
    made.local(local or (HOME,))
    return made


def mapping(observed: NatObserver, now: float = NOW) -> Mapping:
    return observed.verdict(now).nat.mapping


def filtering(observed: NatObserver, now: float = NOW) -> Filtering:
    return observed.verdict(now).nat.filtering


def behind_symmetric() -> NatObserver:
    made = observer()
    for number, peer in enumerate(PEERS[:4]):
        made.reported(NOW, peer, Endpoint(OUTSIDE.address, 40_000 + 3 * number))
    return made


def behind_cone() -> NatObserver:
    made = observer()
    for peer in PEERS[:4]:
        made.reported(NOW, peer, OUTSIDE)
    return made


def test_nothing_is_known_before_anything_was_observed() -> None:
    verdict = observer().verdict(NOW)
    assert verdict.nat == Nat()
    assert verdict.outside is None
    assert verdict.addresses == ()


def test_a_node_that_peers_see_where_it_listens_has_no_nat() -> None:
    made = observer(OUTSIDE)
    for peer in PEERS[:2]:
        made.reported(NOW, peer, OUTSIDE)
    assert mapping(made) is Mapping.NONE
    assert made.verdict(NOW).outside == OUTSIDE


def test_a_node_with_two_public_addresses_has_no_nat() -> None:
    second = Endpoint("198.51.100.2", 7000)
    made = observer(OUTSIDE, second)
    for number, peer in enumerate(PEERS[:4]):
        made.reported(NOW, peer, (OUTSIDE, second)[number % 2])
    assert mapping(made) is Mapping.NONE


def test_one_outside_endpoint_for_everybody_is_an_endpoint_independent_mapping() -> None:
    verdict = behind_cone().verdict(NOW)
    assert verdict.nat.mapping is Mapping.ENDPOINT_INDEPENDENT
    assert verdict.outside == OUTSIDE
    assert verdict.addresses == (OUTSIDE.address,)
    assert verdict.witnesses == 4


def test_another_port_for_every_peer_is_a_dependent_mapping() -> None:
    made = behind_symmetric()
    verdict = made.verdict(NOW)
    assert verdict.nat.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT
    assert verdict.outside is None
    assert verdict.addresses == (OUTSIDE.address,)
    assert verdict.nat.preserves_ports is Answer.NO
    assert made.mapped_ports(NOW) == [40_000, 40_003, 40_006, 40_009]


def test_two_ports_of_one_address_tell_whether_the_port_matters() -> None:
    for step, expected in ((0, Mapping.ADDRESS_DEPENDENT), (1, Mapping.ADDRESS_AND_PORT_DEPENDENT)):
        made = observer()
        for number, peer in enumerate(PEERS[:3]):
            made.reported(NOW, peer, Endpoint(OUTSIDE.address, 40_000 + 10 * number))
            twin = Endpoint(peer.address, 1234)
            made.reported(NOW, twin, Endpoint(OUTSIDE.address, 40_000 + 10 * number + step))
        assert mapping(made) is expected


def test_a_single_witness_is_not_enough_for_a_mapping_but_names_an_endpoint() -> None:
    made = observer()
    made.reported(NOW, PEERS[0], OUTSIDE)
    made.reported(NOW, Endpoint(PEERS[0].address, 1), OUTSIDE)
    assert mapping(made) is Mapping.UNKNOWN
    assert made.verdict(NOW).outside == OUTSIDE


def test_peers_on_our_own_network_hide_no_nat() -> None:
    made = observer()
    for number in range(10, 15):
        made.reported(NOW, Endpoint(f"192.168.1.{number}", 7000), HOME)
    assert mapping(made) is Mapping.NONE
    for peer in PEERS[:2]:
        made.reported(NOW, peer, OUTSIDE)
    assert mapping(made) is Mapping.ENDPOINT_INDEPENDENT
    assert made.verdict(NOW).outside == OUTSIDE


def test_several_outside_addresses_are_seen_each_by_two_witnesses() -> None:
    made = observer()
    second = Endpoint("198.51.100.2", 7000)
    for number, peer in enumerate(PEERS[:4]):
        made.reported(NOW, peer, (OUTSIDE, second)[number % 2])
    made.reported(NOW, PEERS[5], Endpoint("8.8.8.8", 53))
    assert set(made.verdict(NOW).addresses) == {OUTSIDE.address, second.address}


@pytest.mark.parametrize("said", [Endpoint("8.8.8.8", 53), HOME, Endpoint(OUTSIDE.address, 1)], ids=str)
def test_one_liar_among_three_changes_no_mapping(said: Endpoint) -> None:
    honest = behind_cone().verdict(NOW).nat.mapping
    for count in (2, 3):
        made = observer()
        for peer in PEERS[:count]:
            made.reported(NOW, peer, OUTSIDE)
        for port in (1, 2, 3):  # one address is one witness, however many nodes it says it is
            made.reported(NOW, Endpoint(PEERS[7].address, port), said)
        assert mapping(made) is honest
        assert made.verdict(NOW).outside == OUTSIDE
        assert made.verdict(NOW).addresses == (OUTSIDE.address,)


def test_one_liar_does_not_make_a_dependent_mapping_look_independent() -> None:
    made = behind_symmetric()
    for port in range(1, 10):
        made.reported(NOW, Endpoint(PEERS[7].address, port), Endpoint(OUTSIDE.address, 40_000))
    assert mapping(made) is Mapping.ADDRESS_AND_PORT_DEPENDENT


def test_a_preserved_port_is_noticed() -> None:
    assert behind_cone().verdict(NOW).nat.preserves_ports is Answer.YES


def test_a_stranger_that_gets_in_shows_that_nothing_is_filtered() -> None:
    made = behind_cone()
    made.arrived(NOW, PEERS[6], Relation.STRANGER)
    assert filtering(made) is Filtering.ENDPOINT_INDEPENDENT
    public = observer(OUTSIDE)
    public.reported(NOW, PEERS[0], OUTSIDE)
    public.arrived(NOW, PEERS[6], Relation.STRANGER)
    assert filtering(public) is Filtering.NONE


def test_an_answer_to_what_we_sent_shows_nothing_of_the_filter() -> None:
    made = behind_cone()
    made.arrived(NOW, PEERS[6], Relation.ENDPOINT)
    made.missed(NOW, PEERS[6], Relation.ENDPOINT)
    assert filtering(made) is Filtering.UNKNOWN


def test_strangers_that_stay_outside_show_a_filter_and_an_address_that_gets_in_its_kind() -> None:
    made = behind_cone()
    made.missed(NOW, PEERS[5], Relation.STRANGER)
    assert filtering(made) is Filtering.UNKNOWN, "one witness is no proof where there are more"
    made.missed(NOW, PEERS[6], Relation.STRANGER)
    assert filtering(made) is Filtering.ADDRESS_AND_PORT_DEPENDENT
    made.arrived(NOW, Endpoint(PEERS[0].address, 1), Relation.ADDRESS)
    assert filtering(made) is Filtering.ADDRESS_DEPENDENT
    made.arrived(NOW, PEERS[7], Relation.STRANGER)
    assert filtering(made) is Filtering.ENDPOINT_INDEPENDENT, "what we see outweighs what is said"


def test_arrivals_from_our_own_network_passed_no_nat() -> None:
    made = behind_cone()
    made.arrived(NOW, Endpoint("192.168.1.9", 7000), Relation.STRANGER)
    assert filtering(made) is Filtering.UNKNOWN


def test_hairpinning_is_known_once_tried() -> None:
    made = behind_cone()
    for came_back, expected in ((True, Answer.YES), (False, Answer.NO)):
        made.hairpinned(NOW, came_back)
        assert made.verdict(NOW).nat.hairpins is expected
    assert made.verdict(NOW + TRIED_S + 1).nat.hairpins is Answer.UNKNOWN


def test_observations_expire() -> None:
    made = behind_cone()
    made.arrived(NOW, PEERS[6], Relation.STRANGER)
    assert made.verdict(NOW + TRIED_S + 1).nat == Nat()
    assert made.mapped_ports(NOW + OBSERVED_S + 1) == []


def test_a_new_mapping_replaces_the_old_one_as_soon_as_most_report_it() -> None:
    made = behind_cone()
    rebound = Endpoint(OUTSIDE.address, 50_000)
    for peer in PEERS[:4]:
        made.reported(NOW + 1, peer, rebound)
    assert made.verdict(NOW + 1).outside == rebound
    assert mapping(made, NOW + 1) is Mapping.ENDPOINT_INDEPENDENT


def test_another_network_is_another_nat() -> None:
    made = behind_cone()
    made.local((HOME,))
    assert mapping(made) is Mapping.ENDPOINT_INDEPENDENT
    made.local((Endpoint("10.0.0.3", 7000),))
    assert made.verdict(NOW).nat == Nat()


def test_the_families_are_judged_apart() -> None:
    six = Endpoint("2001:db8::7", 7000)
    four, other = observer(HOME, six), observer(HOME, six, ipv6=True)
    for made in (four, other):
        for peer in PEERS[:3]:
            made.reported(NOW, peer, OUTSIDE)
        for number in range(1, 4):
            made.reported(NOW, Endpoint(f"2001:db8:1::{number}", 7000), six)
    assert mapping(four) is Mapping.ENDPOINT_INDEPENDENT
    assert mapping(other) is Mapping.NONE


def test_ports_stay_in_the_order_in_which_they_appeared() -> None:
    made = observer()
    for number, peer in enumerate(PEERS[:3]):
        made.reported(NOW + number, peer, Endpoint(OUTSIDE.address, 40_000 + number))
    made.reported(NOW + 10, PEERS[0], Endpoint(OUTSIDE.address, 40_000))
    assert made.mapped_ports(NOW + 10) == [40_000, 40_001, 40_002]


def test_a_crowd_of_witnesses_is_bounded() -> None:
    made = observer()
    for number in range(3 * MAX_REPORTS):
        made.reported(NOW, Endpoint(f"203.0.{number % 250}.9", 1), OUTSIDE)
        made.missed(NOW, Endpoint(f"203.0.{number % 250}.9", 1), Relation.STRANGER)
    assert made.verdict(NOW).witnesses == MAX_REPORTS
    assert MAX_MISSES < MAX_REPORTS


some_endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
happenings = st.tuples(
    st.floats(0, OBSERVED_S), st.sampled_from("rrraml"), some_endpoints, some_endpoints, st.sampled_from(Relation)
)


@given(st.booleans(), st.lists(some_endpoints, max_size=3), st.lists(happenings, max_size=60))
@fuzzed()
def test_whatever_is_observed_there_is_a_verdict(
    ipv6: bool, local: list[Endpoint], happens: list[tuple[float, str, Endpoint, Endpoint, Relation]]
) -> None:
    made = observer(*local, ipv6=ipv6)
    now = NOW
    for passed_s, step, one, two, relation in happens:
        now += passed_s
        match step:
            case "r":
                made.reported(now, one, two)
            case "a":
                made.arrived(now, one, relation)
            case "m":
                made.missed(now, one, relation)
            case _:
                made.hairpinned(now, one.port % 2 == 0)
        nat = made.verdict(now).nat
        assert Nat.parse(nat.pack()) == nat
        assert len(made.mapped_ports(now)) <= MAX_REPORTS


nats = st.builds(
    Nat, st.sampled_from(Mapping), st.sampled_from(Filtering), st.sampled_from(Answer), st.sampled_from(Answer)
)


@given(nats)
@fuzzed()
def test_a_description_comes_back_as_it_was_sent(nat: Nat) -> None:
    assert len(nat.pack()) == NAT_BYTES
    assert Nat.parse(nat.pack()) == nat


@pytest.mark.parametrize("packed", [b"", b"\x00", b"\x00" * 3, b"\x50\x00", b"\x05\x00", b"\x00\x30", b"\x00\x03"])
def test_a_description_of_no_known_kind_is_refused(packed: bytes) -> None:
    with pytest.raises(BadDatagram, match="NAT"):
        Nat.parse(packed)
