"""What a member with bad intentions can do by way of offers, checks and tunnels: little, and nothing that lasts."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from dht.checks import MAX_PENDING_A_PEER
from dht.envelope import Inner
from dht.exchange import Incoming
from dht.host import Endpoint
from dht.messages import Kind, Message, TunnelOffer, TunnelRequest, pack_control
from dht.node import Node
from dht.path import Tunnel
from dht.peer import Peer
from dht.relay import MAX_CIRCUITS_A_MEMBER
from dht.tunnels import MAX_TUNNELS_A_RELAY
from shortcuts.candidates import MAX_CANDIDATES, Candidate, CandidateKind
from shortcuts.messages import Offer
from shortcuts.nat import Nat
from tests.nat_world import NatWorld

LIE = Endpoint("203.0.113.9", 4444)


def ring(seed: int, kinds: list[str]) -> NatWorld:
    members = NatWorld(len(kinds), seed, kinds=kinds)
    members.grow(len(kinds))
    members.engine.run_for(5)
    return members


def session(members: NatWorld, liar: Node, victim: Node) -> Peer:
    liar.parts.linker.link(victim.contact())
    members.engine.run_for(2)
    return liar.parts.sessions.peers[victim.id]


def tell(liar: Node, peer: Peer, message: Message, kind: Kind = Kind.TELL, transaction: int = 0) -> None:
    liar.parts.sessions.send(peer, bytes((Inner.CONTROL,)) + pack_control(message, kind, transaction))


def test_offers_that_name_a_bystander_bring_it_few_packets() -> None:
    members = ring(1, ["dual-stack"] * 3 + ["port"] * 3)
    liar, dupe = members.node(3), members.node(4)
    places = [Endpoint("198.18.200.1", 9 + number) for number in range(MAX_CANDIDATES)]
    bystander = [members.world.network.host(place) for place in places]
    peer = session(members, liar, dupe)
    # Only who has no direct path checks candidates at all, so the liar keeps to the overlay.
    members.world.network.cut(members.world.hosts[liar.id], members.world.hosts[dupe.id])
    members.engine.run_for(10)
    named = tuple(Candidate(CandidateKind.HOST, place) for place in places)
    seconds = 60
    for number in range(seconds * 10):
        peer = liar.parts.sessions.peers.get(dupe.id) or peer
        tell(liar, peer, Offer(number.to_bytes(8, "big"), named, Nat(), Nat()), Kind.ASK, number)
        members.engine.run_for(0.1)
    packets, octets = sum(host.received_datagrams for host in bystander), sum(host.received_bytes for host in bystander)
    print(f"the bystander got {packets} packets, {octets} bytes, in {seconds} s")
    assert dupe.counters["offers_over_budget"] > seconds * 5
    assert packets > 0, "it must have worked at all"
    assert packets <= 40 * seconds
    assert members.world.whole()


def test_floods_of_offers_requests_and_checks_fill_no_table_and_cost_nobody_its_place() -> None:
    members = ring(2, ["dual-stack"] * 3 + ["port"] * 5)
    liar, victim = members.node(3), members.node(1)
    peer = session(members, liar, victim)
    rng = Random(2)
    contacts = [node.contact() for node in members.world.nodes if node not in (liar, victim)]
    for number in range(1500):
        endpoints = [
            Candidate(CandidateKind.HOST, Endpoint(f"198.18.{rng.randrange(256)}.{rng.randrange(1, 255)}", 7))
            for _ in range(MAX_CANDIDATES)
        ]
        for message in (
            Offer(rng.randbytes(8), tuple(endpoints), Nat(), Nat()),
            TunnelRequest(rng.choice(contacts), True),
            TunnelOffer(rng.getrandbits(160), rng.getrandbits(32)),
        ):
            tell(liar, peer, message, Kind.ASK, number)
        for check in (bytes((0,)) + rng.randbytes(8), bytes((1,)) + rng.randbytes(14), rng.randbytes(3)):
            liar.parts.sessions.send(peer, bytes((Inner.CHECK,)) + check)
        if number % 20 == 0:
            members.engine.run_for(0.1)
    members.engine.run_for(5)
    assert len(victim.parts.tunnels._ends) <= MAX_TUNNELS_A_RELAY + 16
    assert len(victim.parts.relay.circuits) <= MAX_CIRCUITS_A_MEMBER + 16
    assert victim.parts.checks._of_peer[liar.id] <= MAX_PENDING_A_PEER
    assert len(victim.parts.checks._pending) <= 2 * MAX_PENDING_A_PEER
    assert victim.counters["bad_datagram"] > 0
    assert members.world.whole()
    assert members.unreachable_twice(members.sampled(40)) == []


Meddler = Callable[[Callable[[Endpoint, bytes], None], Endpoint, bytes, Random], None]


def dropping(send: Callable[[Endpoint, bytes], None], to: Endpoint, datagram: bytes, rng: Random) -> None:
    """It takes circuits, and passes nothing on."""


def damaging(send: Callable[[Endpoint, bytes], None], to: Endpoint, datagram: bytes, rng: Random) -> None:
    damaged = bytearray(datagram)
    damaged[rng.randrange(8, len(damaged))] ^= 1 << rng.randrange(8)
    send(to, bytes(damaged))


def repeating(send: Callable[[Endpoint, bytes], None], to: Endpoint, datagram: bytes, rng: Random) -> None:
    for _ in range(3):
        send(to, datagram)


@pytest.mark.parametrize(("meddler", "leaves"), [(dropping, True), (damaging, True), (repeating, False)])
def test_a_relay_that_meddles_is_found_out_or_changes_nothing(meddler: Meddler, leaves: bool) -> None:
    members = ring(3, ["dual-stack"] * 3 + ["sym", "sym"])
    one, other = members.node(3), members.node(4)
    engine, got = members.engine, list[bytes]()
    other.traffic.on_packet(lambda member, packet: got.append(packet))

    def path() -> object:
        peer = one.parts.sessions.peers.get(other.id)
        return None if peer is None else peer.path

    engine.run_until(lambda: isinstance(path(), Tunnel), limit_s=60)
    tunnel = path()
    assert isinstance(tunnel, Tunnel)
    relay = next(node for node in members.world.nodes if node.id == tunnel.via)
    host = members.world.hosts[relay.id]
    rng = Random(3)

    def forward(buffer: bytes | memoryview, size: int, source: Endpoint) -> bool:
        circuit = relay.parts.relay._circuits.get(int.from_bytes(buffer[4:8], "big"))
        if circuit is None:
            return False
        there = circuit.other if circuit.one.path == source else circuit.one
        if isinstance(there.path, Endpoint):
            meddler(host.send, there.path, bytes((buffer[0], 1)) + bytes(buffer[2:]), rng)
        return True

    relay.parts.relay.forward = forward  # type: ignore[method-assign]
    sent: list[bytes] = []
    for number in range(300):
        packet = b"packet %d" % number
        if one.traffic.send_packet(other.id, packet):
            sent.append(packet)
        other.traffic.send_packet(one.id, b"back")
        engine.run_for(0.1)
    assert set(got) <= set(sent), "nothing corrupt was delivered"
    assert len(got) == len(set(got)), "nothing was delivered twice"
    lost = len(sent) - len(got)
    print(f"{lost} of {len(sent)} packets lost; from {tunnel} to {path()}")
    if leaves:
        assert path() != tunnel, "the path was left"
        assert lost <= 80, "within eight seconds"
    else:
        assert lost == 0


def test_one_peer_that_says_it_sees_us_elsewhere_is_not_believed() -> None:
    members = ring(4, ["dual-stack"] * 3 + ["port", "port", "port"])
    liar, victim = members.node(4), members.node(3)
    session(members, liar, victim)
    received = liar.parts.checks.received

    def lying(peer: Peer, body: bytes, path: object) -> None:
        if body[0] == 0 and isinstance(path, Endpoint):
            answer = bytes((Inner.CHECK, 1)) + body[1:9] + LIE.pack()
            liar.parts.sessions.send_by(peer, path, answer)
        else:
            received(peer, body, path)  # type: ignore[arg-type]

    liar.parts.checks.received = lying  # type: ignore[method-assign]
    for _ in range(100):
        liar.traffic.send_packet(victim.id, b"x")
        victim.traffic.send_packet(liar.id, b"y")
        members.engine.run_for(0.2)
    report = members.shortcuts[victim.id].report()
    assert LIE not in victim.contact().endpoints
    assert report.outside[0] != LIE
    handed_out: list[Offer] = []
    friend = members.node(5)
    upgrade = members.shortcuts[friend.id].upgrade
    took = upgrade._on_offer

    def taking(incoming: Incoming, message: Offer) -> Message | None:
        handed_out.append(message)
        return took(incoming, message)

    friend.parts.exchange._handlers[Offer.CODE] = (Offer, friend.parts.exchange._handlers[Offer.CODE][1], taking)
    members.shortcuts[victim.id].upgrade._begin(
        members.shortcuts[victim.id].upgrade.search(session(members, victim, friend))
    )
    members.engine.run_for(2)
    assert handed_out
    assert all(candidate.endpoint != LIE for offer in handed_out for candidate in offer.candidates)
