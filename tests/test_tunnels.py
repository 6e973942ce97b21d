"""Tunnels through one relay: nodes without a wire between them, in worlds of the product's own nodes."""

from __future__ import annotations

import os
from functools import partial
from itertools import combinations

import pytest

from dht.contact import Contact
from dht.host import Endpoint
from dht.messages import Message, TunnelGranted, TunnelOffer, TunnelRefused, TunnelRequest
from dht.node import Node
from dht.path import TUNNELLED, Tunnel
from dht.relay import IDLE_S, MAX_CIRCUITS_A_MEMBER, SWEEP_S, Refusal
from dht.ring import NEAR
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from sims.world import RingInvariants, World
from tests.identities import START_S, make_identities

SEEDS = range(1, 1 + int(os.environ.get("P2PVPN_SEEDS", "3")))


def make_world(nodes: int, seed: int, rtt_ms: float = 40.0) -> World:
    engine = Engine(seed)
    return World(engine, Network(engine, Constant(rtt_ms)), make_identities(nodes, seed, now=START_S))


def cut(world: World, one: Node, other: Node) -> None:
    world.network.cut(world.hosts[one.id], world.hosts[other.id])


def path(node: Node, other: Node) -> str | None:
    return next((peer.path for peer in node.peers() if peer.id == other.id), None)


def relays(node: Node, other: Node) -> set[int]:
    """The relay of the path in use, or 0 when it is no tunnel."""
    tunnel = node.parts.sessions.peers[other.id].path if other.id in node.parts.sessions.peers else None
    return {tunnel.via if isinstance(tunnel, Tunnel) else 0}


def both_through(one: Node, other: Node, alive: set[int]) -> bool:
    return relays(one, other) | relays(other, one) <= alive


def rtt_ms(world: World, node: Node, other: Node) -> float | None:
    """One ping, in the world's time; None when it isn't answered."""
    results: list[float | None] = []
    node.ping(other.id, lambda result: results.append(None if result is None else result.rtt_ms))
    world.engine.run_until(lambda: bool(results), limit_s=60)
    return results[0]


def trio(seed: int) -> tuple[World, Node, Node, Node]:
    """A relay that both others know, and no wire between those."""
    world = make_world(3, seed)
    relay = world.start(0)
    one, other = world.start(1), world.start(2)
    cut(world, one, other)
    world.engine.run_until(world.whole, limit_s=60)
    world.engine.run_until(lambda: path(one, other) == path(other, one) == "proxy", limit_s=60)
    return world, relay, one, other


@pytest.mark.parametrize("seed", SEEDS)
def test_two_nodes_with_no_wire_between_them_hold_their_edge_through_the_third(seed: int) -> None:
    world, relay, one, other = trio(seed)
    (circuit,) = relay.parts.relay.circuits
    assert {circuit.one.id, circuit.other.id} == {one.id, other.id}
    before = relay.counters["envelopes_relayed"]
    assert rtt_ms(world, one, other) == pytest.approx(80.0), f"seed {seed}"
    assert relay.counters["envelopes_relayed"] == before, "it goes by label, not as an envelope"
    assert circuit.octets > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ring_closes_where_a_third_of_all_pairs_have_no_wire_between_them(seed: int) -> None:
    world = make_world(60, seed)
    world.start(0)
    rng = world.engine.rng
    while len(world.nodes) < 60:
        newcomer = world.start(len(world.nodes))
        for node in world.nodes[1:-1]:
            if rng.random() < 0.33:
                cut(world, newcomer, node)
        world.engine.run_for(0.5)
    took_s = world.engine.run_until(world.whole, limit_s=240)
    print(f"seed {seed}: whole {took_s:.0f} s after the last start")
    world.engine.run_for(180)
    assert world.whole(), f"seed {seed}"
    pairs = rng.sample(list(combinations(world.nodes, 2)), 150)
    failed = [pair for pair in pairs if rtt_ms(world, *pair) is None]
    assert not failed, f"seed {seed}: {len(failed)} of {len(pairs)} pairs do not reach each other"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_tunnel_runs_through_a_tunnel_and_invariants_hold_while_nodes_without_wires_join(seed: int) -> None:
    world = make_world(40, seed)
    world.grow(NEAR + 1)
    invariants = RingInvariants(world)
    world.engine.after_event.append(invariants)
    rng = world.engine.rng
    while len(world.nodes) < 40:
        newcomer = world.start(len(world.nodes), (0, 1))
        for node in world.nodes[2:-1]:
            if rng.random() < 0.3:
                cut(world, newcomer, node)
        world.engine.run_for(1.0)
    world.engine.run_until(world.successor_cycle, limit_s=240)
    tunnels = 0
    for node in world.nodes:
        for peer in node.parts.sessions.peers.values():
            if isinstance(peer.path, Tunnel):
                tunnels += 1
                relay = next(each for each in world.nodes if each.id == peer.path.via)
                legs = [relay.parts.sessions.peers[end].path for end in (node.id, peer.id)]
                assert all(isinstance(leg, Endpoint) for leg in legs), f"seed {seed}"
    assert tunnels > 5, "the cuts must have made tunnels necessary, or this proves nothing"


@pytest.mark.parametrize("seed", SEEDS)
def test_when_the_relay_dies_another_takes_over(seed: int) -> None:
    world = make_world(6, seed)
    world.grow(4)
    one, other = world.start(4), world.start(5)
    cut(world, one, other)
    world.engine.run_until(lambda: path(one, other) == path(other, one) == "proxy", limit_s=60)
    for _ in range(2):
        tunnel = next(peer.path for peer in one.parts.sessions.peers.values() if peer.id == other.id)
        assert isinstance(tunnel, Tunnel)
        world.crash(next(node for node in world.nodes if node.id == tunnel.via))
        world.engine.run_until(world.whole, limit_s=60)
        alive = {node.id for node in world.nodes}
        world.engine.run_until(partial(both_through, one, other, alive), limit_s=60)
        assert rtt_ms(world, one, other) is not None, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_relay_that_leaves_tells_both_ends_at_once(seed: int) -> None:
    world, relay, one, other = trio(seed)
    relay.stop()
    world.engine.run_for(0.1)
    assert path(one, other) != "proxy"
    assert path(other, one) != "proxy"
    assert not one.parts.tunnels.to(other.id)


def test_an_unwilling_node_relays_nothing() -> None:
    world = make_world(3, 1)
    relay = world.start(0)
    relay.parts.relay.willing = False
    one, other = world.start(1), world.start(2)
    cut(world, one, other)
    world.engine.run_for(180)
    assert not relay.parts.relay.circuits
    assert path(one, other) != "proxy"
    assert one.counters["tunnel_refused_unwilling"] + other.counters["tunnel_refused_unwilling"] > 0


def test_an_idle_circuit_is_closed_and_both_ends_know() -> None:
    world, relay, one, other = trio(1)
    assert relay.parts.relay.circuits
    world.network.mend(world.hosts[one.id], world.hosts[other.id])
    for node, far in ((one, other), (other, one)):
        node.parts.sessions.use(node.parts.sessions.peers[far.id], world.hosts[far.id].endpoint)
    world.engine.run_for(IDLE_S + 3 * SWEEP_S)
    assert not relay.parts.relay.circuits
    assert not one.parts.tunnels.to(other.id)
    assert not other.parts.tunnels.to(one.id)
    assert path(one, other) == path(other, one) == "direct"


def ask(world: World, asker: Node, relay: Node, message: Message) -> Message | None:
    answers: list[Message | None] = []
    peer = asker.parts.sessions.peers[relay.id]
    asker.parts.exchange.ask(peer, message, (TunnelGranted, TunnelRefused), answers.append)
    world.engine.run_until(lambda: bool(answers), limit_s=30)
    return answers[0]


def contact(node: Node) -> Contact:
    return node.contact()


def test_one_member_can_not_use_up_a_relay() -> None:
    world = make_world(8, 1)
    world.grow(8)
    relay, asker, *others = world.nodes
    made = relay.parts.relay._make
    peers = relay.parts.sessions.peers
    for number in range(MAX_CIRCUITS_A_MEMBER):
        made(peers[asker.id], peers[others[number % 3].id])
        relay.parts.relay._by_pair.clear()  # as many different far ends
    answer = ask(world, asker, relay, TunnelRequest(contact(others[4]), False))
    assert answer == TunnelRefused(Refusal.BUSY)
    answer = ask(world, others[3], relay, TunnelRequest(contact(others[4]), False))
    assert isinstance(answer, TunnelGranted), "others are still served"


def test_a_relay_without_an_edge_to_the_far_end_says_so_or_makes_one() -> None:
    world = make_world(40, 1)
    world.grow(40)
    asker = world.nodes[5]
    relay, far = next(
        (relay, far)
        for relay in world.nodes
        if path(asker, relay) == "direct"
        for far in world.nodes
        if far not in (asker, relay) and path(relay, far) is None
    )
    assert ask(world, asker, relay, TunnelRequest(contact(far), False)) == TunnelRefused(Refusal.NO_EDGE)
    assert isinstance(ask(world, asker, relay, TunnelRequest(contact(far), True)), TunnelGranted)
    assert path(relay, far) == "direct"


def test_a_relay_does_not_join_a_node_to_itself() -> None:
    world, relay, one, _ = trio(1)
    assert ask(world, one, relay, TunnelRequest(contact(one), True)) == TunnelRefused(Refusal.NO_EDGE)


def test_a_label_from_elsewhere_moves_nothing() -> None:
    world, relay, one, other = trio(1)
    (circuit,) = relay.parts.relay.circuits
    octets = circuit.octets
    datagram = bytes((TUNNELLED, 0, 0, 0)) + circuit.label.to_bytes(4, "big") + bytes(64)
    relay.parts.demux.receive(datagram, Endpoint("203.0.113.9", 9))
    assert (circuit.octets, relay.counters["tunnel_wrong_source"]) == (octets, 1)
    refused = other.counters["bad_datagram"]
    other.parts.demux.receive(b"\x17\x01" + datagram[2:], Endpoint("203.0.113.9", 9))
    assert other.counters["bad_datagram"] == refused + 1
    for damaged in (datagram[:8], datagram[:5], b"\x17", b"\x17\x02" + datagram[2:]):
        refused = relay.counters["bad_datagram"]
        relay.parts.demux.receive(damaged, world.hosts[one.id].endpoint)
        assert relay.counters["bad_datagram"] == refused + 1


def test_a_tunnel_in_a_tunnel_is_refused() -> None:
    world, relay, _one, other = trio(1)
    (circuit,) = relay.parts.relay.circuits
    header = bytes((TUNNELLED, 1, 0, 0)) + circuit.label.to_bytes(4, "big")
    refused = other.counters["bad_datagram"]
    other.parts.demux.receive(header + header + bytes(64), world.hosts[relay.id].endpoint)
    assert other.counters["bad_datagram"] == refused + 1


def test_who_is_reached_by_a_tunnel_offers_and_gets_no_tunnels() -> None:
    world, _, one, other = trio(1)
    peer = one.parts.sessions.peers[other.id]
    answers: list[Message | None] = []
    offer = TunnelOffer(12345, 7)
    one.parts.exchange.ask(peer, offer, (TunnelRefused,), answers.append)
    world.engine.run_until(lambda: bool(answers), limit_s=30)
    assert answers == [TunnelRefused(Refusal.FAR_END)]
    assert ask(world, one, other, TunnelRequest(contact(one), True)) == TunnelRefused(Refusal.NO_EDGE)


def test_a_relay_keeps_to_its_rate() -> None:
    world, relay, one, other = trio(1)
    relay.parts.relay.rate_bytes_per_s = 100_000.0
    world.engine.run_for(5)
    (circuit,) = relay.parts.relay.circuits
    before = circuit.octets
    for _ in range(200):
        for _ in range(10):
            one.traffic.send_packet(other.id, bytes(1000))
        world.engine.run_for(0.05)
    passed = circuit.octets - before
    assert 0.8 * 100_000 * 10 < passed < 100_000 * 10 + 80_000 + 65_536
    assert relay.counters["tunnel_over_rate"] > 0
