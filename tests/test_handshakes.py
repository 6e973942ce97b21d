"""Handshakes between whole nodes: both at once, again after a restart, under flood, and against old packets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dht.contact import Contact
from dht.cookie import BUSY_HANDSHAKES
from dht.handshake import FULL_INITIATION_BYTES, Initiation, Payload
from dht.host import Endpoint
from dht.node import Node
from dht.path import Kind
from dht.storage import MemoryStorage
from sims.engine import Engine, SimHost
from sims.latency import Constant
from sims.network import Network
from tests.identities import make_identities


class Tapped:
    """What a host sends through instead of the network itself."""

    def __init__(self, carry: Callable[[SimHost, Endpoint, bytes, int], None]) -> None:
        self._carry = carry

    def carry(self, source: SimHost, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        self._carry(source, to, datagram, traffic_class)


class Wire:
    """A simulated network that remembers every datagram, and hosts that only listen."""

    def __init__(self, seed: int, nodes: int, rtt_ms: float = 50.0) -> None:
        self.engine = Engine(seed)
        self.network = Network(self.engine, Constant(rtt_ms))
        self.identities = make_identities(nodes + 4, seed)
        self.captured: list[tuple[Endpoint, Endpoint, bytes]] = []
        self.storages = [MemoryStorage() for _ in range(nodes)]
        carry = self.network.carry

        def note(source: SimHost, to: Endpoint, datagram: bytes, traffic_class: int) -> None:
            self.captured.append((source.endpoint, to, datagram))
            carry(source, to, datagram, traffic_class)

        self._note = note

    def host(self, endpoint: Endpoint | None = None) -> SimHost:
        host = self.network.host(endpoint)
        host._network = Tapped(self._note)
        return host

    def node(self, number: int, bootstraps: tuple[Endpoint, ...] = (), endpoint: Endpoint | None = None) -> Node:
        node = Node(self.host(endpoint), self.identities[number], self.storages[number])
        node.start(bootstraps)
        return node

    def to_from(self, source: Endpoint, to: Endpoint) -> list[bytes]:
        return [datagram for one, other, datagram in self.captured if (one, other) == (source, to)]


class Stranger:
    """A host that sends what it likes and keeps what comes back."""

    def __init__(self, wire: Wire) -> None:
        self.host = wire.network.host()
        self.received: list[bytes] = []
        self.host.on_receive(lambda datagram, source: self.received.append(datagram))


def endpoint_of(node: Node) -> Endpoint:
    return node.contact().endpoints[0]


def edge(node: Node, other: Node) -> bool:
    return any(view.id == other.id and view.path == "direct" for view in node.peers())


@pytest.mark.parametrize("seed", range(20))
def test_two_ends_that_begin_at_the_same_instant_agree_on_one_session_within_a_second(seed: int) -> None:
    wire = Wire(seed, 2)
    one, other = wire.node(0), wire.node(1)
    for left, right in ((one, other), (other, one)):
        left._parts.linker.link(Contact(right.id, right.identity.static_public, right.contact().endpoints))
    took_s = wire.engine.run_until(lambda: edge(one, other) and edge(other, one), limit_s=5, check_every_s=0.01)
    assert took_s <= 1.0
    wire.engine.run_for(2)
    ours = one._parts.sessions.peers[other.id].session.keypairs()[0]
    theirs = other._parts.sessions.peers[one.id].session.keypairs()[0]
    assert (ours.local_index, ours.remote_index) == (theirs.remote_index, theirs.local_index)


@pytest.mark.parametrize("seed", range(3))
def test_a_captured_initiation_sent_again_a_thousand_times_gets_no_byte_and_touches_nothing(seed: int) -> None:
    wire = Wire(seed, 2)
    first = wire.node(0)
    second = wire.node(1, (endpoint_of(first),))
    wire.engine.run_until(lambda: edge(first, second), limit_s=10)
    wire.engine.run_for(5)
    old = [datagram for _, to, datagram in wire.captured if to == endpoint_of(first)]
    assert any(datagram[0] == 0x11 for datagram in old) and any(datagram[0] == 0x15 for datagram in old)
    before = first._parts.sessions.peers[second.id].session.keypairs()
    stranger = Stranger(wire)
    for repetition in range(1000):
        stranger.host.send(endpoint_of(first), old[repetition % len(old)])
    wire.engine.run_for(5)
    assert stranger.received == []
    assert first._parts.sessions.peers[second.id].session.keypairs() == before
    assert edge(first, second)


@pytest.mark.parametrize("seed", range(3))
def test_old_packets_are_worth_nothing_to_a_restarted_node_either(seed: int) -> None:
    wire = Wire(seed, 2)
    first = wire.node(0)
    second = wire.node(1, (endpoint_of(first),))
    wire.engine.run_until(lambda: edge(first, second), limit_s=10)
    wire.engine.run_for(5)
    where = endpoint_of(first)
    old = [datagram for _, to, datagram in wire.captured if to == where]
    host = wire.network.at(where)
    assert host is not None
    wire.network.crash(host)
    restarted = wire.node(0, endpoint=where)
    stranger = Stranger(wire)
    for datagram in old:
        stranger.host.send(where, datagram)
    wire.engine.run_for(3)
    assert stranger.received == []
    assert edge(restarted, second)


@pytest.mark.parametrize("seed", range(3))
def test_a_restart_is_noticed_in_two_round_trips_without_waiting_for_a_timeout(seed: int) -> None:
    wire = Wire(seed, 2)
    first = wire.node(0)
    second = wire.node(1, (endpoint_of(first),))
    wire.engine.run_until(lambda: edge(first, second), limit_s=10)
    wire.engine.run_for(5)
    where = endpoint_of(first)
    host = wire.network.at(where)
    assert host is not None
    wire.network.crash(host)
    restarted = wire.node(0, endpoint=where)
    took_s = wire.engine.run_until(
        lambda: edge(restarted, second) and edge(second, restarted), limit_s=5, check_every_s=0.01
    )
    assert took_s <= 0.15


def test_random_bytes_and_broken_handshakes_get_no_answer() -> None:
    wire = Wire(7, 2)
    first = wire.node(0)
    second = wire.node(1, (endpoint_of(first),))
    wire.engine.run_until(lambda: edge(first, second), limit_s=10)
    rng = wire.engine.rng
    stranger = Stranger(wire)
    samples = [datagram for _, to, datagram in wire.captured if to == endpoint_of(first)]
    for kind in range(256):
        stranger.host.send(endpoint_of(first), bytes((kind,)) + rng.randbytes(rng.randrange(0, 1400)))
    for datagram in samples:
        stranger.host.send(endpoint_of(first), datagram[: rng.randrange(0, len(datagram))])
        flipped = bytearray(datagram)
        flipped[rng.randrange(0, len(flipped))] ^= 1 << rng.randrange(0, 8)
        stranger.host.send(endpoint_of(first), bytes(flipped))
    stranger.host.send(endpoint_of(first), b"")
    wire.engine.run_for(5)
    assert stranger.received == []
    assert first.counters["bad_datagram"] > 256


def test_under_a_flood_a_member_still_joins_and_no_answer_is_longer_than_its_question() -> None:
    wire = Wire(3, 2)
    victim = wire.node(0)
    insider = wire.identities[4]
    rng = wire.engine.rng
    flooders = [Stranger(wire) for _ in range(20)]
    counter = int(wire.engine.now * 1000) << 10
    total = 0

    def flood() -> None:
        nonlocal counter, total
        for flooder in flooders:
            counter += 1
            total += 1
            payload = Payload(
                certificate=insider.member.certificate, static_signature=insider.static_signature, counter=counter
            )
            _, datagram = Initiation.begin(
                insider, victim.identity.static_public, rng.getrandbits(32), payload, rng, wire.engine.now, None
            )
            flooder.host.send(endpoint_of(victim), datagram)

    for step in range(100):
        wire.engine.call_later(0.05 * step, flood)
    wire.engine.run_for(1.0)
    joiner = wire.node(1, (endpoint_of(victim),))
    took_s = wire.engine.run_until(lambda: edge(victim, joiner), limit_s=10)
    assert took_s <= 5.0
    wire.engine.run_for(10.0)
    answers = [datagram for flooder in flooders for datagram in flooder.received]
    cookies = [datagram for datagram in answers if datagram[0] == 0x13]
    assert cookies, "no cookie was asked for: was there a flood?"
    assert all(len(datagram) <= FULL_INITIATION_BYTES for datagram in answers)
    assert sum(datagram[0] == 0x12 for datagram in answers) < total / 2
    assert len(answers) > BUSY_HANDSHAKES


def just_answered(seed: int) -> tuple[Wire, Node, Node, Contact]:
    """Two nodes, the contact of the first, and the second has just answered its handshake."""
    wire = Wire(seed, 2)
    one, other = wire.node(0), wire.node(1)
    contact = Contact(one.id, one.identity.static_public, one.contact().endpoints)
    one._parts.linker.link(Contact(other.id, other.identity.static_public, other.contact().endpoints))
    peers = other._parts.sessions.peers
    wire.engine.run_until(lambda: one.id in peers and not peers[one.id].up, limit_s=1, check_every_s=0)
    return wire, one, other, contact


@pytest.mark.parametrize("seed", range(5))
def test_whom_we_have_just_answered_is_not_dialled_back(seed: int) -> None:
    wire, one, other, contact = just_answered(seed)
    got: list[bool] = []
    other._parts.linker.link(contact, lambda peer: got.append(peer is not None))
    assert got == []
    wire.engine.run_for(2)
    assert got == [True] and edge(one, other) and edge(other, one)
    sent = wire.to_from(endpoint_of(other), endpoint_of(one))
    assert [datagram[0] for datagram in sent].count(0x11) == 0


def test_who_was_answered_over_the_ring_is_dialled_at_once() -> None:
    wire, one, other, contact = just_answered(1)
    peers = other._parts.sessions.peers
    peers[one.id].answered = wire.engine.now, Kind.OVERLAY
    other._parts.linker.link(contact)
    assert [datagram[0] for datagram in wire.to_from(endpoint_of(other), endpoint_of(one))].count(0x11) == 1
    wire.engine.run_for(2)
    assert edge(one, other) and edge(other, one)


def test_whose_first_packet_is_lost_is_dialled_after_all() -> None:
    wire, one, other, contact = just_answered(1)
    here, there = wire.network.at(endpoint_of(one)), wire.network.at(endpoint_of(other))
    assert here is not None and there is not None
    wire.network.cut(here, there, both_ways=False)
    other._parts.linker.link(contact)
    wire.engine.run_for(0.5)
    assert [datagram[0] for datagram in wire.to_from(endpoint_of(other), endpoint_of(one))].count(0x11) == 0
    wire.network.heal()
    wire.engine.run_for(2)
    assert edge(one, other) and edge(other, one)
    assert [datagram[0] for datagram in wire.to_from(endpoint_of(other), endpoint_of(one))].count(0x11) > 0
