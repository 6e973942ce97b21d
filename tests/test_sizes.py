"""How long a plaintext a path carries: found with few questions, noticed when it changes, asked under traffic only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.fragments import MAX_FRAGMENTS, MAX_MESSAGE_BYTES, MAX_PLAINTEXT_BYTES, Reassembly, cut
from dht.host import Endpoint
from dht.node import Node, NodeConfig
from dht.session import OVERHEAD_BYTES
from dht.sizes import (
    CLOSE_ENOUGH_BYTES,
    CONFIRM_S,
    DEFAULT_BYTES,
    FLOOR_BYTES,
    PATIENCE_S,
    RAISE_S,
    TRIES,
    PathSize,
    datagram_bytes,
    plaintext_bytes,
)
from dht.storage import MemoryStorage
from dht.udp import UdpHost
from sims.engine import Engine, SimHost
from sims.latency import Constant
from sims.network import Network
from tests.fuzzing import fuzzed
from tests.identities import make_identities
from tests.test_udp import LINK, needs_namespace, play_apart

SEED = 3
LOST_AFTER_S = CONFIRM_S + PATIENCE_S * (2**TRIES - 1)


def traffic(size: PathSize, carries: int, since: float, until: float, every_s: float = 0.05) -> int:
    """Long plaintexts are sent all the time, over a path that carries `carries` bytes; how many questions that took."""
    questions = 0
    steps = round((until - since) / every_s)
    for step in range(steps):
        now = since + step * every_s
        asked = size.question(now, 0.02)
        if asked is not None:
            questions += 1
            if asked <= carries:
                size.answered(asked, now + 0.02)
    return questions


@fuzzed()
@given(st.integers(FLOOR_BYTES, 9000), st.integers(0, 9000))
def test_what_the_path_carries_is_found_and_never_exceeded(ceiling: int, carries: int) -> None:
    size = PathSize()
    size.begin("path", ceiling, 0.0)
    assert size.proven_bytes == FLOOR_BYTES
    questions = traffic(size, carries, 0.0, 60.0)
    best = max(FLOOR_BYTES, min(ceiling, carries))
    assert best - CLOSE_ENOUGH_BYTES < size.proven_bytes <= best
    assert questions <= 60.0 / CONFIRM_S + TRIES * 10


def test_the_usual_path_takes_one_question() -> None:
    size = PathSize()
    size.begin("path", DEFAULT_BYTES, 0.0)
    assert traffic(size, 1500, 0.0, 1.0) == 1
    assert size.proven_bytes == DEFAULT_BYTES


def test_a_path_that_becomes_narrow_is_noticed_within_seconds_and_a_wider_one_later() -> None:
    size = PathSize()
    size.begin("path", DEFAULT_BYTES, 0.0)
    traffic(size, 1500, 0.0, 10.0)
    traffic(size, 1300, 10.0, 10.0 + LOST_AFTER_S + 0.2)
    assert size.proven_bytes < 1300
    traffic(size, 1300, 20.0, 40.0)
    assert 1300 - CLOSE_ENOUGH_BYTES < size.proven_bytes <= 1300
    traffic(size, 1500, 40.0, 41.0 + RAISE_S)
    assert size.proven_bytes == DEFAULT_BYTES


def test_a_lost_question_or_two_change_nothing() -> None:
    size = PathSize()
    size.begin("path", DEFAULT_BYTES, 0.0)
    traffic(size, 1500, 0.0, 1.0)
    now = 1.0 + CONFIRM_S
    for _ in range(TRIES):
        assert size.question(now, 0.02) == DEFAULT_BYTES
        assert size.question(now, 0.02) is None
        now = size.due_at
    size.answered(DEFAULT_BYTES, now)  # The last one's answer, a moment before it counts as lost.
    assert size.question(now, 0.02) is None
    assert size.proven_bytes == DEFAULT_BYTES


def test_an_answer_to_what_was_never_asked_changes_nothing() -> None:
    size = PathSize()
    size.begin("path", DEFAULT_BYTES, 0.0)
    size.answered(DEFAULT_BYTES + 1, 0.0)
    size.answered(0, 0.0)
    assert size.proven_bytes == FLOOR_BYTES


def test_links_that_carry_the_least_are_never_asked() -> None:
    size = PathSize()
    size.begin("path", FLOOR_BYTES, 0.0)
    assert traffic(size, 1500, 0.0, 2 * RAISE_S, every_s=1.0) == 0
    assert plaintext_bytes(datagram_bytes(1280)) == FLOOR_BYTES == 1192


@fuzzed()
@given(st.integers(2, MAX_MESSAGE_BYTES), st.integers(FLOOR_BYTES, 2000))
def test_pieces_keep_to_the_limit_as_long_as_there_are_enough_of_them(length: int, limit: int) -> None:
    plaintext = bytes(range(256)) * (length // 256 + 1)
    pieces = cut(plaintext[:length], 7, limit)
    longest = 1 + max(map(len, pieces))
    assert len(pieces) <= MAX_FRAGMENTS
    assert longest <= MAX_PLAINTEXT_BYTES
    assert longest <= limit or length > MAX_FRAGMENTS * (FLOOR_BYTES - 7)
    if len(pieces) > 1:
        reassembly = Reassembly()
        *_, whole = [reassembly.add(piece, 0.0) for piece in pieces]
        assert whole == plaintext[:length]


class World:
    """Two nodes with an edge, on a network that loses datagrams of more than `carries` bytes in silence."""

    def __init__(self, *configs: NodeConfig) -> None:
        self.engine = Engine(SEED)
        self.network = Network(self.engine, Constant(20.0))
        self.carries = 65_000
        self.longest = 0
        carry = self.network.carry

        class Narrow:
            def carry(_, source: SimHost, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
                self.longest = max(self.longest, len(datagram))
                if len(datagram) <= self.carries:
                    carry(source, to, datagram, traffic_class)

        self.nodes: list[Node] = []
        first: tuple[Endpoint, ...] = ()
        for identity, config in zip(make_identities(2, SEED), configs, strict=True):
            host = self.network.host()
            host._network = Narrow()
            node = Node(host, identity, MemoryStorage(), config)
            node.start(first)
            first = (host.endpoint,)
            self.nodes.append(node)
        self.arrived: list[bytes] = []
        self.nodes[1].on_packet(lambda member, packet: self.arrived.append(packet))
        self.nodes[1].on_traffic(
            lambda member, plaintexts: self.arrived.extend(plaintext[1:] for plaintext in plaintexts)
        )
        self.engine.run_for(10.0)

    def send(self, seconds: float, size: int = 1400) -> list[bytes]:
        """Numbered packets, one every 50 ms; those that arrived."""
        self.arrived.clear()
        for number in range(round(seconds / 0.05)):
            assert self.nodes[0].send_packet(self.nodes[1].id, number.to_bytes(2, "big") + bytes(size - 2))
            self.engine.run_for(0.05)
        self.engine.run_for(0.1)
        return self.arrived


def test_large_packets_arrive_whole_whatever_the_path_carries_and_nobody_says_so() -> None:
    world = World(NodeConfig(), NodeConfig())
    world.longest = 0
    assert len(world.send(2.0)) == 40
    assert world.longest == DEFAULT_BYTES + OVERHEAD_BYTES
    world.carries = 1252  # what fits 1280 bytes with IPv4's headers
    lost = 40 * 4 - len(world.send(8.0))
    assert lost <= LOST_AFTER_S / 0.05 + 2
    assert len(world.send(2.0)) == 40


@pytest.mark.parametrize("mtus", [(1280, 1500), (1500, 1280)])
def test_the_narrower_of_two_ends_decides_without_a_question(mtus: tuple[int, int]) -> None:
    world = World(*(NodeConfig(underlay_mtu=mtu) for mtu in mtus))
    world.longest = 0
    assert len(world.send(5.0)) == 100
    assert world.longest <= datagram_bytes(1280)


def test_what_is_no_question_is_refused() -> None:
    world = World(NodeConfig(), NodeConfig())
    sessions = world.nodes[1]._parts.sessions
    peer = sessions.peers[world.nodes[0].id]
    for plaintext in (b"", b"\0", b"\1\0", b"\1\0\5\0\0", b"\2\0\0"):
        with pytest.raises(BadDatagram):
            sessions.sizes.take(peer, bytes((Inner.SIZE,)) + plaintext, Endpoint("192.0.2.1", 7))


@needs_namespace
@pytest.mark.parametrize("addresses", [("10.9.0.1/24", "10.9.0.1"), ("fd09::1/64", "fd09::1")])
def test_a_datagram_that_our_own_link_cannot_carry_whole_is_refused_at_once(addresses: tuple[str, str]) -> None:
    assigned, address = addresses
    there = address[:-1] + "2"

    async def scene() -> None:
        host = UdpHost(Endpoint(address, 0))
        try:
            to, most = Endpoint(there, 7), 1300 - (48 if ":" in address else 28)
            assert host.send_whole(to, bytes(most))
            assert not host.send_whole(to, bytes(most + 1))
            host.send(to, bytes(3000))  # In fragments, as ever.
            assert not any(name.startswith("udp_send") for name in host.counters)
        finally:
            host.close()

    play_apart(
        scene,
        *LINK,
        "link set d0 mtu 1300",
        f"addr add {assigned} dev d0 nodad" if ":" in address else f"addr add {assigned} dev d0",
    )
