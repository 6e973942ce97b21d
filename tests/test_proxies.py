"""Proxy tunnels for pairs without a wire between them, in worlds of the product's own nodes.

A stand-in for the monitor checks paths in earnest, and uses the fastest that works.
"""

from __future__ import annotations

import os
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.checks import Checked
from dht.contact import STATIC_BYTES, Contact
from dht.coordinate import Coordinate
from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.liveness import EDGE_S
from dht.messages import Message
from dht.node import Node
from dht.packing import Fields, pack
from dht.path import Path, Tunnel
from dht.peer import Peer
from dht.relay import IDLE_S, SWEEP_S
from shortcuts.keepalive import Keepalive
from shortcuts.messages import MAX_NEARBY, MAX_RTT_MS, Nearby, NearbyRequest, Neighbor
from shortcuts.neighborhood import ANSWER_BURST, Neighborhood
from shortcuts.proxies import ENOUGH, KEPT, MAX_BEYOND, UNSOUGHT_S, Proxies
from shortcuts.proxy_choice import SPREAD, Option, pick
from shortcuts.vivaldi import Vivaldi
from shortcuts.whereabouts import Whereabouts
from sims.engine import Engine
from sims.latency import Constant, Latency
from sims.network import Network
from sims.world import World
from tests.fuzzing import fuzzed
from tests.identities import START_S, make_identities
from tests.test_shortcuts import Members

SEEDS = range(1, 1 + int(os.environ.get("P2PVPN_SEEDS", "2")))
NODES = 30


class FastestThatWorks:
    """Checks each path when asked to, and every few seconds those that worked; the fastest one that did is used."""

    def __init__(self, node: Node) -> None:
        self._parts = node.parts
        self._rtt_ms: dict[tuple[int, Path | None], float] = {}
        self.checks = 0

    def check(self, peer: Peer, path: Path | None) -> None:
        def answered(checked: Checked | None) -> None:
            if checked is None:
                self._rtt_ms.pop((peer.id, path), None)
            else:
                self._rtt_ms[peer.id, path] = checked.rtt_s * 1000.0
            self._use_fastest(peer)

        self.checks += 1
        self._parts.checks.check(peer, path, answered, 3.0)

    def working(self, peer: Peer) -> list[Path]:
        here = self._parts.tunnels.to(peer.id)
        return [path for peer_id, path in self._rtt_ms if peer_id == peer.id and path in here and path is not None]

    def forget(self, peer: Peer, path: Path) -> None:
        self._rtt_ms.pop((peer.id, path), None)

    def rtt_ms(self, peer: Peer, path: Path | None) -> float | None:
        return self._rtt_ms.get((peer.id, path))

    def _use_fastest(self, peer: Peer) -> None:
        known = self.working(peer)
        if known and peer.up and not isinstance(peer.path, Endpoint):
            self._parts.sessions.use(peer, min(known, key=lambda path: self._rtt_ms[peer.id, path]))


class Searcher:
    """One node's proxies, and what they stand on."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self.node = world, node
        host = world.hosts[node.id]
        self.paths = FastestThatWorks(node)
        self.whereabouts = Whereabouts(host, node.parts, Vivaldi(host.rng), Keepalive())
        self.neighborhood = Neighborhood(host, node.parts, self.whereabouts, node.counters)
        self.proxies = Proxies(host, node.parts, node.id, self.paths, self.whereabouts, node.counters)
        self.sought: set[int] = set()
        self.proxies.start()
        self._tick()

    def seek(self, other: Node) -> None:
        """Open a session, and keep on wanting proxies until one is no longer wanted."""
        self.node.open_session(other.id, lambda peer: None)
        self.sought.add(other.id)

    def tunnels(self, other: Node) -> list[Tunnel]:
        """Those that work."""
        peer = self.node.parts.sessions.peers.get(other.id)
        return [] if peer is None else [path for path in self.paths.working(peer) if isinstance(path, Tunnel)]

    def relay(self, other: Node) -> int | None:
        """The relay in use."""
        peer = self.node.parts.sessions.peers.get(other.id)
        return peer.path.via if peer is not None and isinstance(peer.path, Tunnel) else None

    def _tick(self) -> None:
        for peer_id in self.sought:
            peer = self.node.parts.sessions.peers.get(peer_id)
            if peer is not None and peer.up:
                peer.demand_at = self._world.engine.now
                self.proxies.seek(peer)
        self._world.engine.call_later(1.0, self._tick)


def make_world(seed: int, nodes: int = NODES, latency: Latency | None = None) -> World:
    engine = Engine(seed)
    world = World(engine, Network(engine, latency or Constant(40.0)), make_identities(nodes, seed, now=START_S))
    world.grow(nodes)
    world.engine.run_for(60)
    return world


def searchers(world: World) -> dict[int, Searcher]:
    return {node.id: Searcher(world, node) for node in world.nodes}


def edges(node: Node) -> set[int]:
    return {peer.id for peer in node.peers() if peer.path == "direct"}


def strangers(world: World) -> tuple[Node, Node]:
    """Two nodes without an edge, far from each other on the ring."""
    ring = sorted(world.nodes, key=lambda node: node.id)
    for place, one in enumerate(ring):
        other = ring[(place + len(ring) // 2) % len(ring)]
        if other.id not in edges(one):
            return one, other
    raise AssertionError("everybody knows everybody")


def cut(world: World, one: Node, other: Node) -> None:
    world.network.cut(world.hosts[one.id], world.hosts[other.id])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pair_without_a_wire_gets_several_proxies_and_both_ends_use_one(seed: int) -> None:
    world = make_world(seed)
    everybody = searchers(world)
    one, other = strangers(world)
    cut(world, one, other)
    everybody[one.id].seek(other)
    everybody[other.id].seek(one)
    took_s = world.engine.run_until(lambda: everybody[one.id].relay(other) is not None, limit_s=60)
    print(f"seed {seed}: a proxy after {took_s:.1f} s")
    world.engine.run_until(lambda: everybody[other.id].relay(one) is not None, limit_s=60)
    world.engine.run_until(lambda: len(everybody[one.id].tunnels(other)) >= ENOUGH, limit_s=60)
    world.engine.run_for(30)
    for here, there in ((one, other), (other, one)):
        tunnels = everybody[here.id].tunnels(there)
        # Each end asks for a few, and takes what the other was granted.
        assert ENOUGH <= len(tunnels) <= 2 * (KEPT + MAX_BEYOND), f"seed {seed}"
        assert len({tunnel.via for tunnel in tunnels}) == len(tunnels), f"seed {seed}"
        in_hand = [view for view in everybody[here.id].proxies.view(there.id) if view.note == "in hand"]
        assert {view.relay for view in in_hand} >= {tunnel.via for tunnel in tunnels}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_end_that_never_asked_uses_what_it_is_offered(seed: int) -> None:
    world = make_world(seed)
    everybody = searchers(world)
    one, other = strangers(world)
    cut(world, one, other)
    everybody[one.id].seek(other)
    world.engine.run_until(lambda: everybody[one.id].relay(other) is not None, limit_s=60)
    one.ping(other.id, lambda result: None)
    world.engine.run_until(lambda: everybody[other.id].relay(one) is not None, limit_s=60)
    assert not everybody[other.id].sought


@pytest.mark.parametrize("seed", SEEDS)
def test_without_any_common_neighbour_it_links_to_the_peers_nearest(seed: int) -> None:
    world = make_world(seed)
    everybody = searchers(world)
    one, other = strangers(world)
    cut(world, one, other)
    before = edges(one)
    for node in world.nodes:
        if node.id in before:  # none of ours helps: whoever relays must be met first
            node.parts.relay.willing = False
    everybody[one.id].seek(other)
    world.engine.run_until(lambda: everybody[one.id].relay(other) is not None, limit_s=120)
    relay = everybody[one.id].relay(other)
    assert relay not in before, f"seed {seed}"
    assert relay in edges(one)


def test_when_the_peer_names_nobody_our_own_neighbours_are_asked_to_dial_it() -> None:
    world = make_world(1)
    everybody = searchers(world)
    one, other = strangers(world)
    cut(world, one, other)
    other.parts.exchange._handlers.pop(NearbyRequest.CODE)  # as a node of an older version
    everybody[one.id].seek(other)
    world.engine.run_until(lambda: everybody[one.id].relay(other) is not None, limit_s=120)
    assert everybody[one.id].relay(other) in edges(one)


@pytest.mark.parametrize("seed", SEEDS)
def test_relays_that_die_are_replaced(seed: int) -> None:
    world = make_world(seed)
    everybody = searchers(world)
    one, other = strangers(world)
    cut(world, one, other)
    everybody[one.id].seek(other)
    for _ in range(4):
        world.engine.run_until(lambda: everybody[one.id].relay(other) is not None, limit_s=120)
        world.engine.run_until(lambda: len(everybody[one.id].tunnels(other)) >= ENOUGH, limit_s=120)
        relay = everybody[one.id].relay(other)
        world.crash(next(node for node in world.nodes if node.id == relay))
        world.engine.run_until(partial(lambda gone: everybody[one.id].relay(other) not in (None, gone), relay), 120)


def test_a_relay_that_is_unwilling_is_not_asked_again_for_a_while() -> None:
    world = make_world(1)
    everybody = searchers(world)
    one, other = strangers(world)
    cut(world, one, other)
    for node in world.nodes:
        node.parts.relay.willing = False
    everybody[one.id].seek(other)
    world.engine.run_for(120)
    refused = one.counters["tunnel_refused_unwilling"]
    assert 0 < refused <= NODES
    world.engine.run_for(300)
    # Of those that it has come to know since, each may be asked once.
    assert one.counters["tunnel_refused_unwilling"] <= NODES
    notes = [view.note for view in everybody[one.id].proxies.view(other.id)]
    assert "refused: unwilling" in notes


def test_many_who_want_one_peer_do_not_all_take_the_same_relay() -> None:
    world = make_world(1, nodes=40)
    everybody = searchers(world)
    target = world.nodes[5]
    seekers = [node for node in world.nodes if node is not target and node.id not in edges(target)][:12]
    for node in seekers:
        cut(world, node, target)
        everybody[node.id].seek(target)
    world.engine.run_until(lambda: all(everybody[node.id].relay(target) for node in seekers), limit_s=120)
    used = [everybody[node.id].relay(target) for node in seekers]
    busiest = max(used.count(relay) for relay in used)
    print(f"{len(seekers)} pairs over {len(set(used))} relays, the busiest with {busiest}")
    assert busiest <= len(seekers) // 2


def test_tunnels_that_nobody_seeks_any_more_are_given_up() -> None:
    world = make_world(1)
    everybody = searchers(world)
    one, other = strangers(world)
    cut(world, one, other)
    everybody[one.id].seek(other)
    world.engine.run_until(lambda: len(everybody[one.id].tunnels(other)) >= ENOUGH, limit_s=120)
    world.network.mend(world.hosts[one.id], world.hosts[other.id])
    for here, there in ((one, other), (other, one)):
        here.parts.sessions.use(here.parts.sessions.peers[there.id], world.hosts[there.id].endpoint)
        here.parts.liveness.interval_s = lambda peer: EDGE_S  # it is in use, and so kept
    world.engine.run_for(UNSOUGHT_S + IDLE_S + 4 * SWEEP_S)
    assert one.parts.sessions.peers[other.id].direct and other.parts.sessions.peers[one.id].direct
    assert not one.parts.tunnels.to(other.id)
    assert not other.parts.tunnels.to(one.id)


def test_a_node_says_who_is_near_it_but_not_for_ever() -> None:
    world = make_world(1)
    everybody = searchers(world)
    one, other = strangers(world)
    world.engine.run_for(60)
    peers: list[Peer | None] = []
    one.open_session(other.id, peers.append)
    world.engine.run_until(lambda: bool(peers), limit_s=30)
    (peer,) = peers
    assert peer is not None
    answers: list[Message | None] = []
    for _ in range(20):
        one.parts.exchange.ask(peer, NearbyRequest(), (Nearby,), answers.append, (3.0,))
    world.engine.run_for(4)
    told = [answer for answer in answers if isinstance(answer, Nearby)]
    assert len(told) == int(ANSWER_BURST)
    assert len(answers) == 20
    assert other.counters["nearby_over_budget"] == 20 - len(told)
    nearby = told[0]
    assert nearby.sender.id == other.id
    rtts_ms = [neighbor.rtt_ms for neighbor in nearby.neighbors]
    assert rtts_ms == sorted(rtts_ms)
    assert {neighbor.contact.id for neighbor in nearby.neighbors} <= edges(other)
    assert one.id not in {neighbor.contact.id for neighbor in nearby.neighbors}
    assert any(neighbor.coordinate is not None for neighbor in nearby.neighbors)
    assert everybody[other.id].whereabouts.estimate_ms(Coordinate(0.0, 0.0, 0.0, 1.0)) is not None


# The choice


def options(*predicted_ms: float | None, common: int = 0) -> list[Option]:
    return [Option(number, ms, number < common, number < common) for number, ms in enumerate(predicted_ms)]


def test_chance_decides_among_those_about_as_near_as_the_nearest() -> None:
    rng = Random(1)
    near = 100.0 * (1 + SPREAD)
    picked = [pick(rng, options(100.0, near, near + 1.0, 300.0, None), at_once=False) for _ in range(200)]
    relays = [option.relay for option in picked if option is not None]
    assert set(relays) == {0, 1}
    assert min(relays.count(0), relays.count(1)) > 50


def test_a_common_neighbour_is_taken_at_once_but_need_not_be_the_best() -> None:
    rng = Random(1)
    offered = options(300.0, 250.0, 100.0, common=1)
    at_once, later = pick(rng, offered, at_once=True), pick(rng, offered, at_once=False)
    assert (at_once, later) == (offered[0], offered[2])
    assert pick(rng, [], at_once=True) is None
    unknown = options(None, None)
    assert pick(rng, unknown, at_once=False) == unknown[0]


# The messages

coordinates = st.none() | st.builds(
    lambda x_ms, height_ms: Coordinate.parse(Coordinate(x_ms, -x_ms, height_ms, 0.5).pack()),
    st.floats(-5000.0, 5000.0),
    st.floats(0.0, 5000.0),
)
contacts = st.builds(
    Contact,
    st.integers(0, (1 << 160) - 1),
    st.binary(min_size=STATIC_BYTES, max_size=STATIC_BYTES),
    st.lists(st.builds(Endpoint, st.just("192.0.2.1"), st.integers(1, 65535)), max_size=4).map(tuple),
)
rtts_ms = st.integers(0, int(MAX_RTT_MS * 1000)).map(lambda us: us / 1000)
neighbors = st.builds(Neighbor, contacts, rtts_ms, coordinates)
nearbies = st.builds(Nearby, contacts, coordinates, st.lists(neighbors, max_size=MAX_NEARBY).map(tuple))


@given(nearbies)
@fuzzed(weight=0.3)
def test_what_is_said_of_neighbours_comes_back_as_it_was_sent(nearby: Nearby) -> None:
    assert Nearby.read(Fields.parse(pack(nearby.fields()))) == nearby


@given(neighbors.map(Neighbor.pack), st.integers(0, 300), st.binary(max_size=3))
@fuzzed()
def test_a_damaged_neighbour_is_another_one_or_refused(packed: bytes, at: int, garbage: bytes) -> None:
    damaged = packed[:at] + garbage + packed[at + len(garbage) :]
    try:
        neighbor = Neighbor.parse(damaged)
    except BadDatagram:
        return
    assert neighbor.pack() == damaged
    assert neighbor.rtt_ms <= MAX_RTT_MS


# With the real monitor, behind NATs that can't be punched


@pytest.mark.parametrize(
    ("one", "other"), [("port", "sym"), ("sym", "sym"), ("cgnat(port,sym)", "port"), ("sym", "cgnat(port,sym)")]
)
def test_behind_nats_that_can_not_be_punched_proxies_are_found_and_kept(one: str, other: str) -> None:
    members = Members(1, [None] * 16 + [one, other])
    first, second = members.nodes[-2:]
    took_s = members.talk(first, second, 60.0, until="proxy")
    print(f"{one} to {other}: by proxy after {took_s:.1f} s")
    members.talk(first, second, 30.0)
    assert members.path(first, second) == members.path(second, first) == "proxy"
    views = members.shortcuts[first.id].proxies.view(second.id)
    assert sum(view.note == "in hand" and view.rtt_ms is not None for view in views) >= ENOUGH
