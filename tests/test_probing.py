"""Whom NATs let in, found out by real nodes: each type as it is, rarely, and of no use to whoever wants to do harm."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.contact import Contact
from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.messages import Kind, Message, pack_control, split_control
from dht.node import Node
from dht.packing import Fields, pack
from dht.peer import Peer
from shortcuts.contacted import MAX_ENDPOINTS, REMEMBERED_S, Contacted
from shortcuts.messages import (
    MAX_KNOWN,
    TOKEN_BYTES,
    ProbeOrder,
    ProbeReport,
    ProbeRequest,
    ProbeSent,
)
from shortcuts.nat import Answer, Filtering, Mapping, Nat, Relation
from shortcuts.node import Shortcuts
from shortcuts.probe import PROBE, PROBE_BYTES, probe, token_of
from shortcuts.probing import ASKED, NEXT, RETRY_S, ROUND_S, Event, Stage
from sims.access import Interface
from sims.engine import Engine, SimHost
from sims.latency import Constant
from sims.nat import FULL, PORT, Hairpin, NatBox
from sims.network import Network
from sims.world import World
from tests.fuzzing import addresses, fuzzed
from tests.identities import START_S, make_identities

PUBLIC_NODES = 20
VICTIM = Endpoint("203.0.113.99", 53)
TOKEN = bytes(range(TOKEN_BYTES))
AD, APD = Filtering.ADDRESS_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT

# By preset: mapping and what its filtering may be taken for, in IPv4 and in IPv6; None where it has no such address.
# That an address is let in whatever its port shows only when one comes by another port than it was sent to.
Expected = tuple[Mapping, tuple[Filtering, ...]] | None
OPEN: Expected = (Mapping.NONE, (Filtering.NONE,))
EXPECTED: dict[str, tuple[Expected, Expected]] = {
    "public": (OPEN, None),
    "full": ((Mapping.ENDPOINT_INDEPENDENT, (Filtering.ENDPOINT_INDEPENDENT,)), None),
    "addr": ((Mapping.ENDPOINT_INDEPENDENT, (AD, APD)), None),
    "port": ((Mapping.ENDPOINT_INDEPENDENT, (APD,)), None),
    "sym": ((Mapping.ADDRESS_AND_PORT_DEPENDENT, (APD,)), None),
    "cgnat(port,port)": ((Mapping.ENDPOINT_INDEPENDENT, (APD,)), None),
    "cgnat(port,sym)": ((Mapping.ADDRESS_AND_PORT_DEPENDENT, (APD,)), None),
    "firewalled": ((Mapping.NONE, (APD,)), None),
    "ipv6-only": (None, OPEN),
    "dual-stack": (OPEN, None),  # in IPv6 only if some peer uses that
}


class Members:
    """A ring of public nodes of both families, to which others are added."""

    def __init__(self, seed: int, public: int = PUBLIC_NODES, spare: int = 12) -> None:
        print(f"seed {seed}")
        self.engine = Engine(seed)
        network = Network(self.engine, Constant(40.0))
        self.world = World(self.engine, network, make_identities(public + spare, seed, now=START_S))
        self.shortcuts: dict[int, Shortcuts] = {}
        for _ in range(public):
            self.add("dual-stack")
        self.engine.run_until(self.world.successor_cycle, limit_s=120)
        self.engine.run_for(5)

    def add(self, preset: str | None = None, interfaces: list[Interface] | None = None) -> Node:
        number = len(self.shortcuts)
        if interfaces is not None:
            self.world.interfaces[number] = interfaces
        node = self.world.start(number, behind=preset)
        self.shortcuts[node.id] = Shortcuts(self.host(node), node)
        self.shortcuts[node.id].start()
        self.engine.run_for(0.3)
        return node

    def host(self, node: Node) -> SimHost:
        return self.world.hosts[node.id]

    def nat(self, node: Node) -> Nat:
        return self.shortcuts[node.id].report().nat[0]

    def session(self, one: Node, other: Node) -> Peer:
        """The edge of one to the other, made if there is none."""
        one._parts.linker.link(Contact(other.id, other.identity.static_public, other.contact().endpoints))
        self.engine.run_for(1)
        return one._parts.sessions.peers[other.id]

    def tell(self, one: Node, peer: Peer, message: Message) -> None:
        one._parts.sessions.send(peer, bytes((Inner.CONTROL,)) + pack_control(message, Kind.ASK, 9))

    def victim(self) -> list[bytes]:
        """What comes to VICTIM from now on."""
        received: list[bytes] = []
        self.world.network.host(VICTIM).on_receive(lambda datagram, source: received.append(datagram))
        return received


@pytest.mark.parametrize("seed", range(1, 1 + int(os.environ.get("P2PVPN_SEEDS", "2"))))
def test_each_type_of_nat_is_named_within_a_minute(seed: int) -> None:
    members = Members(seed)
    nodes = {preset: members.add(preset) for preset in EXPECTED}
    members.engine.run_for(60)
    for preset, node in nodes.items():
        for nat, expected in zip(members.shortcuts[node.id].report().nat, EXPECTED[preset], strict=True):
            if expected is not None:
                mapping, filterings = expected
                assert nat.mapping is mapping, f"seed {seed}, {preset}"
                assert nat.filtering in filterings, f"seed {seed}, {preset}: {nat.filtering.name}"
    assert not any(node.counters["bad_datagram"] for node in members.world.nodes)


def test_where_peers_use_other_ports_an_address_dependent_filter_is_told_from_a_port_dependent_one() -> None:
    members = Members(3)
    by_address, by_port = members.add("addr"), members.add("port")
    others = [members.add("sym") for _ in range(3)]
    for _ in range(100):
        for other in others:
            for node in (by_address, by_port):
                for here, there in ((node, other), (other, node)):
                    if not here.traffic.send_packet(there.id, b"x" * 60):
                        here.open_session(there.id, lambda peer: None)
        members.engine.run_for(0.2)
    assert members.nat(by_address).filtering is AD
    assert members.nat(by_port).filtering is APD


def test_offers_carry_what_was_found() -> None:
    members = Members(4)
    one, other = members.add("full"), members.add("port")
    members.engine.run_for(60)
    for _ in range(50):
        for here, there in ((one, other), (other, one)):
            if not here.traffic.send_packet(there.id, b"x" * 60):
                here.open_session(there.id, lambda peer: None)
        members.engine.run_for(0.1)
    explanation = members.shortcuts[one.id].explain(other.id)
    assert explanation is not None
    assert explanation.local_nat[0].filtering is Filtering.ENDPOINT_INDEPENDENT
    if explanation.remote_nat is not None:  # unless the ring had made them neighbours before
        assert explanation.remote_nat[0].filtering is APD


def test_another_box_is_tried_anew() -> None:
    members = Members(5)
    node = members.add("full")
    members.engine.run_for(60)
    assert members.nat(node).filtering is Filtering.ENDPOINT_INDEPENDENT
    site = members.world.site(len(members.shortcuts) - 1)
    assert site is not None
    site.box.type = PORT
    members.world.network.access.renumber(site, "198.18.200.1")
    members.engine.run_until(lambda: members.nat(node).filtering is APD, limit_s=400)


# Hairpinning


class Mirror(NatBox):
    """A box that turns a host's own packets back to it, as some do and Linux doesn't."""

    def hairpin(self, inner: Endpoint, to: Endpoint, now: float) -> Hairpin | None:
        outer = self.outbound(inner, to, now)
        return None if outer is None else Hairpin(outer, inner)


def test_a_box_that_leads_back_to_us_hairpins_and_one_that_doesnt_does_not() -> None:
    members = Members(6)
    access = members.world.network.access
    leads_back, swallows = access.site(FULL, "198.18.200.1"), access.site(FULL, "198.18.200.2")
    leads_back.box = Mirror(FULL, "198.18.200.1", members.engine.rng)
    first, second = (
        members.add(interfaces=[Interface(Endpoint(site.free_address(), 7000), site)])
        for site in (leads_back, swallows)
    )
    members.engine.run_for(60)
    assert members.nat(first).hairpins is Answer.YES
    assert members.nat(second).hairpins is Answer.NO
    assert not first.counters["bad_datagram"]


def test_a_neighbour_that_comes_by_our_outside_address_shows_more_than_our_own_silence() -> None:
    members = Members(14)
    site = members.world.network.access.site(replace(PORT, hairpins=True), "198.18.200.1")
    home = [members.add(interfaces=[Interface(Endpoint(site.free_address(), port), site)]) for port in (7000, 7001)]
    members.engine.run_for(30)
    one, other = home
    peer = members.session(one, other)
    outside = Endpoint("198.18.200.1", 7001)
    one._parts.checks.check(peer, outside, lambda checked: None)
    members.engine.run_for(30)
    assert members.nat(other).hairpins is Answer.YES
    assert members.nat(other).filtering is not Filtering.ENDPOINT_INDEPENDENT


# Bounds


def probes(received: list[bytes]) -> list[bytes]:
    return [datagram for datagram in received if datagram[0] == PROBE]


def test_orders_can_be_given_rarely_and_bring_less_than_they_cost() -> None:
    members = Members(7, public=8, spare=4)
    liar, other = members.world.nodes[:2]
    received = members.victim()
    peer = members.session(liar, other)
    before = peer.tx_bytes
    for _ in range(200):
        members.tell(liar, peer, ProbeOrder(TOKEN, VICTIM))
        members.engine.run_for(0.01)
    members.engine.run_for(5)
    assert 1 <= len(received) <= 4
    assert sum(map(len, received)) < (peer.tx_bytes - before) / 50
    assert other.counters["probes_over_budget"] >= 190


@pytest.mark.parametrize("target", ["10.0.0.1:53", "192.168.1.1:1900", "127.0.0.1:53", "100.64.0.1:53", "[fe80::1]:53"])
def test_nobody_is_made_to_send_into_its_own_network(target: str) -> None:
    members = Members(8, public=4, spare=2)
    liar, other = members.world.nodes[:2]
    members.tell(liar, members.session(liar, other), ProbeOrder(TOKEN, Endpoint.from_text(target)))
    members.engine.run_for(2)
    assert other.counters["probe_orders_refused"] == 1


def test_a_request_that_seems_to_come_from_a_victim_brings_it_no_probe() -> None:
    members = Members(9)
    liar, helper = members.world.nodes[:2]
    members.engine.run_for(700)  # until what the liar asked for in earnest no longer counts
    received = members.victim()
    peer = members.session(liar, helper)
    request = bytes((Inner.CONTROL,)) + pack_control(ProbeRequest(TOKEN, ()), Kind.ASK, 9)
    datagram = peer.session.seal(request, members.engine.now)
    members.host(helper).deliver(datagram, VICTIM, 0)
    members.engine.run_for(5)
    assert helper.counters["probe_requests_unproven"] == 1
    assert not probes(received)


def test_requests_are_served_within_a_budget() -> None:
    members = Members(10)
    liar, helper = members.world.nodes[:2]
    peer = members.session(liar, helper)
    for _ in range(300):
        members.tell(liar, peer, ProbeRequest(TOKEN, ()))
        members.engine.run_for(0.01)
    members.engine.run_for(5)
    assert helper.counters["probes_over_budget"] >= 290


def test_probes_that_nobody_waits_for_show_nothing() -> None:
    members = Members(11)
    node = members.add("port")
    public = members.world.nodes[3]
    members.engine.run_for(60)
    for receiver in (node, public):
        refused, stale = receiver.counters["bad_datagram"], receiver.counters["stale_datagram"]
        before = members.nat(receiver)
        for token in (bytes(TOKEN_BYTES), TOKEN):
            members.host(receiver).deliver(probe(token), VICTIM, 0)
        assert receiver.counters["stale_datagram"] == stale + 2
        members.host(receiver).deliver(probe(TOKEN)[:-1], VICTIM, 0)
        assert receiver.counters["bad_datagram"] == refused + 1
        members.engine.run_for(1)
        assert members.nat(receiver) == before


def test_asking_is_rare_where_there_are_no_strangers() -> None:
    members = Members(12, public=6)
    node = members.add("port")
    members.engine.run_for(3600)
    rounds = 3600 / (0.8 * ROUND_S) + len(RETRY_S) + 1
    assert 1 <= node.counters["probes_asked_for"] <= rounds * ASKED
    assert members.nat(node).filtering in (APD, Filtering.UNKNOWN)


def test_a_stopped_node_probes_nobody() -> None:
    members = Members(13, public=8, spare=2)
    node = members.add("port")
    members.shortcuts[node.id].stop()
    asked = node.counters["probes_asked_for"]
    members.engine.run_for(120)
    assert node.counters["probes_asked_for"] == asked


# Pieces


def test_every_stage_can_be_left() -> None:
    for stage in Stage:
        assert any(before is stage and after is not stage for (before, _), after in NEXT.items())
    assert {event for _, event in NEXT} == set(Event)


def test_who_was_contacted_is_no_stranger_for_a_while() -> None:
    contacted, now = Contacted(), START_S
    here = Endpoint("198.51.100.1", 7000)
    assert contacted.relation(now, here) is Relation.STRANGER
    contacted.note(now, here)
    later = now + REMEMBERED_S - 1
    assert contacted.relation(later, here) is Relation.ENDPOINT
    assert contacted.relation(later, here._replace(port=1)) is Relation.ADDRESS
    assert contacted.relation(later, VICTIM) is Relation.STRANGER
    assert contacted.addresses(later, 9, ipv6=False) == [here.address]
    assert contacted.addresses(later, 9, ipv6=True) == []
    contacted.note(now - 50, here)  # old news
    assert contacted.relation(later, here) is Relation.ENDPOINT
    assert contacted.relation(later + 1, here) is Relation.STRANGER
    assert contacted.addresses(later + 1, 9, ipv6=False) == []


def test_who_had_to_forget_calls_nobody_a_stranger() -> None:
    contacted, now = Contacted(), START_S
    for port in range(1, MAX_ENDPOINTS + 3):
        contacted.note(now, Endpoint("198.51.100.1", port))
    assert len(contacted) == MAX_ENDPOINTS
    assert contacted.relation(now + 1, VICTIM) is None
    assert contacted.relation(now + 1, Endpoint("198.51.100.1", MAX_ENDPOINTS)) is Relation.ENDPOINT
    assert contacted.relation(now + REMEMBERED_S, VICTIM) is Relation.STRANGER


some_endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
tokens = st.binary(min_size=TOKEN_BYTES, max_size=TOKEN_BYTES)
packed_addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
messages = st.one_of(
    st.builds(ProbeRequest, tokens, st.lists(packed_addresses, max_size=MAX_KNOWN).map(tuple)),
    st.builds(ProbeReport, st.none() | some_endpoints),
    st.builds(ProbeOrder, tokens, some_endpoints),
    st.builds(ProbeSent, st.booleans()),
)


@given(messages, st.sampled_from(Kind))
@fuzzed()
def test_a_message_comes_back_as_it_was_sent(message: Message, kind: Kind) -> None:
    control = split_control(pack_control(message, kind, 7))
    assert control.code == message.CODE
    assert type(message).read(Fields.parse(control.body, "message")) == message


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ProbeRequest, {}),
        (ProbeRequest, {0: TOKEN[:-1], 1: []}),
        (ProbeRequest, {0: TOKEN, 1: [b"short"]}),
        (ProbeRequest, {0: TOKEN, 1: [bytes(4)] * (MAX_KNOWN + 1)}),
        (ProbeReport, {0: bytes(7)}),
        (ProbeReport, {0: bytes(6)}),
        (ProbeOrder, {0: TOKEN}),
        (ProbeOrder, {0: TOKEN, 1: bytes(6)}),
        (ProbeSent, {}),
        (ProbeSent, {0: 1}),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(kind: type[Message], body: dict[int, object]) -> None:
    with pytest.raises(BadDatagram):
        kind.read(Fields.parse(pack(body), "message"))  # type: ignore[arg-type]


@given(st.binary(max_size=PROBE_BYTES + 4))
@fuzzed()
def test_any_bytes_are_a_probe_or_refused(datagram: bytes) -> None:
    try:
        token = token_of(datagram)
    except BadDatagram:
        return
    assert probe(token) == datagram
