"""Congestion marks and DSCP between inner and outer header: the table of RFC 6040, and the ways through a node."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.certificate import Member
from dht.features import Feature
from dht.host import Endpoint
from dht.udp import UdpHost
from ipop.datapath import DataPath
from ipop.ecn import ECN_MASK, Ecn, class_of, decapsulated, with_ecn
from ipop.ethernet import checksum, ipv4_packet, ipv6_packet
from ipop.vnet import ALL_OFFLOADS, VNET_BYTES
from tests.fuzzing import fuzzed
from tests.identities import make_network
from tests.ring_double import RingDouble
from tests.test_datapath import SEED, World
from tests.test_offload_paths import Ends, until
from tests.test_superpacket import Super, received_frame

N, ONE, ZERO, CE = Ecn.NOT_ECT, Ecn.ECT1, Ecn.ECT0, Ecn.CE
DROPPED = None
ENDS4, ENDS6 = (bytes(4), bytes(4)), (bytes(16), bytes(16))
# RFC 6040, figure 4: by inner field, for the outer fields Not-ECT, ECT(0), ECT(1), CE.
FIGURE = {
    N: (N, N, N, DROPPED),
    ZERO: (ZERO, ZERO, ONE, CE),
    ONE: (ONE, ONE, ONE, CE),
    CE: (CE, CE, CE, CE),
}
ODD = {(N, ONE), (N, CE), (CE, ONE)}


def packet_of(version: int, traffic_class: int) -> bytes:
    if version == 4:
        return ipv4_packet(b"payload", 17, *ENDS4, traffic_class=traffic_class)
    return ipv6_packet(b"payload", 17, *ENDS6, traffic_class=traffic_class)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("inner", list(Ecn))
@pytest.mark.parametrize(("column", "outer"), list(enumerate((N, ZERO, ONE, CE))))
def test_decapsulation_follows_the_rfcs_figure(version: int, inner: Ecn, column: int, outer: Ecn) -> None:
    counters: Counter[str] = Counter()
    expected = FIGURE[inner][column]
    dscp = 46 << 2
    before = b"kind" + packet_of(version, dscp | inner)
    after = decapsulated(before, 4, outer, counters)
    if expected is DROPPED:
        assert after == b""
    else:
        assert after == b"kind" + packet_of(version, dscp | expected)
    assert counters["inner_ce_dropped"] == (expected is DROPPED)
    assert counters["inner_ecn_odd"] == ((inner, outer) in ODD)


@fuzzed()
@given(st.sampled_from((4, 6)), st.integers(0, 255), st.integers(0, 3), st.binary(max_size=5))
def test_a_changed_field_leaves_everything_else_and_a_right_checksum(
    version: int, traffic_class: int, ecn: int, front: bytes
) -> None:
    packet = packet_of(version, traffic_class)
    assert class_of(front + packet, len(front)) == traffic_class
    changed = with_ecn(front + packet, len(front), ecn)
    assert changed == front + packet_of(version, traffic_class & ~ECN_MASK | ecn)
    assert version == 6 or checksum(changed[len(front) : len(front) + 20]) == 0


def path_with(world: World, *, copy_dscp: bool) -> tuple[DataPath, RingDouble]:
    path = DataPath(
        world.path._host, world.tap, world.ring, world.resolver, make_network(SEED), world.alice, copy_dscp=copy_dscp
    )
    path.start()
    return path, world.ring


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("copy_dscp", "shown"), [(True, 46 << 2 | ZERO), (False, ZERO)])
def test_the_outer_header_shows_the_inner_class_for_first_and_later_and_super_packets(
    version: int, copy_dscp: bool, shown: int
) -> None:
    world = World()
    _, ring = path_with(world, copy_dscp=copy_dscp)
    world.tap.offloads = ALL_OFFLOADS
    ends = [member.address4 if version == 4 else member.address6 for member in (world.alice, world.bob)]
    build = ipv4_packet if version == 4 else ipv6_packet

    def sent_with(traffic_class: int) -> bytes:
        return build(b"payload", 17, ends[0].packed, ends[1].packed, traffic_class=traffic_class)

    world.inject(sent_with(46 << 2 | ZERO))
    world.engine.run_for(1)
    world.inject(sent_with(46 << 2 | ZERO))
    world.inject(sent_with(0))
    made = Super(version, True, 1000, bytes(5000)).between(ends[0].packed, ends[1].packed)
    head = VNET_BYTES + 14
    first, second = divmod(46 << 2 | ZERO, 16)
    frame = bytearray(made.frame)
    if version == 4:
        frame[head + 1] = 46 << 2 | ZERO
    else:
        frame[head], frame[head + 1] = 0x60 | first, second << 4
    world.tap.inject_virtual(bytes(frame), with_ecn(made.frame, head, N))
    assert ring.classes == [shown, shown, 0, *[shown] * 5, *[0] * 5]


@pytest.mark.parametrize("version", [4, 6])
def test_a_mark_on_the_way_reaches_both_kernels_in_whole_and_super_packets(version: int) -> None:
    async def scene() -> None:
        ends = Ends(ALL_OFFLOADS, ALL_OFFLOADS, (True, True))
        try:
            await ends.connect()
            network_marks(ends, CE)
            made = ends.addressed(Super(version, True, 1000, bytes(range(250)) * 40))
            at = VNET_BYTES + 14
            ends.taps[0].inject_virtual(with_ecn(made.frame, at, ZERO))
            await until(lambda: len(ends.arrived()) == 10)
            for pieces in ends.taps[1].written_virtual:
                for packet in received_frame(pieces):
                    assert class_of(packet, 0) == CE
                    assert version == 6 or checksum(packet[:20]) == 0
            ends.taps[1].written_virtual.clear()
            plain = ends.addressed(Super(version, False, 1000, b"voice"))
            ends.taps[0].inject(plain.frame[10:24] + with_ecn(plain.packet, 0, ONE))
            await until(lambda: len(ends.arrived()) == 1)
            assert class_of(ends.arrived()[0], 0) == CE
            ends.taps[0].inject(
                plain.frame[10:24] + with_ecn(plain.packet, 0, N)
            )  # Not-ECT, so that its loss must say it.
            await until(lambda: ends.nodes[1].counters["inner_ce_dropped"] == 1)
            assert len(ends.arrived()) == 1
        finally:
            ends.close()

    asyncio.run(scene())


def network_marks(ends: Ends, ecn: Ecn) -> None:
    """From now on, whatever alice sends meets a congested router; and a careless one, that marks Not-ECT too."""
    host = ends.hosts[0]
    send, send_batch, send_run = host.send, host.send_batch, host.send_run

    def marked(to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        send(to, datagram, traffic_class & ~ECN_MASK | ecn)

    def marked_batch(to: Endpoint, datagrams: Sequence[bytes], traffic_class: int = 0) -> None:
        send_batch(to, datagrams, traffic_class & ~ECN_MASK | ecn)

    def marked_run(to: Endpoint, buffer: bytes | memoryview, size: int, traffic_class: int = 0) -> None:
        send_run(to, buffer, size, traffic_class & ~ECN_MASK | ecn)

    host.send, host.send_batch, host.send_run = marked, marked_batch, marked_run  # type: ignore[method-assign]


@pytest.mark.parametrize("batching", [True, False])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_real_sockets_carry_the_class_of_single_datagrams_and_of_batches(address: str, batching: bool) -> None:
    async def scene() -> None:
        alice, bob = (UdpHost(Endpoint(address, 0), batching=batching) for _ in range(2))
        try:
            seen: list[tuple[int, int]] = []
            bob.on_receive(lambda datagram, source: seen.append((len(datagram), bob.received_class)))
            to, batch = Endpoint(address, bob.port), [bytes(1000)] * 9
            expected = []
            for traffic_class in (0, 46 << 2 | ZERO, 0, 255, CE, 0):
                alice.send(to, b"one", traffic_class)
                alice.send_batch(to, batch, traffic_class)
                expected += [(3, traffic_class), *[(1000, traffic_class)] * 9]
            await until(lambda: len(seen) == len(expected))
            assert seen == expected
        finally:
            alice.close()
            bob.close()

    asyncio.run(scene())


@pytest.mark.parametrize("batching", [True, False])
def test_a_relay_passes_the_class_on(batching: bool) -> None:
    async def scene() -> None:
        ends = Ends(ALL_OFFLOADS, ALL_OFFLOADS, (batching,) * 3, relayed=True)
        try:
            await ends.connect()
            classes: set[int] = set()
            demux = ends.nodes[1].ring._parts.demux
            take, take_run = demux.traffic, demux.run

            def note(member: Member, plaintexts: Sequence[bytes]) -> None:
                classes.add(ends.hosts[1].received_class)
                take(member, plaintexts)

            def note_run(member: Member, run: memoryview, size: int) -> None:
                classes.add(ends.hosts[1].received_class)
                take_run(member, run, size)

            ends.nodes[1].ring.traffic.on_traffic(note)
            ends.nodes[1].ring.traffic.on_run(note_run)
            made = ends.addressed(Super(4, True, 1000, bytes(10_000)))
            ends.taps[0].inject_virtual(with_ecn(made.frame, VNET_BYTES + 14, ZERO))
            await ends.wait_for(10)
            assert classes == {ZERO}
            network_marks(ends, CE)
            ends.taps[0].inject_virtual(with_ecn(made.frame, VNET_BYTES + 14, ZERO))
            await ends.wait_for(20)
            assert classes == {ZERO, CE}
            assert {class_of(packet, 0) for packet in ends.arrived()} == {ZERO, CE}
        finally:
            ends.close()

    asyncio.run(scene())


def test_a_peer_that_would_lose_marks_is_sent_nothing_that_may_be_marked() -> None:
    async def scene() -> None:
        ends = Ends(ALL_OFFLOADS, ALL_OFFLOADS, (True, True))
        ends.nodes[1].ring._parts.handshakes.features = Feature.SEGMENTS | Feature.SIZE
        try:
            await ends.connect()
            classes: set[int] = set()
            send_run = ends.hosts[0].send_run

            def note(to: Endpoint, buffer: bytes | memoryview, size: int, traffic_class: int = 0) -> None:
                classes.add(traffic_class)
                send_run(to, buffer, size, traffic_class)

            ends.hosts[0].send_run = note  # type: ignore[method-assign]
            made = ends.addressed(Super(4, True, 1000, bytes(10_000)))
            ends.taps[0].inject_virtual(with_ecn(made.frame, VNET_BYTES + 14, ZERO))
            await ends.wait_for(10)
            assert classes == {0}
        finally:
            ends.close()

    asyncio.run(scene())
