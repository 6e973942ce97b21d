"""Shortcuts in worlds of the product's own nodes: direct paths found, kept, left and found again, behind NATs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise, product

import pytest

from dht.node import Node
from dht.path import Path, Tunnel
from shortcuts.node import Shortcuts
from sims.engine import Engine
from sims.latency import Constant, Latency, Matrix
from sims.network import Network
from sims.world import World
from tests.identities import START_S, make_identities

SEEDS = range(1, 1 + int(os.environ.get("P2PVPN_SEEDS", "3")))
AWAY, NEAR = Constant(40.0), Constant(10.0)


class Members:
    """Nodes with shortcuts, of which some sit behind boxes."""

    def __init__(self, seed: int, behind: Sequence[str | None], latency: Latency = AWAY) -> None:
        engine = Engine(seed)
        self.seed = seed
        self.world = World(engine, Network(engine, latency), make_identities(len(behind), seed, now=START_S))
        self.shortcuts: dict[int, Shortcuts] = {}
        self.nodes: list[Node] = []
        for number, preset in enumerate(behind):
            node = self.world.start(number, behind=preset) if preset else self.world.start(number)
            self.shortcuts[node.id] = Shortcuts(self.world.hosts[node.id], node)
            self.shortcuts[node.id].start()
            self.nodes.append(node)
            engine.run_for(0.5)
        engine.run_until(self.world.successor_cycle, limit_s=120)
        engine.run_for(5)

    def path(self, one: Node, other: Node) -> str | None:
        return next((peer.path for peer in one.peers() if peer.id == other.id), None)

    def talk(self, one: Node, other: Node, seconds: float, until: str | None = None) -> float:
        """Ten packets a second each way, until both ends use this kind of path; the time it took."""
        engine = self.world.engine
        began = engine.now
        while engine.now - began < seconds:
            for here, there in ((one, other), (other, one)):
                if not here.traffic.send_packet(there.id, b"x" * 60):
                    here.open_session(there.id, lambda peer: None)
            engine.run_for(0.1)
            if until is not None and self.path(one, other) == self.path(other, one) == until:
                return engine.now - began
        assert until is None, f"seed {self.seed}: {self.path(one, other)} and {self.path(other, one)}, not {until}"
        return seconds


DIRECT = [
    ("public", "sym"),
    ("port", "port"),
    ("full", "sym"),
    ("addr", "sym"),
    ("port", "cgnat(port,port)"),
    ("addr", "cgnat(port,sym)"),
    ("firewalled", "port"),
]


def strangers(seed: int, one: str, other: str, rtt_ms: float = 40.0) -> tuple[Members, Node, Node]:
    """A ring so large that some of those behind the two types have no edge, and two of them."""
    members = Members(seed, [None] * 18 + [one, other] * 3, Constant(rtt_ms))
    ones, others = members.nodes[-6::2], members.nodes[-5::2]
    pair = next((pair for pair in product(ones, others) if members.path(*pair) is None), None)
    assert pair is not None, f"seed {seed}: all have edges to each other"
    return members, *pair


@pytest.mark.parametrize(("one", "other"), DIRECT)
def test_two_strangers_whose_nats_can_be_punched_find_a_direct_path(one: str, other: str) -> None:
    members, first, second = strangers(1, one, other)
    took_s = members.talk(first, second, 30.0, until="direct")
    print(f"{one} to {other}: direct after {took_s:.1f} s")
    assert took_s <= 2.0
    members.talk(first, second, 10.0)
    assert members.path(first, second) == members.path(second, first) == "direct"


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_a_direct_path_with_a_round_trip_of_more_than_a_second_is_found_too(seed: int) -> None:
    members, first, second = strangers(seed, "port", "addr", rtt_ms=1200.0)
    members.talk(first, second, 30.0, until="direct")


@pytest.mark.parametrize("seed", SEEDS)
def test_between_a_direct_path_and_a_proxy_no_packet_is_lost_or_repeated(seed: int) -> None:
    members = Members(seed, [None] * 8 + ["port", "port"])
    first, second = members.nodes[-2:]
    members.talk(first, second, 30.0, until="direct")
    peer = first.parts.sessions.peers[second.id]
    direct = peer.path
    assert direct is not None
    opened: list[Tunnel | None] = []
    relays = [edge for edge in first.parts.sessions.edges() if edge.endpoint is not None and edge is not peer]
    first.parts.tunnels.open(peer.contact(), relays, opened.append)
    members.world.engine.run_until(lambda: bool(opened), limit_s=10)
    tunnel = opened[0]
    assert tunnel is not None, f"seed {seed}"
    received: list[int] = []
    second.traffic.on_packet(lambda member, packet: received.append(int.from_bytes(packet, "big")))
    sent = 0
    for path in (tunnel, direct, tunnel, direct):
        first.parts.sessions.use(peer, path)
        for _ in range(300):
            assert first.traffic.send_packet(second.id, sent.to_bytes(60, "big"))
            sent += 1
            members.world.engine.run_for(0.001)
    members.world.engine.run_for(2.0)
    missing, repeated = sorted(set(range(sent)) - set(received)), len(received) - len(set(received))
    assert (missing, repeated) == ([], 0), f"seed {seed}"


SLOW_PROXIES = Matrix([[10.0 if {one, other} == {2, 6} else 600.0 for other in range(10)] for one in range(10)])


def with_spares(seed: int, latency: Latency = NEAR) -> tuple[Members, Node, Node]:
    """Two that talk directly, by IPv4 or IPv6, and lately had to talk over a proxy, so that they have one in hand. They
    live at places 2 and 6 of ten."""
    members = Members(seed, ["dual-stack"] * 10, latency)
    first, second = members.nodes[2], members.nodes[6]
    network, hosts = members.world.network, members.world.hosts
    members.talk(first, second, 30.0, until="direct")
    network.cut(hosts[first.id], hosts[second.id])
    members.talk(first, second, 20.0)
    assert members.path(first, second) == members.path(second, first) == "proxy", f"seed {seed}"
    network.mend(hosts[first.id], hosts[second.id])
    members.talk(first, second, 60.0, until="direct")
    members.talk(first, second, 5.0 + seed)
    return members, first, second


@pytest.mark.parametrize("seed", SEEDS)
def test_when_every_direct_path_dies_at_once_traffic_goes_to_the_proxy_without_trying_each(seed: int) -> None:
    members, first, second = with_spares(seed)
    engine = members.world.engine
    received: list[float] = [engine.now]
    second.traffic.on_packet(lambda member, packet: received.append(engine.now))
    members.world.network.cut(members.world.hosts[first.id], members.world.hosts[second.id])
    members.talk(first, second, 20.0)
    outages_s = [later - earlier for earlier, later in pairwise(received) if later - earlier > 0.3]
    print(f"seed {seed}: outages of {', '.join(f'{each:.1f}' for each in outages_s)} s")
    assert len(outages_s) == 1 and outages_s[0] < 2.5, f"seed {seed}: {outages_s}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_proxy_is_waited_for_when_the_direct_path_dies(seed: int) -> None:
    members, first, second = with_spares(seed, SLOW_PROXIES)
    members.world.network.cut(members.world.hosts[first.id], members.world.hosts[second.id])
    for _ in range(100):
        members.talk(first, second, 0.1)
        assert members.path(first, second) in ("direct", "proxy"), f"seed {seed}"
    assert members.path(first, second) == "proxy", f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_slow_proxies_that_do_not_answer_are_not_waited_for_long(seed: int) -> None:
    members, first, second = with_spares(seed, SLOW_PROXIES)
    for node in members.nodes:
        node.parts.relay.rate_bytes_per_s = 1.0  # passes nothing on
    members.world.network.cut(members.world.hosts[first.id], members.world.hosts[second.id])
    engine = members.world.engine
    began = engine.now
    while members.path(first, second) != "overlay":
        members.talk(first, second, 0.1)
        assert engine.now - began < 6.0, f"seed {seed}: still {members.path(first, second)}"
    print(f"seed {seed}: by the overlay after {engine.now - began:.1f} s")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_path_that_others_distrust_is_left_for_one_that_has_answered_since(seed: int) -> None:
    members, first, second = with_spares(seed)
    members.world.engine.run_for(0.5)  # no check is under way
    peer = first.parts.sessions.peers[second.id]
    distrusted, monitor = peer.path, members.shortcuts[first.id].monitor
    assert distrusted is not None
    members.world.network.cut(members.world.hosts[first.id], members.world.hosts[second.id])
    monitor.distrust(peer, distrusted)
    for _ in range(20):
        members.world.engine.run_for(0.1)
        assert peer.path == distrusted or isinstance(peer.path, Tunnel), f"seed {seed}: {peer.path}"
    assert isinstance(peer.path, Tunnel), f"seed {seed}: {peer.path}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_path_left_for_a_faster_one_makes_nobody_doubt_the_others(seed: int) -> None:
    members, first, second = with_spares(seed)
    peer = first.parts.sessions.peers[second.id]
    watch = members.shortcuts[first.id].monitor.watched(second.id)
    assert watch is not None
    slower, doubted_at = peer.path, watch.doubted_at
    watch.paths[slower].rtt_ms = 500.0
    members.talk(first, second, 3.0)
    assert peer.path != slower and members.path(first, second) == "direct", f"seed {seed}: {peer.path}"
    assert watch.doubted_at == doubted_at, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dead_path_that_was_left_with_the_peer_is_not_returned_to(seed: int) -> None:
    members, first, second = with_spares(seed)
    peer = first.parts.sessions.peers[second.id]
    tunnel = next(each for each in members.shortcuts[first.id].monitor.working(peer) if isinstance(each, Tunnel))
    members.world.network.cut(members.world.hosts[first.id], members.world.hosts[second.id])
    first.parts.sessions.use(peer, tunnel)  # as when the peer begins to write by it
    for _ in range(20):
        members.talk(first, second, 0.5)
        assert members.path(first, second) == "proxy", f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_that_moves_at_every_packet_does_not_have_all_its_paths_checked_as_often(seed: int) -> None:
    members, first, second = with_spares(seed)
    checks, sessions = first.parts.checks, first.parts.sessions
    peer = sessions.peers[second.id]
    paths = members.shortcuts[first.id].monitor.working(peer)
    passed_on = checks.sent
    sent = 0

    def count(path: Path | None) -> None:
        nonlocal sent
        sent += 1
        passed_on(path)

    checks.sent = count
    for step in range(1000):
        sessions.use(peer, paths[step % len(paths)])
        members.world.engine.run_for(0.01)
        assert first.traffic.send_packet(second.id, b"x")
    assert len(paths) >= 3
    assert sent < 10 * 3 * len(paths), f"seed {seed}: {sent} in 10 s for {len(paths)} paths"
