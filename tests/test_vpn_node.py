"""Whole members of the virtual network in a simulated world: from one's kernel to another's, and what commands say."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from dht.host import Endpoint
from dht.node import NodeState
from dht.storage import MemoryStorage
from ipop.commands import Commands
from ipop.config import VpnConfig
from ipop.ethernet import ipv4_packet, ipv6_packet, wrap
from ipop.neighbor import mac_for
from ipop.node import VpnNode, build_node
from ipop.tap import MemoryTap
from sims.engine import Engine, SimHost
from sims.latency import Constant
from sims.network import Network
from tests.identities import make_identities

UDP = 17
Address = IPv4Address | IPv6Address

STATUS_FIELDS = {
    "node": {"name", "id", "addresses", "state", "uptime_s", "alarm", "expires"},
    "ring": {"successors", "predecessors", "fingers", "size_estimate"},
}
PEER_FIELDS = {
    "name", "id", "addresses", "path", "via", "hops", "endpoint", "rtt_ms", "tx_bytes", "rx_bytes", "score",
}  # fmt: skip
WHY_FIELDS = {
    "peer", "path", "reason", "local_nat", "remote_nat", "candidates", "attempts", "proxies", "score", "next_retry_s",
}  # fmt: skip


def packet(source: Address, destination: Address, payload: bytes) -> bytes:
    datagram = struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload
    build = ipv4_packet if source.version == 4 else ipv6_packet
    return build(datagram, UDP, source.packed, destination.packed)


class World:
    """`count` members that know one bootstrap, on a network with a round trip of 20 ms."""

    def __init__(self, count: int, seed: int) -> None:
        self.seed = seed
        self.engine = Engine(seed)
        self.network = Network(self.engine, Constant(20))
        self.nodes: list[VpnNode] = []
        self.taps: list[MemoryTap] = []
        bootstraps: Sequence[Endpoint] = ()
        for identity in make_identities(count, seed, now=self.engine.now):
            host = self.network.host()
            tap = MemoryTap()
            node = build_node(host, tap, VpnConfig(identity, MemoryStorage()))
            node.start(bootstraps)
            bootstraps = bootstraps or (host.endpoint,)
            self.nodes.append(node)
            self.taps.append(tap)
        self.engine.run_until(lambda: all(node.is_ready() for node in self.nodes), limit_s=30)
        self.engine.run_for(3)

    def inject(self, source: int, destination: Address, payload: bytes) -> bytes:
        """The kernel of node `source` sends `payload`; gives the packet."""
        member = self.nodes[source].member
        own = member.address4 if destination.version == 4 else member.address6
        carried = packet(own, destination, payload)
        self.taps[source].inject(wrap(carried, mac_for(destination.packed), mac_for(member.address4.packed)))
        return carried

    def arrived(self, node: int) -> list[bytes]:
        """The packets that node's kernel got, and no longer has to get; not its node's questions about groups."""
        packets = [frame[14:] for frame in self.taps[node].written if not frame[0] & 1]
        self.taps[node].written.clear()
        return packets

    def ask(self, node: int, command: str, **arguments: object) -> dict[str, Any]:
        """The answer to a command, as the control socket would give it."""
        answers: list[dict[str, Any]] = []
        commands = Commands(self.nodes[node], self.nodes[node].stop)
        commands.serve({"command": command, **arguments}, answers.append)
        self.engine.run_until(lambda: bool(answers), limit_s=15)
        self.engine.run_for(5)
        assert len(answers) == 1, f"seed {self.seed}"
        return answers[0]


@pytest.mark.parametrize("seed", (0, 1, 106, 116))
def test_every_node_reaches_every_other_by_both_addresses(seed: int) -> None:
    world = World(8, seed)
    for source in range(8):
        for target in range(8):
            if source == target:
                continue
            member = world.nodes[target].member
            sent = [
                world.inject(source, address, f"{source} to {target}".encode())
                for address in (member.address4, member.address6)
            ]
            world.engine.run_for(2)
            assert sorted(world.arrived(target)) == sorted(sent), f"seed {seed}: {source} to {target}"
    assert not any(any(world.arrived(node)) for node in range(8)), f"seed {seed}"


def test_an_address_that_nobody_has_is_refused_at_once() -> None:
    world = World(3, seed=4)
    world.inject(0, IPv4Address("10.77.200.1"), b"anybody?")
    world.engine.run_for(1)
    (refusal,) = world.arrived(0)
    assert refusal[9] == 1
    assert refusal[20:22] == b"\x03\x01"


def test_a_node_that_left_is_refused_at_once_even_by_those_who_knew_it() -> None:
    world = World(4, seed=5)
    gone = world.nodes[3]
    world.inject(0, gone.member.address4, b"hello")
    world.engine.run_for(2)
    assert world.arrived(3)
    gone.stop()
    world.engine.run_for(2)
    world.inject(0, gone.member.address4, b"still there?")
    world.engine.run_for(2)
    (refusal,) = world.arrived(0)
    assert refusal[20:22] == b"\x03\x01"
    assert not world.arrived(3)


def test_a_stopped_node_falls_silent() -> None:
    world = World(3, seed=6)
    node = world.nodes[2]
    node.stop()
    world.engine.run_for(1)
    sent = world.network.hosts()[2].sent_datagrams
    world.inject(2, world.nodes[0].member.address4, b"too late")
    world.engine.run_for(600)
    assert world.network.hosts()[2].sent_datagrams == sent
    assert not world.arrived(2)


def test_status_has_every_field_that_programs_depend_on() -> None:
    world = World(4, seed=7)
    status = world.ask(1, "status")["result"]
    for part, fields in STATUS_FIELDS.items():
        assert fields <= set(status[part])
    member = world.nodes[1].member
    assert status["node"]["name"] == "n1"
    assert status["node"]["id"] == f"{member.id:040x}"
    assert status["node"]["addresses"] == [str(member.address4), str(member.address6)]
    assert status["node"]["state"] == "ready"
    assert datetime.fromisoformat(status["node"]["expires"]).timestamp() == member.not_after
    assert sorted(peer["name"] for peer in status["peers"]) == ["n0", "n2", "n3"]
    for peer in status["peers"]:
        assert set(peer) == PEER_FIELDS
        assert peer["path"] == "direct"
        assert peer["hops"] == 1
    assert len(status["ring"]["successors"]) == 3
    world.nodes[1].counted.append(Counter(udp_send_eperm=3))
    world.inject(1, IPv4Address("192.0.2.1"), b"not ours")
    counters = world.ask(1, "status")["result"]["counters"]
    assert counters["udp_send_eperm"] == 3
    assert counters["outbound_outside_network"] == 1
    assert counters["packets_in"] == counters["packets_out"] == 0
    peers = world.ask(1, "peers")["result"]
    assert [peer["id"] for peer in peers] == [peer["id"] for peer in status["peers"]]


@pytest.mark.parametrize("named_by", ["name", "address4", "address6", "id"])
def test_a_ping_takes_a_name_an_address_or_an_id(named_by: str) -> None:
    world = World(3, seed=8)
    member = world.nodes[2].member
    text = f"{member.id:040x}" if named_by == "id" else str(getattr(member, named_by))
    reply = world.ask(0, "ping", peer=text)["result"]
    assert reply["peer"] == "n2"
    assert reply["path"] == "direct"
    assert reply["rtt_ms"] == pytest.approx(20, abs=1)


def test_in_a_larger_ring_a_stranger_is_found_by_name_and_reached_over_the_overlay() -> None:
    world = World(40, seed=9)
    world.engine.run_for(120)  # Until edges that only joining needed have lapsed.
    asking = 17
    acquainted = {peer.id for peer in world.nodes[asking].ring.peers()}
    strangers = [
        node.member.name
        for number, node in enumerate(world.nodes)
        if number != asking and node.member.id not in acquainted
    ]
    assert strangers, f"{len(acquainted)} peers"
    why = world.ask(asking, "why", peer=strangers[0])["result"]
    assert why["path"] is None
    reply = world.ask(asking, "ping", peer=strangers[0])["result"]
    assert reply["peer"] == strangers[0]
    assert reply["path"] == "overlay"
    assert reply["hops"] >= 2
    why = world.ask(asking, "why", peer=strangers[0])["result"]
    assert set(why) >= WHY_FIELDS
    # What was said between the two was reason enough for a path of their own.
    assert why["path"] == "direct"
    assert why["not_direct"] is None
    assert [attempt["over"] for attempt in why["attempts"]] == [True]
    (shortcut,) = (each for each in world.ask(asking, "shortcuts")["result"] if each["peer"] == strangers[0])
    assert (shortcut["path"], shortcut["since_s"] > 0) == ("direct", True)


def test_commands_refuse_what_they_cannot_do_in_a_line() -> None:
    world = World(2, seed=10)
    assert "no such node has been seen on the ring; is it up?" in world.ask(0, "ping", peer="nobody")["error"]
    assert "no such node has been seen on the ring; is it up?" in world.ask(0, "ping", peer="10.77.99.99")["error"]
    assert "this node itself" in world.ask(0, "ping", peer="n0")["error"]
    assert "this node itself" in world.ask(0, "why", peer=str(world.nodes[0].member.address6))["error"]
    assert "needs a peer" in world.ask(0, "ping")["error"]
    assert "needs a peer" in world.ask(0, "why", peer=7)["error"]
    assert "another version" in world.ask(0, "dance")["error"]
    silent = world.ask(0, "ping", peer="ab" * 20)["result"]
    assert silent["rtt_ms"] is None


def at_once(node: VpnNode, text: str) -> str:
    """What is wrong with `text`, which must be said before any time passes."""
    answers: list[object] = []
    node.find(text, answers.append)
    (answer,) = answers
    assert isinstance(answer, str)
    return answer


def test_what_can_be_no_peer_is_refused_at_once_and_shown_safely() -> None:
    node = World(2, seed=12).nodes[0]
    network = node.identity.network
    assert at_once(node, "8.8.8.8") == "8.8.8.8 is not in 10.77.0.0/16"
    assert at_once(node, "2001:DB8::1") == f"2001:db8::1 is not in {network.prefix6}"
    assert at_once(node, "a\nb\x1b[2J") == "'a?b?[2J' is no node's name, virtual address or id"
    for text in ("no such", "10.77.0", "-x", f"{node.member.address6}%eth0", "fe80::1%a\nb", "ab" * 33, "ß"):
        refusal = at_once(node, text)
        assert "is no node's name" in refusal
        assert refusal.isprintable()
    assert "…" in at_once(node, "x" * 99)


def test_names_and_ids_are_the_same_in_capitals() -> None:
    world = World(3, seed=13)
    member = world.nodes[2].member
    for text in ("N2", f"{member.id:040X}", str(member.address6).upper()):
        assert world.ask(0, "ping", peer=text)["result"]["peer"] == "n2"
    assert "this node itself" in at_once(world.nodes[0], "N0")


def test_a_node_outside_the_ring_says_so_at_once_instead_of_blaming_the_peer() -> None:
    world = World(1, seed=14)
    (identity,) = make_identities(1, seed=14, now=world.engine.now)
    node = build_node(world.network.host(), MemoryTap(), VpnConfig(identity, MemoryStorage()))
    node.start([Endpoint("203.0.113.250", 7077)])
    assert not node.is_ready()
    for text in ("bob", "10.77.9.9", "ab" * 20):
        assert at_once(node, text).startswith(f"no way to '{text}': this node is not in a ring: ")


def test_a_node_that_can_look_up_no_bootstrap_is_isolated_and_names_them() -> None:
    world = World(1, seed=15)
    (identity,) = make_identities(1, seed=15, now=world.engine.now)
    node = build_node(world.network.host(), MemoryTap(), VpnConfig(identity, MemoryStorage()))
    node.ring.parts.acquaintances.unknown_names = ("one.invalid:7", "two.invalid:9")
    node.start([])
    world.engine.run_for(30)
    assert node.ring.state is NodeState.ISOLATED
    assert node.ring.alarm == "no bootstrap's name could be looked up: one.invalid:7, two.invalid:9"
    assert at_once(node, "bob") == f"no way to 'bob': this node is not in a ring: {node.ring.alarm}"


def test_why_says_when_and_where_a_node_was_last_that_died() -> None:
    world = World(4, seed=17)
    host, member = world.nodes[2].host, world.nodes[2].member
    assert isinstance(host, SimHost)
    world.network.crash(host)
    world.engine.run_until(lambda: world.nodes[0].given_up(member.id) is not None, limit_s=120)
    world.engine.run_until(lambda: world.nodes[0].peer(member.id) is None, limit_s=900)
    reason = world.ask(0, "why", peer=f"{member.id:040x}")["result"]["reason"]
    assert "it fell silent, and was given up " in reason
    assert reason.endswith(f"when it was at {host.endpoint}")
    assert world.nodes[0].given_up(world.nodes[1].member.id) is None


def test_the_first_node_of_a_ring_says_that_it_is_alone() -> None:
    world = World(1, seed=16)
    assert world.nodes[0].is_ready()
    for text in ("bob", "10.77.9.9", "ab" * 20):
        assert at_once(world.nodes[0], text).startswith(f"no way to '{text}': this node is alone: it was given no boot")


def test_down_answers_first_and_then_stops() -> None:
    world = World(2, seed=11)
    assert world.ask(0, "down") == {"ok": True, "result": None}
    world.engine.run_for(2)
    assert world.nodes[1].ring.peers() == []
