"""From an address to a session: what is asked, what is remembered and for how long, and what people are told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from dht.certificate import Member
from ipop.resolve import DEADLINE_S, FAILED_S, KNOWN_S, MAX_ASKING, MAX_FAILED, Located, Reason, Remembered, Resolver
from sims.engine import Engine, SimHost
from sims.latency import Constant
from sims.network import Network
from tests.identities import make_identities
from tests.ring_double import RingDouble

SEED = 11
NOBODYS = IPv4Address("10.77.9.9")


class World:
    """One resolver on a ring double. `bob` is published and online."""

    def __init__(self) -> None:
        self.engine = Engine(SEED)
        self.host: SimHost = Network(self.engine, Constant(10)).host()
        self.ring = RingDouble(self.host)
        self.ready = True
        self.resolver = Resolver(self.host, self.ring, lambda: self.ready)
        self.bob, self.eve = (identity.member for identity in make_identities(2, SEED))
        self.ring.publish(self.bob)
        self.answers: list[Located] = []

    def reach(self, address: IPv4Address | IPv6Address, wait_s: float = DEADLINE_S + 1) -> Located:
        """The answer to one `reach`, which must come exactly once."""
        self.answers.clear()
        self.resolver.reach(address, self.answers.append)
        self.engine.run_for(wait_s)
        assert len(self.answers) == 1, f"seed {SEED}: {self.answers}"
        return self.answers[0]


@pytest.fixture
def world() -> World:
    return World()


def test_both_addresses_of_a_node_lead_to_it(world: World) -> None:
    assert world.reach(world.bob.address4) == world.bob
    assert world.reach(world.bob.address6) == world.bob
    assert world.ring.asked == [f"ip:{world.bob.address4}", f"ip:{world.bob.address6}"]


def test_who_holds_an_address_is_remembered_but_not_for_ever(world: World) -> None:
    world.reach(world.bob.address4)
    world.reach(world.bob.address4)
    assert len(world.ring.asked) == 1
    assert len(world.ring.opened) == 2  # A session may have ended meanwhile.
    world.engine.run_for(KNOWN_S)
    world.reach(world.bob.address4)
    assert len(world.ring.asked) == 2


def test_many_who_wait_for_one_address_cost_one_lookup(world: World) -> None:
    for _ in range(50):
        world.resolver.reach(world.bob.address4, world.answers.append)
    world.engine.run_for(1)
    assert world.answers == [world.bob] * 50
    assert len(world.ring.asked) == len(world.ring.opened) == 1


def test_an_address_nobody_holds_fails_at_once_and_is_asked_again_soon(world: World) -> None:
    assert world.reach(NOBODYS, wait_s=0.5) is Reason.NOBODY
    assert world.resolver.failure(NOBODYS) is Reason.NOBODY
    world.engine.run_for(FAILED_S)
    assert world.resolver.failure(NOBODYS) is None


def test_before_the_node_has_joined_an_empty_answer_is_asked_again(world: World) -> None:
    world.ready = False
    late = make_identities(3, SEED)[2].member
    world.host.call_later(2.0, lambda: world.ring.publish(late))
    assert world.reach(late.address4) == late


def test_a_ring_that_never_answers_is_named_and_given_up_in_time(world: World) -> None:
    world.ring.silent = True
    assert world.reach(world.bob.address4) is Reason.RING_SILENT


def test_when_no_replica_answers_it_is_tried_again(world: World) -> None:
    world.ring.replicas = 0
    world.ring.records.clear()
    assert world.reach(world.bob.address4) is Reason.RING_SILENT
    assert len(world.ring.asked) > 3


def test_a_known_peer_that_does_not_answer_is_told_apart_and_looked_up_anew(world: World) -> None:
    world.ring.online.clear()
    assert world.reach(world.bob.address4) is Reason.PEER_SILENT
    world.engine.run_for(FAILED_S)
    world.reach(world.bob.address4)
    assert len(world.ring.asked) == 2  # The address may have moved to another node.


def test_a_record_signed_by_somebody_who_does_not_hold_the_address_proves_nothing(world: World) -> None:
    world.ring.records[f"ip:{NOBODYS}"] = [world.eve]
    assert world.reach(NOBODYS) is Reason.NOBODY


def test_of_two_holders_the_later_certificate_counts(world: World) -> None:
    newer = replace(world.eve, address4=world.bob.address4, not_before=world.bob.not_before + 1)
    world.ring.publish(newer)
    assert world.reach(world.bob.address4) == newer


def test_a_name_leads_only_to_the_node_whose_certificate_says_it(world: World) -> None:
    world.ring.records["name:n0"].insert(0, world.eve)
    found: list[Located] = []
    world.resolver.locate_name("n0", found.append)
    world.engine.run_for(1)
    world.ring.records["name:n7"] = [world.eve]
    world.resolver.locate_name("n7", found.append)
    world.engine.run_for(1)
    assert found == [world.bob, Reason.NOBODY]


def test_what_a_certificate_proved_needs_no_lookup(world: World) -> None:
    world.reach(NOBODYS)
    world.ring.asked.clear()
    member: Member = replace(world.eve, address4=NOBODYS)
    world.ring.online.add(member.id)
    world.resolver.learn(NOBODYS, member)
    assert world.resolver.failure(NOBODYS) is None
    assert world.reach(NOBODYS) == member
    assert world.ring.asked == []


def test_lookups_under_way_are_bounded(world: World) -> None:
    world.ring.silent = True
    for number in range(MAX_ASKING):
        world.resolver.reach(IPv4Address("10.77.10.0") + number, world.answers.append)
    assert world.answers == []
    world.resolver.reach(IPv4Address("10.77.12.1"), world.answers.append)
    assert world.answers == [Reason.TOO_MANY]
    assert world.resolver.failure(IPv4Address("10.77.12.1")) is None


def test_after_stop_nobody_is_called_and_nothing_asked(world: World) -> None:
    world.ready = False
    world.resolver.reach(NOBODYS, world.answers.append)
    world.resolver.stop()
    asked = len(world.ring.asked)
    world.engine.run_for(60)
    assert world.answers == []
    assert len(world.ring.asked) == asked


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    remembered: Remembered[int] = Remembered(MAX_FAILED)
    for number in range(MAX_FAILED + 10):
        remembered.put(IPv4Address(number), number, until=100.0)
    assert len(remembered) == MAX_FAILED
    assert remembered.get(IPv4Address(9), 0.0) is None
    assert remembered.get(IPv4Address(10), 0.0) == 10
    assert remembered.get(IPv4Address(10), 100.0) is None
    assert len(remembered) == MAX_FAILED - 1
