"""Candidates: few, each once, the likeliest first, and nothing tried that can't work."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.messages import Kind, Message, pack_control, split_control
from dht.packing import Fields, pack
from shortcuts import messages
from shortcuts.candidates import (
    MAX_CANDIDATE_BYTES,
    MAX_CANDIDATES,
    MAX_HOSTS,
    PACE_S,
    ROUNDS_S,
    Candidate,
    CandidateKind,
    gather,
    pace,
    pairs,
)
from shortcuts.messages import FIRST_CODE, LAST_CODE, NONCE_BYTES, Offer
from shortcuts.nat import Answer, Filtering, Mapping, Nat
from tests.fuzzing import addresses, fuzzed

some_endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
candidates = st.builds(Candidate, st.sampled_from(CandidateKind), some_endpoints)
nats = st.builds(
    Nat, st.sampled_from(Mapping), st.sampled_from(Filtering), st.sampled_from(Answer), st.sampled_from(Answer)
)


def at(*texts: str) -> list[Endpoint]:
    return [Endpoint.from_text(text) for text in texts]


def hosts(*texts: str) -> list[Candidate]:
    return [Candidate(CandidateKind.HOST, endpoint) for endpoint in at(*texts)]


def reflexive(*texts: str) -> list[Candidate]:
    return [Candidate(CandidateKind.SERVER_REFLEXIVE, endpoint) for endpoint in at(*texts)]


def tried(own: list[Candidate], remote: list[Candidate]) -> list[str]:
    return [str(pair.remote.endpoint) for pair in pairs(own, remote)]


def test_candidates_come_in_the_order_of_their_worth() -> None:
    found = gather(
        local=at("192.168.1.7:7000", "203.0.113.9:7000", "[2001:db8::7]:7000"),
        observed=at("198.51.100.1:40000"),
        mapped=at("198.51.100.1:7000"),
        learned=at("198.51.100.1:41000"),
        predicted=at("198.51.100.1:40002"),
    )
    assert [(candidate.kind.name, str(candidate.endpoint)) for candidate in found] == [
        ("HOST", "[2001:db8::7]:7000"),
        ("HOST", "203.0.113.9:7000"),
        ("HOST", "192.168.1.7:7000"),
        ("MAPPED", "198.51.100.1:7000"),
        ("PEER_REFLEXIVE", "198.51.100.1:41000"),
        ("SERVER_REFLEXIVE", "198.51.100.1:40000"),
        ("PREDICTED", "198.51.100.1:40002"),
    ]


def test_an_endpoint_is_a_candidate_once_as_the_best_that_it_is() -> None:
    here = at("203.0.113.9:7000")
    assert gather(here, here, here, here, here) == (Candidate(CandidateKind.HOST, here[0]),)
    outside = at("198.51.100.1:7000")
    assert gather((), outside, outside) == (Candidate(CandidateKind.MAPPED, outside[0]),)


def test_loopback_is_a_candidate_only_of_a_node_that_is_nowhere_else() -> None:
    assert [str(each.endpoint) for each in gather(at("127.0.0.1:7000"))] == ["127.0.0.1:7000"]
    assert [str(each.endpoint) for each in gather(at("127.0.0.1:7000", "10.0.0.1:7000"))] == ["10.0.0.1:7000"]


def test_a_machine_full_of_bridges_still_tells_how_the_world_sees_it() -> None:
    found = gather(at(*(f"172.16.{number}.1:7000" for number in range(40))), at("198.51.100.1:40000"))
    kinds = Counter(candidate.kind for candidate in found)
    assert kinds == {CandidateKind.HOST: MAX_HOSTS, CandidateKind.SERVER_REFLEXIVE: 1}


def test_only_the_family_that_both_ends_have_is_tried() -> None:
    four, six = "203.0.113.9:7000", "[2001:db8::9]:7000"
    assert tried(hosts("198.51.100.7:7000"), hosts(six, four)) == [four]
    assert tried(hosts("[2001:db8::7]:7000"), hosts(six, four)) == [six]
    assert tried(hosts("[2001:db8::7]:7000"), hosts(four)) == []
    assert tried(hosts("198.51.100.7:7000", "[2001:db8:1::7]:7000"), hosts(four, six)) == [six, four]


def test_a_neighbour_on_the_lan_comes_first() -> None:
    own = hosts("192.168.1.7:7000") + reflexive("198.51.100.1:40000")
    remote = hosts("192.168.1.9:7000", "[2001:db8::9]:7000") + reflexive("198.51.100.1:40001")
    found = pairs(own, remote)
    assert found[0].same_lan
    assert [str(pair.remote.endpoint) for pair in found] == ["192.168.1.9:7000", "198.51.100.1:40001"]


def test_the_same_prefix_behind_another_nat_is_tried_late() -> None:
    own = hosts("192.168.1.7:7000") + reflexive("198.51.100.1:40000")
    remote = hosts("192.168.1.9:7000") + reflexive("203.0.113.1:40001")
    found = pairs(own, remote)
    assert [str(pair.remote.endpoint) for pair in found] == ["203.0.113.1:40001", "192.168.1.9:7000"]
    assert not any(pair.same_lan for pair in found)


@pytest.mark.parametrize(
    ("own", "remote", "worth_it"),
    [
        ("192.168.1.7:7000", "10.0.0.9:7000", True),
        ("192.168.1.7:7000", "100.64.0.9:7000", True),
        ("100.64.0.7:7000", "192.168.1.9:7000", True),
        ("198.51.100.7:7000", "192.168.1.9:7000", False),
        ("198.51.100.7:7000", "100.64.0.9:7000", False),
        ("192.168.1.7:7000", "203.0.113.9:7000", True),
        ("127.0.0.1:7000", "127.0.0.2:7000", True),
        ("192.168.1.7:7000", "127.0.0.1:7000", False),
        ("127.0.0.1:7000", "203.0.113.9:7000", False),
        ("[fe80::7]:7000", "[fe80::9]:7000", True),
        ("[2001:db8::7]:7000", "[fe80::9]:7000", False),
        ("192.168.1.7:7000", "192.168.1.7:7000", False),
    ],
)
def test_only_scopes_that_can_meet_are_tried(own: str, remote: str, worth_it: bool) -> None:
    assert bool(tried(hosts(own), hosts(remote))) == worth_it


def test_a_pair_names_our_address_nearest_to_the_other_end() -> None:
    own = hosts("10.0.0.7:7000", "192.168.1.7:7000")
    assert [str(pair.local.endpoint) for pair in pairs(own, hosts("192.168.1.9:7000"))] == ["192.168.1.7:7000"]


def test_a_node_without_an_address_tries_nothing() -> None:
    assert pairs(reflexive("198.51.100.1:1"), hosts("203.0.113.9:7000")) == ()


@given(st.lists(candidates, max_size=20), st.lists(candidates, max_size=40))
@fuzzed()
def test_pairs_are_few_and_different(own: list[Candidate], remote: list[Candidate]) -> None:
    found = pairs(own, remote)
    assert len(found) <= MAX_CANDIDATES
    assert len({pair.remote.endpoint for pair in found}) == len(found)
    assert all(pair.remote in remote and pair.local in own for pair in found)
    assert len(gather(*[[candidate.endpoint for candidate in remote]] * 2)) <= MAX_CANDIDATES


@given(st.lists(candidates, max_size=20))
@fuzzed(weight=0.2)
def test_checks_are_paced_and_every_pair_has_its_turn_in_every_round(remote: list[Candidate]) -> None:
    chosen = pairs(hosts("192.168.1.7:7000", "[2001:db8::7]:7000"), remote)
    plan = pace(chosen)
    assert Counter(pair for _, pair in plan) == dict.fromkeys(chosen, len(ROUNDS_S))
    delays_s = [delay_s for delay_s, _ in plan]
    assert all(later - earlier >= PACE_S - 1e-9 for earlier, later in pairwise(delays_s))
    assert [pair for _, pair in plan[: len(chosen)]] == list(chosen)


@given(candidates)
@fuzzed()
def test_a_candidate_comes_back_as_it_was_sent(candidate: Candidate) -> None:
    assert Candidate.parse(candidate.pack()) == candidate
    assert len(candidate.pack()) <= MAX_CANDIDATE_BYTES


@given(st.binary(max_size=20))
@fuzzed()
def test_any_bytes_are_one_candidate_or_refused(packed: bytes) -> None:
    try:
        candidate = Candidate.parse(packed)
    except BadDatagram:
        return
    assert candidate.pack() == packed


@pytest.mark.parametrize("packed", [b"", b"\x00" + b"\x01" * 6, b"\x06" + b"\x01" * 6, b"\x01" * 6], ids=bytes.hex)
def test_a_candidate_of_no_kind_or_place_is_refused(packed: bytes) -> None:
    with pytest.raises(BadDatagram):
        Candidate.parse(packed)


nonces = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)
offers = st.builds(Offer, nonces, st.lists(candidates, max_size=MAX_CANDIDATES).map(tuple), nats, nats)


@given(offers, st.sampled_from(Kind))
@fuzzed()
def test_an_offer_comes_back_as_it_was_sent(offer: Offer, kind: Kind) -> None:
    control = split_control(pack_control(offer, kind, 7))
    assert control.code == Offer.CODE
    assert Offer.read(Fields.parse(control.body, "Offer")) == offer


@pytest.mark.parametrize(
    "body",
    [
        {},
        {0: b"short", 1: [], 2: b"\0\0", 3: b"\0\0"},
        {0: bytes(8), 1: [b"\x01" * 7] * (MAX_CANDIDATES + 1), 2: b"\0\0", 3: b"\0\0"},
        {0: bytes(8), 1: [b"\x09" * 7], 2: b"\0\0", 3: b"\0\0"},
        {0: bytes(8), 1: [], 2: b"\x99\0", 3: b"\0\0"},
        {0: bytes(8), 1: [], 2: b"\0\0"},
    ],
)
def test_an_offer_that_breaks_a_rule_is_refused(body: dict[int, object]) -> None:
    with pytest.raises(BadDatagram):
        Offer.read(Fields.parse(pack(body), "Offer"))  # type: ignore[arg-type]


def test_codes_of_this_room_stay_in_their_range() -> None:
    own = [
        member
        for member in vars(messages).values()
        if isinstance(member, type) and issubclass(member, Message) and hasattr(member, "CODE")
    ]
    assert own
    assert all(FIRST_CODE <= message_type.CODE <= LAST_CODE for message_type in own)
