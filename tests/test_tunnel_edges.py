"""What can go wrong at the edge of a tunnel: loops, restarts, crossed offers, labels taken twice, greed."""

from __future__ import annotations

from collections import Counter

from dht.host import Endpoint
from dht.messages import Message, TunnelAccepted, TunnelGranted, TunnelOffer, TunnelRefused, TunnelRequest
from dht.node import Node
from dht.path import TUNNELLED, Tunnel
from dht.relay import MAX_CIRCUITS_A_MEMBER, Circuit, Refusal
from dht.tunnels import End
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from sims.world import World
from tests.identities import START_S, make_identities


def make_world(nodes: int, seed: int, rtt_ms: float = 40.0) -> World:
    engine = Engine(seed)
    return World(engine, Network(engine, Constant(rtt_ms)), make_identities(nodes, seed, now=START_S))


def path(node: Node, other: Node) -> object:
    peer = node.parts.sessions.peers.get(other.id)
    return None if peer is None else peer.path


def cut(world: World, one: Node, other: Node) -> None:
    world.network.cut(world.hosts[one.id], world.hosts[other.id])


def joined_by_tunnel(seed: int, relays: int = 1) -> tuple[World, list[Node], Node, Node]:
    """Some relays, and two nodes with no wire between them that hold their edge through one of these."""
    world = make_world(relays + 2, seed)
    world.grow(relays)
    one, other = world.start(relays), world.start(relays + 1)
    cut(world, one, other)
    world.engine.run_until(lambda: tunnelled(one, other), limit_s=60)
    world.engine.run_until(world.whole, limit_s=60)
    return world, [node for node in world.nodes if node not in (one, other)], one, other


def tunnelled(one: Node, other: Node) -> bool:
    return isinstance(path(one, other), Tunnel) and isinstance(path(other, one), Tunnel)


def answered(world: World, one: Node, other: Node, limit_s: float = 60.0) -> bool:
    """Whether a ping gets through before long."""
    results: list[bool] = []

    def again() -> bool:
        if not results or not results[-1]:
            one.ping(other.id, lambda result: results.append(result is not None))
        return bool(results) and results[-1]

    world.engine.run_until(again, limit_s=limit_s, check_every_s=3.0)
    return True


def test_labels_that_lead_in_a_circle_are_followed_for_one_step() -> None:
    """Relays draw labels at random, so three of them give the same label to each other with a chance of 2^-64. Poisoned
    by hand, a datagram passes one of them: nobody relays what was relayed."""
    world = make_world(3, 1)
    world.grow(3)
    world.engine.run_for(5)
    a, b, c = world.nodes
    label = 77
    for here, left, right in ((a, c, b), (b, a, c), (c, b, a)):
        peers = here.parts.sessions.peers
        here.parts.relay._circuits[label] = Circuit(label, peers[left.id], peers[right.id], world.engine.now)
    passed = sum(circuit.octets for node in world.nodes for circuit in node.parts.relay.circuits)
    datagram = bytes((TUNNELLED, 0, 0, 0)) + label.to_bytes(4, "big") + b"\x14" + bytes(40)
    a.parts.demux.receive(datagram, world.hosts[c.id].endpoint)
    world.engine.run_for(1.0)
    passed = sum(circuit.octets for node in world.nodes for circuit in node.parts.relay.circuits) - passed
    assert passed == len(datagram)


def test_no_label_leads_through_two_tunnels() -> None:
    world, (relay,), one, other = joined_by_tunnel(1)
    tunnel = path(one, other)
    assert isinstance(tunnel, Tunnel)
    # Poisoned: the far end's own table says that the label is a tunnel, and that it relays it as well.
    datagram = tunnel.header() + tunnel.header() + b"\x14" + bytes(40)
    before = sum(host.sent_datagrams for host in world.network.hosts())
    refused = other.counters["bad_datagram"]
    world.hosts[one.id].send(world.hosts[relay.id].endpoint, datagram)
    world.engine.run_for(0.1)
    assert other.counters["bad_datagram"] == refused + 1
    assert sum(host.sent_datagrams for host in world.network.hosts()) - before <= 4


def test_a_relay_that_restarts_has_forgotten_its_labels_and_the_ends_find_another_way() -> None:
    world, (relay,), one, other = joined_by_tunnel(2)
    number = 0
    world.crash(relay)
    world.engine.run_for(0.5)
    world.start(number)
    world.engine.run_until(world.whole, limit_s=60)
    assert answered(world, one, other)
    world.engine.run_until(lambda: tunnelled(one, other), limit_s=60)


def test_an_end_that_restarts_is_reached_through_a_tunnel_again() -> None:
    world, _, one, other = joined_by_tunnel(3, relays=2)
    number = len(world.nodes) - 1
    world.crash(other)
    world.engine.run_for(0.5)
    reborn = world.start(number)
    cut(world, one, reborn)
    world.engine.run_until(lambda: tunnelled(one, reborn), limit_s=60)
    assert answered(world, one, reborn)


def test_both_ends_open_tunnels_at_once_through_different_relays_and_agree() -> None:
    world, relays, one, other = joined_by_tunnel(4, relays=3)
    for node, far, relay in ((one, other, relays[0]), (other, one, relays[1])):
        node.parts.tunnels.ask(node.parts.sessions.peers[relay.id], far.contact(), lambda tunnel: None)
    world.engine.run_for(3)
    assert answered(world, one, other)
    assert answered(world, other, one)
    vias = {tunnel.via for tunnel in one.parts.tunnels.to(other.id)}
    assert {relays[0].id, relays[1].id} <= vias
    assert vias == {tunnel.via for tunnel in other.parts.tunnels.to(one.id)}, "both ends know every tunnel"


def test_a_relay_that_loses_one_leg_tells_the_other_end() -> None:
    world, (relay,), one, other = joined_by_tunnel(5)
    cut(world, relay, other)
    world.engine.run_until(lambda: not one.parts.tunnels.to(other.id), limit_s=60)
    assert not isinstance(path(one, other), Tunnel)


def ask(world: World, asker: Node, relay: Node, message: Message, answers: tuple[type[Message], ...]) -> Message | None:
    got: list[Message | None] = []
    asker.parts.exchange.ask(asker.parts.sessions.peers[relay.id], message, answers, got.append)
    world.engine.run_until(lambda: bool(got), limit_s=30)
    return got[0]


def test_a_label_that_another_relay_already_gave_is_refused() -> None:
    world, relays, one, other = joined_by_tunnel(6, relays=3)
    tunnel = path(one, other)
    assert isinstance(tunnel, Tunnel)
    liar = next(relay for relay in relays if relay.id != tunnel.via)
    offer = TunnelOffer(other.id, tunnel.label)
    answer = ask(world, liar, one, offer, (TunnelAccepted, TunnelRefused))
    assert answer == TunnelRefused(Refusal.FAR_END)
    assert one.counters["tunnel_label_taken"] == 1
    assert path(one, other) == tunnel
    assert answered(world, one, other)


def test_keys_are_renewed_through_a_tunnel() -> None:
    world, _, one, other = joined_by_tunnel(7)
    peer = one.parts.sessions.peers[other.id]
    indices = set(peer.session.indices())
    for _ in range(60):
        assert answered(world, one, other)
        world.engine.run_for(5)
    assert not set(peer.session.indices()) & indices, "there are new keys only"
    assert isinstance(peer.path, Tunnel)
    assert answered(world, one, other)


def test_a_member_that_asks_for_a_thousand_circuits_gets_its_share_and_others_are_served() -> None:
    world = make_world(70, 8)
    world.grow(70, gap_s=0.05)
    relay, greedy, modest, far = world.nodes[:4]
    answers: list[Message | None] = []
    for node in (greedy, modest, far):
        node.parts.linker.link(relay.contact())
    world.engine.run_for(2)
    asking = greedy.parts.sessions.peers[relay.id]
    expected = (TunnelGranted, TunnelRefused)
    for number in range(1000):
        target = world.nodes[4 + number % 66].contact()
        world.engine.call_later(
            0.01 * number,
            lambda target=target: greedy.parts.exchange.ask(  # type: ignore[misc]
                asking, TunnelRequest(target, True), expected, answers.append
            ),
        )
    world.engine.run_for(30)
    assert len(answers) == 1000
    assert len(relay.parts.relay.circuits) <= MAX_CIRCUITS_A_MEMBER
    assert relay.parts.linker._linking == {}
    assert isinstance(ask(world, modest, relay, TunnelRequest(far.contact(), False), expected), TunnelGranted)


def test_load_spreads_over_relays() -> None:
    world = make_world(40, 9)
    world.network.break_links(0.3)
    for number in range(40):
        world.start(number, world.engine.rng.sample(range(number), min(number, 8)))
        world.engine.run_for(0.5)
    world.engine.run_until(world.whole, limit_s=240)
    loads = sorted(len(node.parts.relay.circuits) for node in world.nodes)
    mean = sum(loads) / len(loads)
    print(f"circuits: mean {mean:.1f}, most {loads[-1]}, {loads[-1] / mean:.1f} times the mean")
    assert sum(load > 0 for load in loads) > 20
    assert loads[-1] <= 6 * mean


def test_a_table_full_of_tunnels_takes_no_more() -> None:
    world, (relay,), one, other = joined_by_tunnel(10)
    peer = one.parts.sessions.peers[relay.id]
    for number in range(2000):
        one.parts.tunnels._keep(number, peer, number)
    assert Counter(end.via.id for end in one.parts.tunnels._ends.values())[relay.id] <= 96
    assert isinstance(one.parts.tunnels._ends[next(iter(one.parts.tunnels._ends))], End)
    assert isinstance(relay.contact().endpoints[0], Endpoint)
    assert answered(world, one, other)
