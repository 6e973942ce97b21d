"""Why a path is not direct: what is said to a person, for every pair of ends that a person may have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dht.host import Endpoint
from ipop.advice import why_not_direct
from shortcuts.candidates import Candidate, CandidateKind
from shortcuts.nat import Answer, Filtering, Mapping, Nat
from shortcuts.views import AttemptView, Explanation, PathView

UNKNOWN = Nat()
PUBLIC = Nat(Mapping.NONE, Filtering.NONE)
PORT_RESTRICTED = Nat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
SYMMETRIC = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
# As a node knows its own NAT before anybody has shown that he got in, or said that he did not.
HALF_KNOWN_SYMMETRIC = Nat(Mapping.ADDRESS_AND_PORT_DEPENDENT)
HALF_KNOWN = Nat(Mapping.ENDPOINT_INDEPENDENT)

OVERLAY = PathView("overlay", None, None, None, True, 40.0, 1.0, 0)
DIRECT = PathView("direct", Endpoint("198.51.100.2", 7078), None, None, True, 4.0, 1.0, 0)
LOCAL4 = Candidate(CandidateKind.HOST, Endpoint("192.168.1.5", 7077))
REMOTE4 = Candidate(CandidateKind.HOST, Endpoint("10.0.0.9", 7078))
LOCAL6 = Candidate(CandidateKind.HOST, Endpoint("2001:db8:1::5", 7077))
REMOTE6 = Candidate(CandidateKind.HOST, Endpoint("2001:db8:2::9", 7078))
FAILED = AttemptView(12.0, "no candidate answered", True, ())
RUNNING = AttemptView(0.5, "checking", False, ())


def explained(here: Nat = UNKNOWN, there: Nat = UNKNOWN) -> Explanation:
    """A peer over the overlay, of two ends with these IPv4 NATs, after a try that failed."""
    return Explanation(
        peer_id=7,
        name="bob",
        path=OVERLAY,
        reason="no direct path",
        demand="in use",
        score=3.0,
        local_nat=(here, UNKNOWN),
        remote_nat=(there, UNKNOWN),
        local_candidates=(LOCAL4,),
        remote_candidates=(REMOTE4,),
        attempts=(FAILED,),
        paths=(OVERLAY,),
        next_retry_s=9.0,
    )


def said(explanation: Explanation) -> tuple[str, str]:
    """Why, and what to do, each in one printable line."""
    advice = why_not_direct(explanation)
    assert advice is not None
    for text in advice:
        assert text is None or text.isprintable()
    return advice.reason, advice.action or ""


def test_a_direct_path_needs_no_advice() -> None:
    assert why_not_direct(replace(explained(), path=DIRECT)) is None


@pytest.mark.parametrize("nat", [SYMMETRIC, HALF_KNOWN_SYMMETRIC])
def test_two_symmetric_nats_need_a_forwarded_port_on_one_of_them(nat: Nat) -> None:
    why, action = said(explained(nat, nat))
    assert why.startswith("the NATs of both ends are symmetric (another outside port for every peer)")
    assert action.startswith("forward UDP port 7077 to this node on its router, or UDP port 7078 to bob on its router")
    assert "UPnP" in action
    assert action.endswith("use IPv6 at both ends")


def test_where_both_have_ipv6_it_is_no_advice() -> None:
    both = replace(
        explained(SYMMETRIC, SYMMETRIC), local_candidates=(LOCAL4, LOCAL6), remote_candidates=(REMOTE4, REMOTE6)
    )
    why, action = said(both)
    assert "symmetric" in why  # although nothing is known of what IPv6 lets through
    assert "IPv6" not in action


def test_a_port_that_nobody_named_is_not_made_up() -> None:
    outside = Candidate(CandidateKind.SERVER_REFLEXIVE, Endpoint("203.0.113.5", 4001))
    why = replace(explained(SYMMETRIC, SYMMETRIC), remote_candidates=(outside,))
    assert "or its UDP port to bob on its router" in said(why)[1]


def test_a_port_that_is_forwarded_already_is_no_advice_either() -> None:
    mapped = Candidate(CandidateKind.MAPPED, Endpoint("203.0.113.5", 7077))
    here = replace(explained(SYMMETRIC, SYMMETRIC), local_candidates=(LOCAL4, mapped))
    assert said(here)[1].startswith("forward UDP port 7078 to bob on its router (")
    both = replace(here, remote_candidates=(REMOTE4, mapped))
    assert "another NAT in front of it" in said(both)[1]


@pytest.mark.parametrize(
    ("here", "there", "hard", "other", "surely"),
    [
        (SYMMETRIC, PORT_RESTRICTED, "this node", "bob", "bob lets in only"),
        (PORT_RESTRICTED, SYMMETRIC, "bob", "this node", "this node lets in only"),
        (HALF_KNOWN_SYMMETRIC, HALF_KNOWN, "this node", "bob", "bob likely lets in only"),
    ],
)
def test_one_symmetric_nat_is_named(here: Nat, there: Nat, hard: str, other: str, surely: str) -> None:
    why, action = said(explained(here, there))
    assert why.startswith(f"the NAT of {hard} is symmetric")
    assert surely in why
    assert why.endswith(f"where {other} has sent to")
    assert "forward UDP port 7077" in action


def test_what_should_work_and_does_not_is_likely_a_firewalls_doing() -> None:
    why, action = said(explained(PUBLIC, PORT_RESTRICTED))
    assert why == "the NATs of both ends should allow it, but the last try: no candidate answered"
    assert action == "see that no firewall at either end stops UDP port 7077 of this node, or UDP port 7078 of bob"


def test_while_it_is_tried_nobody_is_sent_to_his_router() -> None:
    for here, there in ((PUBLIC, PUBLIC), (UNKNOWN, UNKNOWN)):
        running = replace(explained(here, there), attempts=(RUNNING,))
        assert said(running) == ("it is being tried now: checking", "")
    asked = replace(explained(), attempts=(RUNNING,), remote_nat=None, remote_candidates=())
    assert said(asked) == ("bob has just been asked where it can be reached", "")


def test_another_try_does_not_hide_what_the_last_one_showed() -> None:
    failed = explained(PUBLIC, PORT_RESTRICTED)
    assert said(replace(failed, attempts=(RUNNING, FAILED))) == said(failed)
    silent = replace(failed, remote_nat=None, remote_candidates=())
    assert said(replace(silent, attempts=(RUNNING, FAILED))) == said(silent)


def test_without_any_nat_it_is_a_firewall_or_a_route() -> None:
    unfiltered = Nat(Mapping.NONE)  # who gets in is not known
    for nat in (PUBLIC, unfiltered):
        why, action = said(explained(nat, nat))
        assert why == (
            "no NAT is in the way, so a firewall or a missing route must be; the last try: no candidate answered"
        )
        assert "no firewall at either end stops UDP port 7077" in action


def test_the_end_of_which_too_little_is_known_is_named() -> None:
    assert "of the NAT or firewall of bob;" in said(explained(PORT_RESTRICTED, UNKNOWN))[0]
    assert "of the NAT or firewall of this node;" in said(explained(UNKNOWN, PORT_RESTRICTED))[0]
    assert "of this node and of bob;" in said(explained())[0]


def test_who_was_seen_elsewhere_by_one_member_is_told_of_his_router_as_well() -> None:
    outside = Candidate(CandidateKind.SERVER_REFLEXIVE, Endpoint("203.0.113.5", 4001))
    seen = replace(explained(Nat(preserves_ports=Answer.NO), PORT_RESTRICTED), local_candidates=(LOCAL4, outside))
    why, action = said(seen)
    assert "the one of this node changes port numbers, so it is likely symmetric" in why
    assert "firewall" in action
    assert "forward UDP port 7077 to this node on its router" in action
    assert "likely" not in said(replace(seen, local_nat=(UNKNOWN, UNKNOWN)))[0]
    assert "on its router" not in said(replace(seen, local_candidates=(LOCAL4,)))[1]


def test_without_a_nat_a_firewall_is_to_be_opened_and_nothing_forwarded() -> None:
    closed = Nat(Mapping.NONE, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    action = said(explained(closed, closed))[1]
    assert action == "open UDP port 7077 in the firewall of this node, or UDP port 7078 in the firewall of bob"
    why, action = said(explained(closed, SYMMETRIC))
    assert "and the firewall of this node lets in only" in why
    assert action.startswith("open UDP port 7077 in the firewall of this node; or forward UDP port 7078 to bob on its")
    assert "to this node" not in action


def test_a_forwarded_port_is_promised_only_where_no_provider_translates_too() -> None:
    assert "in vain where the provider translates addresses too" in said(explained(SYMMETRIC, SYMMETRIC))[1]


def test_two_hosts_behind_one_nat_are_told_of_hairpinning() -> None:
    outside = Candidate(CandidateKind.SERVER_REFLEXIVE, Endpoint("203.0.113.5", 4001))
    at_another_port = Candidate(CandidateKind.SERVER_REFLEXIVE, Endpoint("203.0.113.5", 4002))
    flat = replace(PORT_RESTRICTED, hairpins=Answer.NO)
    shared = replace(
        explained(flat, flat), local_candidates=(LOCAL4, outside), remote_candidates=(REMOTE4, at_another_port)
    )
    why, action = said(shared)
    assert "behind the same NAT" in why
    assert "NAT loopback" in action
    nats = replace(shared, local_nat=(PORT_RESTRICTED, UNKNOWN), remote_nat=(PORT_RESTRICTED, UNKNOWN))
    assert "of the NAT that both are behind" in said(nats)[0]


def test_ends_without_a_common_family_are_told_so() -> None:
    link_local = Candidate(CandidateKind.HOST, Endpoint("fe80::1", 7077))
    apart = replace(explained(), local_candidates=(LOCAL4, link_local), remote_candidates=(REMOTE6,))
    assert said(apart)[0] == "this node has only IPv4, bob has only IPv6"
    nowhere = replace(explained(), local_candidates=(link_local,))
    assert said(nowhere)[0] == "this node has no network, bob has only IPv4"


def test_a_peer_that_says_nothing_or_was_never_asked() -> None:
    silent = replace(explained(), remote_nat=None, remote_candidates=())
    assert said(silent)[0] == "bob has not said where it can be reached"
    assert "see that bob is up" in said(silent)[1]
    untried = replace(explained(), attempts=(), demand="no traffic lately")
    assert said(untried) == ("it has not been tried yet (no traffic lately)", "'p2pvpn ping bob' makes this node try")
