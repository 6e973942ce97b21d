"""What pings teach: coordinates from direct paths alone, and how long the NAT before a node remembers it."""

from __future__ import annotations

import pytest

from dht.coordinate import Coordinate
from dht.host import Endpoint
from dht.node import Node
from dht.path import Tunnel
from dht.peer import Peer
from dht.pings import Pinged
from shortcuts.keepalive import START_INTERVAL_S, Keepalive
from shortcuts.vivaldi import Vivaldi
from shortcuts.whereabouts import MAX_REMEMBERED, Whereabouts
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from sims.world import World
from tests.identities import START_S, make_identities

HOME = Endpoint("198.51.100.1", 40000)  # our NAT, from outside
RTT_MS = 60.0


def make_world(nodes: int) -> World:
    engine = Engine(1)
    world = World(engine, Network(engine, Constant(RTT_MS)), make_identities(nodes, 1, now=START_S))
    world.grow(nodes)
    return world


def listener(world: World, node: Node) -> Whereabouts:
    host = world.hosts[node.id]
    return Whereabouts(host, node.parts, Vivaldi(host.rng), Keepalive())


@pytest.fixture
def pair() -> tuple[Whereabouts, Peer, Node]:
    """A listener, and one of its peers, which says where it is."""
    world = make_world(2)
    one, other = world.nodes
    whereabouts = listener(world, one)
    peer = one.parts.sessions.peers[other.id]
    peer.coordinate = Coordinate(30.0, 0.0, 1.0, 0.2)
    return whereabouts, peer, one


def pinged(peer: Peer, observed: Endpoint | None = HOME, idle_s: float = START_INTERVAL_S) -> Pinged:
    return Pinged(peer.path, RTT_MS / 1000.0, observed, idle_s, 1)


def test_nodes_that_ping_each_other_learn_where_they_are() -> None:
    world = make_world(8)
    listeners = [listener(world, node) for node in world.nodes]
    world.engine.run_for(1500)
    for node, whereabouts in zip(world.nodes, listeners, strict=True):
        for peer in node.parts.sessions.edges():
            assert peer.coordinate is not None
            assert whereabouts.rtt_ms(peer) == pytest.approx(RTT_MS, rel=0.01)
            estimate_ms = whereabouts.estimate_ms(peer.coordinate)
            assert estimate_ms == pytest.approx(RTT_MS, rel=0.5)


def test_nodes_that_know_no_coordinates_are_pinged_as_before() -> None:
    world = make_world(3)
    whereabouts = listener(world, world.nodes[0])
    world.engine.run_for(120)
    peers = list(world.nodes[0].parts.sessions.edges())
    assert len(peers) == 2
    assert all(peer.coordinate is None and peer.rtt_s is not None for peer in peers)
    assert len(whereabouts.vivaldi) == 0
    assert whereabouts.estimate_ms(Coordinate(0.0, 0.0, 0.0, 1.0)) is None
    assert all(
        peer.coordinate is not None for peer in world.nodes[1].parts.sessions.edges() if peer.id == world.nodes[0].id
    )


def test_only_direct_round_trips_count(pair: tuple[Whereabouts, Peer, Node]) -> None:
    whereabouts, peer, node = pair
    for path in (None, Tunnel(7, 7)):
        node.parts.pings.pinged(peer, pinged(peer)._replace(path=path))
    assert len(whereabouts.vivaldi) == 0
    node.parts.pings.pinged(peer, pinged(peer))
    assert len(whereabouts.vivaldi) == 1


def test_a_new_port_after_silence_shortens_the_interval_and_survived_silence_does_not(
    pair: tuple[Whereabouts, Peer, Node],
) -> None:
    whereabouts, peer, node = pair
    told: list[float] = []
    whereabouts.interval_changed = told.append
    for _ in range(5):
        node.parts.pings.pinged(peer, pinged(peer))
    assert whereabouts.keepalive.interval_s == START_INTERVAL_S
    node.parts.pings.pinged(peer, pinged(peer, replace_port(HOME, 40001)))
    assert whereabouts.keepalive.interval_s == START_INTERVAL_S / 2
    assert told[-1] == START_INTERVAL_S / 2


@pytest.mark.parametrize(
    ("observed", "idle_s"),
    [(Endpoint("203.0.113.5", 40000), START_INTERVAL_S), (Endpoint(HOME.address, 40001), 0.0), (None, 27.0)],
)
def test_another_address_or_a_port_that_changes_under_traffic_says_nothing(
    pair: tuple[Whereabouts, Peer, Node], observed: Endpoint | None, idle_s: float
) -> None:
    whereabouts, peer, node = pair
    node.parts.pings.pinged(peer, pinged(peer))
    node.parts.pings.pinged(peer, pinged(peer, observed, idle_s))
    assert whereabouts.keepalive.interval_s == START_INTERVAL_S


def test_a_machine_that_moved_begins_anew(pair: tuple[Whereabouts, Peer, Node]) -> None:
    whereabouts, peer, node = pair
    node.parts.pings.pinged(peer, pinged(peer))
    node.parts.pings.pinged(peer, pinged(peer, replace_port(HOME, 40001)))
    whereabouts.moved()
    assert whereabouts.keepalive.interval_s == START_INTERVAL_S
    assert len(whereabouts.vivaldi) == 0


def test_what_is_remembered_of_peers_is_bounded(pair: tuple[Whereabouts, Peer, Node]) -> None:
    whereabouts, peer, node = pair
    for number in range(MAX_REMEMBERED + 50):
        peer.id = number
        node.parts.pings.pinged(peer, pinged(peer))
    assert len(whereabouts._seen) == MAX_REMEMBERED


def replace_port(endpoint: Endpoint, port: int) -> Endpoint:
    return endpoint._replace(port=port)
