"""Two whole nodes on real sockets, with TAPs in memory: every combination of offloads and fallbacks delivers the same.

What one node's kernel would send goes in at one TAP; what comes out at the other is compared, packet by packet, with
a plain segmentation of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest

from dht.envelope import Inner
from dht.host import Endpoint
from dht.peer import Peer
from dht.sizes import DEFAULT_BYTES
from dht.storage import MemoryStorage
from dht.traffic import ROUTED_PLAINTEXT_BYTES
from dht.udp import UdpHost
from ipop.config import VpnConfig
from ipop.node import VpnNode, build_node
from ipop.superpacket import SEGMENT_BYTES
from ipop.tap import MemoryTap
from ipop.vnet import ALL_OFFLOADS, NEEDS_CHECKSUM, NO_OFFLOADS, VNET, Offloads
from tests.identities import make_identities
from tests.patience import PATIENCE_S
from tests.test_superpacket import ACK, CWR, FIN, PSH, Super, received_frame, slow_segments

SEED = 77
OFFLOADS = {
    "all": ALL_OFFLOADS,
    "no udp": Offloads(header=True, checksum=True, tcp=True),
    "checksums": Offloads(header=True, checksum=True),
    "none": NO_OFFLOADS,
}


class Ends:
    """Alice and bob, joined over loopback."""

    def __init__(
        self,
        alice: Offloads,
        bob: Offloads,
        batching: tuple[bool, ...],
        relayed: bool = False,
        tap: Callable[[str, Offloads], Any] = MemoryTap,
    ) -> None:
        """`relayed`: one speaks IPv4 and the other IPv6, and only a third speaks both."""
        self.taps = [tap("alice", alice), tap("bob", bob), tap("relay", alice if tap is not MemoryTap else NO_OFFLOADS)]
        listens = ("127.0.0.1", "::1", "0.0.0.0") if relayed else ("127.0.0.1", "127.0.0.1")
        self.hosts = [
            UdpHost(Endpoint(address, 0), batching=each) for address, each in zip(listens, batching, strict=True)
        ]
        self.identities = make_identities(len(self.hosts), SEED, now=time.time())
        self.nodes: list[VpnNode] = [
            build_node(host, tap, VpnConfig(identity, MemoryStorage(), aes=True))
            for host, tap, identity in zip(self.hosts, self.taps, self.identities, strict=False)
        ]
        first = len(self.nodes) - 1 if relayed else 0
        self.nodes[first].start(())
        for number, address in enumerate(listens[:2]):
            if number != first:
                self.nodes[number].start((Endpoint(address, self.hosts[first].port),))

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
        for host in self.hosts:
            host.close()

    def addressed(self, made: Super) -> Super:
        """The same super-packet from alice to bob."""
        alice, bob = (identity.member for identity in self.identities[:2])
        if made.version == 4:
            return made.between(alice.address4.packed, bob.address4.packed)
        return made.between(alice.address6.packed, bob.address6.packed)

    async def connect(self) -> None:
        await until(lambda: all(node.is_ready() for node in self.nodes))
        arrived = self.taps[1].written
        for version in (4, 6):
            hello = self.addressed(Super(version, False, 1000, b"hello"))
            (packet,) = slow_segments(hello.packet, 1000)
            arrived.clear()
            ends = time.monotonic() + PATIENCE_S
            while not arrived and time.monotonic() < ends:  # Until bob's records can be found.
                self.taps[0].inject(hello.frame[10:24] + packet)
                await asyncio.sleep(0.25)
            assert arrived
        arrived.clear()
        # Until then, TCP is cut smaller than asked.
        bob = self.identities[1].member.id
        widest = (0, DEFAULT_BYTES) if len(self.nodes) == 2 else (0, DEFAULT_BYTES, ROUTED_PLAINTEXT_BYTES)
        await until(lambda: self.nodes[0].ring.traffic.room_bytes(bob) in widest)

    async def wait_for(self, count: int) -> None:
        await until(lambda: len(self.arrived()) >= count)

    def arrived(self) -> list[bytes]:
        """Every packet that bob's kernel would have seen, were each super-packet cut."""
        plain = [frame[14:] for frame in self.taps[1].written if not frame[0] & 1]  # not its node's own questions
        return plain + [packet for pieces in self.taps[1].written_virtual for packet in received_frame(pieces)]


async def until(condition: Callable[[], bool], limit_s: float = PATIENCE_S) -> None:
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, "did not happen in time"
        await asyncio.sleep(0.005)


TRAFFIC = (
    Super(4, True, 1348, bytes(range(256)) * 250, flags=ACK | PSH),
    Super(6, True, 1328, bytes(range(255)) * 200, flags=ACK | FIN | CWR, options=b"\x01\x01\x08\x0a" + bytes(8)),
    Super(4, False, 1200, bytes(range(253)) * 150),
    Super(6, False, 512, bytes(range(251)) * 30),
    Super(4, True, 1348, b"one segment", options=bytes(12)),
    Super(4, True, 100, bytes(range(100)) * 5, ip_options=b"\x01\x01\x01\x00"),
)


@pytest.mark.parametrize("batching", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("alice", "bob"), list(product(OFFLOADS, OFFLOADS)))
def test_every_combination_delivers_the_same(alice: str, bob: str, batching: tuple[bool, bool]) -> None:
    async def scene() -> None:
        ends = Ends(OFFLOADS[alice], OFFLOADS[bob], batching)
        try:
            await ends.connect()
            expected = []
            for made in map(ends.addressed, TRAFFIC):
                size = made.size
                packets = slow_segments(made.packet, size)
                offered = OFFLOADS[alice].tcp if made.tcp else OFFLOADS[alice].udp
                if offered and len(packets) > 1:
                    ends.taps[0].inject_virtual(made.frame)
                elif OFFLOADS[alice].checksum and len(packets) == 1:
                    head = VNET.pack(NEEDS_CHECKSUM, 0, 0, 0, 14 + made.transport, 16 if made.tcp else 6)
                    ends.taps[0].inject_virtual(head + made.frame[10:])
                else:
                    for packet in packets:
                        ends.taps[0].inject(made.frame[10:24] + packet)
                expected += packets
                await ends.wait_for(len(expected))
            assert sorted(ends.arrived()) == sorted(expected)
            if not OFFLOADS[bob].checksum:
                assert not ends.taps[1].written_virtual
            if OFFLOADS[alice].tcp and OFFLOADS[bob].tcp and batching == (True, True):
                assert len(ends.taps[1].written_virtual) < len(expected) / 10 + 40
            assert sum(node.counters["bad_datagram"] + node.counters["inner_malformed"] for node in ends.nodes) == 0
        finally:
            ends.close()

    asyncio.run(scene())


@pytest.mark.parametrize("tunnel", [True, False])
@pytest.mark.parametrize("batching", list(product((True, False), repeat=3)))
def test_the_same_through_a_relay(batching: tuple[bool, ...], tunnel: bool) -> None:
    async def scene() -> None:
        ends = Ends(ALL_OFFLOADS, ALL_OFFLOADS, batching, relayed=True)
        for node in ends.nodes:
            node.ring.parts.relay.willing = tunnel

        def path(here: int, there: int) -> str | None:
            peer = ends.nodes[here].peer(ends.identities[there].member.id)
            return None if peer is None else peer.path

        try:
            await ends.connect()
            if tunnel:
                await until(lambda: path(0, 1) == path(1, 0) == "proxy")
                bob = ends.identities[1].member.id
                await until(lambda: ends.nodes[0].ring.traffic.room_bytes(bob) == DEFAULT_BYTES)
            expected = []
            for made in map(ends.addressed, TRAFFIC):
                size = made.size
                if made.tcp and not made.ip_options and not tunnel:
                    size = min(size, ROUTED_PLAINTEXT_BYTES - SEGMENT_BYTES - made.transport - 20 - len(made.options))
                expected += slow_segments(made.packet, size)
                ends.taps[0].inject_virtual(made.frame)
                await ends.wait_for(len(expected))
            assert sorted(ends.arrived()) == sorted(expected)
            peer = ends.nodes[1].peer(ends.identities[0].member.id)
            assert peer is not None
            assert (peer.path, peer.hops) == ("proxy" if tunnel else "overlay", 2)
            if tunnel:
                (circuit,) = ends.nodes[2].ring.parts.relay.circuits
                assert circuit.octets > sum(map(len, expected))
            else:
                assert ends.nodes[2].counters["envelopes_relayed"] >= len(expected)
            assert sum(node.counters["bad_datagram"] + node.counters["inner_malformed"] for node in ends.nodes) == 0
        finally:
            ends.close()

    asyncio.run(scene())


def test_a_peer_of_an_older_version_gets_whole_packets() -> None:
    async def scene() -> None:
        ends = Ends(ALL_OFFLOADS, ALL_OFFLOADS, (True, True))
        ends.nodes[1].ring._parts.handshakes.features = 0
        kinds: set[int] = set()
        try:
            await ends.connect()
            send = ends.nodes[0].ring._parts.sessions.send_all

            def note(peer: Peer, plaintexts: Sequence[bytes], *rest: Any, **more: Any) -> bool:
                kinds.update(plaintext[0] for plaintext in plaintexts)
                return send(peer, plaintexts, *rest, **more)

            ends.nodes[0].ring._parts.sessions.send_all = note  # type: ignore[method-assign]
            expected = []
            for made in map(ends.addressed, TRAFFIC):
                expected += slow_segments(made.packet, made.size)
                ends.taps[0].inject_virtual(made.frame)
                await ends.wait_for(len(expected))
            assert sorted(ends.arrived()) == sorted(expected)
            assert kinds == {Inner.PACKET}
        finally:
            ends.close()

    asyncio.run(scene())


def test_a_stranger_in_a_batch_and_a_repeated_batch_change_nothing() -> None:
    async def scene() -> None:
        ends = Ends(ALL_OFFLOADS, ALL_OFFLOADS, (True, True))
        seen: list[tuple[bytes, int]] = []
        try:
            await ends.connect()
            bob = ends.nodes[1].ring._parts.demux
            take = bob.receive_batch

            def record(buffer: memoryview, size: int, source: Endpoint) -> None:
                seen.append((bytes(buffer), size))
                take(buffer, size, source)

            ends.hosts[1].on_receive_batch(record)
            made = ends.addressed(TRAFFIC[0])
            ends.taps[0].inject_virtual(made.frame)
            expected = slow_segments(made.packet, made.size)
            await ends.wait_for(len(expected))
            source = Endpoint("127.0.0.1", ends.hosts[0].port)
            for buffer, size in seen:
                take(memoryview(buffer), size, source)  # The same again.
                forged = bytearray(buffer)
                forged[size + 20] ^= 1
                take(memoryview(forged), size, source)
                take(memoryview(buffer), size, Endpoint("127.0.0.1", 1))  # From elsewhere.
                take(memoryview(buffer[: size + 5]), size, source)  # The last is too short.
            assert sorted(ends.arrived()) == sorted(expected)
            assert ends.nodes[1].counters["bad_datagram"] > 0
            ends.taps[0].inject_virtual(ends.addressed(TRAFFIC[1]).frame)
            await until(lambda: len(ends.arrived()) > len(expected))
        finally:
            ends.close()

    asyncio.run(scene())
