"""Frames in, packets out, and the other way round: delivery, queues, refusals and the inner source check."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.certificate import Member
from dht.envelope import Inner
from ipop.datapath import DataPath
from ipop.ethernet import checksum6, ipv4_packet, ipv6_packet, wrap
from ipop.neighbor import mac_for
from ipop.resolve import FAILED_S, Resolver
from ipop.tap import MemoryTap
from ipop.vnet import ALL_OFFLOADS
from ipop.waiting import MAX_WAITING_BYTES, MAX_WAITING_PACKETS, MAX_WAITING_TOTAL_BYTES, Waiting
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from tests.fuzzing import fuzzed
from tests.identities import make_identities, make_network
from tests.ring_double import RingDouble

SEED = 12
UDP = 17
Address = IPv4Address | IPv6Address


def packet(source: Address, destination: Address, payload: bytes = b"payload") -> bytes:
    datagram = struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload
    build = ipv4_packet if source.version == 4 else ipv6_packet
    return build(datagram, UDP, source.packed, destination.packed)


class World:
    """Alice's data path between a TAP in memory and a ring double, in which bob is published and online."""

    def __init__(self) -> None:
        self.engine = Engine(SEED)
        host = Network(self.engine, Constant(10)).host()
        self.ring = RingDouble(host)
        self.tap = MemoryTap()
        self.alice, self.bob, self.eve = (identity.member for identity in make_identities(3, SEED))
        self.ring.publish(self.bob)
        self.resolver = Resolver(host, self.ring, lambda: True)
        self.path = DataPath(host, self.tap, self.ring, self.resolver, make_network(SEED), self.alice)
        self.path.start()

    def inject(self, carried: bytes, destination_mac: bytes | None = None) -> None:
        """As if our kernel sent `carried`."""
        destination = carried[16:20] if carried[0] < 0x50 else carried[24:40]
        self.tap.inject(wrap(carried, destination_mac or mac_for(destination), mac_for(self.alice.address4.packed)))

    def arrive(self, member: Member, carried: bytes) -> None:
        """As if `member`'s session gave `carried`."""
        assert self.ring.receive is not None
        self.ring.receive(member, carried)

    def connect(self) -> None:
        """Open the flow to bob, and forget how."""
        self.inject(packet(self.alice.address4, self.bob.address4))
        self.inject(packet(self.alice.address6, self.bob.address6))
        self.engine.run_for(1)
        assert len(self.ring.sent) == 2
        self.ring.sent.clear()
        self.ring.asked.clear()
        self.ring.opened.clear()


@pytest.fixture
def world() -> World:
    return World()


def addresses(member: Member, version: int) -> Address:
    return member.address4 if version == 4 else member.address6


@pytest.mark.parametrize("version", [4, 6])
def test_first_packets_wait_in_order_and_later_ones_go_at_once(world: World, version: int) -> None:
    alice, bob = addresses(world.alice, version), addresses(world.bob, version)
    packets = [packet(alice, bob, bytes((number,))) for number in range(10)]
    for each in packets[:5]:
        world.inject(each)
    assert world.ring.sent == []
    world.engine.run_for(1)
    for each in packets[5:]:
        world.inject(each)
    assert world.ring.sent == [(world.bob.id, each) for each in packets]
    assert len(world.ring.asked) == len(world.ring.opened) == 1
    flow = world.path.flow(bob)
    assert flow is not None
    assert flow.packets == 10
    assert world.path.packets_out == 10


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_of_a_peer_reaches_our_kernel_from_the_peers_hardware_address(world: World, version: int) -> None:
    carried = packet(addresses(world.bob, version), addresses(world.alice, version))
    for _ in range(3):  # The first proves the origin, the others take the fast way.
        world.arrive(world.bob, carried)
    expected = wrap(carried, mac_for(world.alice.address4.packed), mac_for(addresses(world.bob, version).packed))
    assert list(world.tap.written) == [expected] * 3
    assert world.path.inbound.packets == 3


def test_answering_a_peer_needs_no_lookup(world: World) -> None:
    world.arrive(world.bob, packet(world.bob.address4, world.alice.address4))
    world.inject(packet(world.alice.address4, world.bob.address4))
    world.engine.run_for(1)
    assert world.ring.asked == []
    assert len(world.ring.sent) == 1


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("warm", [False, True])
def test_a_source_that_is_not_in_the_senders_certificate_is_dropped_and_counted(
    world: World, version: int, warm: bool
) -> None:
    alice, bob = addresses(world.alice, version), addresses(world.bob, version)
    if warm:
        world.arrive(world.bob, packet(bob, alice))
        world.tap.written.clear()
    world.arrive(world.eve, packet(bob, alice))
    world.arrive(world.eve, packet(alice, alice))
    assert not world.tap.written
    assert world.path.counters["inner_source_refused"] == 2


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_for_somebody_else_is_dropped_and_counted(world: World, version: int) -> None:
    bob, eve = addresses(world.bob, version), addresses(world.eve, version)
    world.arrive(world.bob, packet(bob, addresses(world.alice, version)))
    world.tap.written.clear()
    world.arrive(world.bob, packet(bob, eve))
    world.arrive(world.bob, packet(bob, ip_address("10.77.255.255" if version == 4 else "ff02::1")))
    assert not world.tap.written
    assert world.path.counters["inner_destination_refused"] == 2


def test_a_renewed_certificate_with_another_address_ends_the_old_right(world: World) -> None:
    world.arrive(world.bob, packet(world.bob.address4, world.alice.address4))
    world.tap.written.clear()
    moved = replace(world.bob, address4=IPv4Address("10.77.3.3"))
    world.arrive(moved, packet(world.bob.address4, world.alice.address4))
    assert not world.tap.written
    world.arrive(moved, packet(moved.address4, world.alice.address4))
    assert len(world.tap.written) == 1


def test_neighbour_discovery_of_a_peer_never_reaches_our_kernel(world: World) -> None:
    for kind in (133, 134, 135, 136, 137):
        message = bytes((kind,)) + bytes(23)
        world.arrive(world.bob, ipv6_packet(message, 58, world.bob.address6.packed, world.alice.address6.packed, 255))
    world.arrive(world.bob, packet(world.bob.address6, world.alice.address6))
    world.tap.written.clear()
    message = b"\x88" + bytes(23)
    world.arrive(world.bob, ipv6_packet(message, 58, world.bob.address6.packed, world.alice.address6.packed, 255))
    assert not world.tap.written
    assert world.path.counters["inner_discovery_refused"] == 6


def test_a_unicast_solicitation_is_answered_here_though_a_flow_exists(world: World) -> None:
    world.connect()
    world.tap.written.clear()
    bob, alice = world.bob.address6.packed, world.alice.address6.packed
    message = b"\x87\x00\x00\x00" + bytes(4) + bob
    message = message[:2] + checksum6(alice, bob, 58, message).to_bytes(2, "big") + message[4:]
    world.inject(ipv6_packet(message, 58, alice, bob, 255))
    assert world.ring.sent == []
    assert [frame[54] for frame in world.tap.written] == [136]


@pytest.mark.parametrize("version", [4, 6])
def test_an_address_nobody_holds_is_refused_by_icmp_at_once_and_later_ones_without_lookup(
    world: World, version: int
) -> None:
    nobody = ip_address("10.77.44.44") if version == 4 else world.bob.address6 + 1
    alice = addresses(world.alice, version)
    world.inject(packet(alice, nobody))
    world.engine.run_for(0.5)
    (refusal,) = world.tap.written
    carried = refusal[14:]
    assert refusal[:6] == mac_for(world.alice.address4.packed)
    if version == 4:
        assert carried[12:20] == nobody.packed + alice.packed
        assert carried[20:22] == b"\x03\x01"
    else:
        assert carried[8:40] == nobody.packed + alice.packed
        assert carried[40:42] == b"\x01\x03"
    world.inject(packet(alice, nobody))
    assert len(world.tap.written) == 2
    assert len(world.ring.asked) == 1
    world.engine.run_for(FAILED_S)
    world.inject(packet(alice, nobody))
    world.engine.run_for(0.5)
    assert len(world.ring.asked) == 2
    assert world.path.counters["outbound_unreachable"] == 3


def test_a_peer_that_dies_is_refused_and_found_again_when_it_is_back(world: World) -> None:
    world.connect()
    world.ring.sessions.clear()
    world.ring.online.clear()
    world.inject(packet(world.alice.address4, world.bob.address4))
    world.engine.run_for(0.5)
    assert len(world.tap.written) == 1
    assert world.path.flow(world.bob.address4) is None
    world.ring.online.add(world.bob.id)
    world.engine.run_for(FAILED_S)
    world.inject(packet(world.alice.address4, world.bob.address4))
    world.engine.run_for(1)
    assert len(world.ring.sent) == 1


def test_a_lost_session_is_opened_again_and_the_packet_is_not_lost(world: World) -> None:
    world.connect()
    world.ring.sessions.clear()
    world.inject(packet(world.alice.address4, world.bob.address4))
    world.engine.run_for(1)
    assert len(world.ring.sent) == 1
    assert world.ring.asked == []


def test_multicast_broadcast_and_foreign_sources_are_counted_and_dropped(world: World) -> None:
    alice = world.alice
    world.inject(packet(alice.address4, IPv4Address("224.0.0.251")), b"\x01\x00\x5e\x00\x00\xfb")
    world.inject(packet(alice.address6, IPv6Address("ff02::fb")), b"\x33\x33\x00\x00\x00\xfb")
    world.inject(packet(alice.address4, IPv4Address("10.77.255.255")), b"\xff" * 6)
    world.inject(packet(alice.address4, IPv4Address("239.1.2.3")))
    world.inject(packet(IPv4Address("192.0.2.1"), world.bob.address4))
    world.inject(packet(alice.address4, IPv4Address("192.0.2.1")))
    world.engine.run_for(10)
    assert world.ring.sent == []
    assert world.ring.asked == []
    assert world.path.counters["outbound_multicast_dropped"] == 4
    assert world.path.counters["outbound_source_refused"] == 1
    assert world.path.counters["outbound_outside_network"] == 1
    assert len(world.tap.written) == 1  # The refusal for what lies outside.


def test_arp_is_answered_here(world: World) -> None:
    asking = mac_for(world.alice.address4.packed)
    request = (
        b"\xff" * 6 + asking + b"\x08\x06" + bytes.fromhex("0001080006040001")
        + asking + world.alice.address4.packed + bytes(6) + world.bob.address4.packed
    )  # fmt: skip
    world.tap.inject(request)
    (reply,) = world.tap.written
    assert reply[22:32] == mac_for(world.bob.address4.packed) + world.bob.address4.packed


def test_after_stop_nothing_is_sent_or_written(world: World) -> None:
    world.connect()
    world.inject(packet(world.alice.address4, IPv4Address("10.77.44.44")))
    world.path.stop()
    world.tap.written.clear()
    world.inject(packet(world.alice.address4, world.bob.address4))
    world.arrive(world.bob, packet(world.bob.address4, world.alice.address4))
    world.engine.run_for(60)
    assert world.ring.sent == []
    assert not world.tap.written


def test_a_full_queue_drops_its_oldest_and_counts_it(world: World) -> None:
    packets = [
        packet(world.alice.address4, world.bob.address4, number.to_bytes(2, "big"))
        for number in range(MAX_WAITING_PACKETS + 5)
    ]
    for each in packets:
        world.inject(each)
    world.engine.run_for(1)
    assert [sent for _, sent in world.ring.sent] == packets[5:]
    assert world.path.counters["outbound_queue_dropped"] == 5


def test_queues_are_bounded_in_bytes_each_and_together() -> None:
    waiting = Waiting()
    dropped = sum(waiting.add(b"one", bytes(16 << 10)) for _ in range(20))
    assert waiting.total_bytes <= MAX_WAITING_BYTES
    assert dropped == 20 - MAX_WAITING_BYTES // (16 << 10)
    for number in range(1000):
        waiting.add(number.to_bytes(4, "big"), bytes(64 << 10))
    assert waiting.total_bytes <= MAX_WAITING_TOTAL_BYTES
    assert len(waiting.take(b"one")) == 20 - dropped
    for number in range(1000):
        waiting.take(number.to_bytes(4, "big"))
    assert waiting.total_bytes == 0


def test_a_scan_of_the_whole_subnet_stays_bounded_and_bob_stays_reachable(world: World) -> None:
    world.connect()
    world.ring.silent = True
    rng = Random(SEED)
    for _ in range(5000):
        world.inject(packet(world.alice.address4, IPv4Address("10.77.0.0") + rng.randrange(256, 65000)))
        world.engine.run_for(0.001)
    world.inject(packet(world.alice.address4, world.bob.address4))
    assert world.ring.sent[-1][0] == world.bob.id
    # Every refusal costs a frame to our own kernel: their rate is limited.
    assert len(world.tap.written) < 2000


@given(data=st.binary(max_size=120))
@fuzzed()
def test_nothing_a_peer_sends_escapes_or_reaches_the_kernel_unproved(data: bytes) -> None:
    world = World()
    world.arrive(world.bob, data)
    assert not world.tap.written
    assert sum(world.path.counters.values()) == 1


@given(data=st.binary(max_size=120))
@fuzzed()
def test_nothing_our_kernel_sends_escapes(data: bytes) -> None:
    world = World()
    world.tap.inject(data)


@given(position=st.integers(0, 47), value=st.integers(0, 255), version=st.sampled_from([4, 6]), warm=st.booleans())
@fuzzed()
def test_a_damaged_header_never_gets_a_wrong_source_or_destination_through(
    position: int, value: int, version: int, warm: bool
) -> None:
    world = World()
    good = packet(addresses(world.bob, version), addresses(world.alice, version), b"x" * 20)
    if warm:
        world.arrive(world.bob, good)
        world.tap.written.clear()
    damaged = good[:position] + bytes((value,)) + good[position + 1 :]
    world.arrive(world.bob, damaged)
    for frame in world.tap.written:
        carried = frame[14:]
        ends = carried[12:20] if carried[0] >> 4 == 4 else carried[8:40]
        assert ends == addresses(world.bob, version).packed + addresses(world.alice, version).packed


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ttl", [255, 64, 1])
@pytest.mark.parametrize("warm", [False, True])
def test_a_hop_limit_stays_as_it_was(world: World, version: int, ttl: int, warm: bool) -> None:
    alice, bob = addresses(world.alice, version), addresses(world.bob, version)
    if warm:
        world.connect()
        world.arrive(world.bob, packet(bob, alice))
        world.tap.written.clear()
    there, back = of_hop_limit(alice, bob, ttl), of_hop_limit(bob, alice, ttl)
    world.inject(there)
    world.engine.run_for(1)
    world.arrive(world.bob, back)
    assert [sent for _, sent in world.ring.sent] == [there]
    assert [frame[14:] for frame in world.tap.written] == [back]


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_that_should_not_exist_any_more_is_dropped_and_counted(world: World, version: int) -> None:
    alice, bob = addresses(world.alice, version), addresses(world.bob, version)
    world.tap.offloads = ALL_OFFLOADS
    world.arrive(world.bob, packet(bob, alice))
    world.tap.written.clear()
    assert world.ring.receive_traffic is not None
    dead = of_hop_limit(bob, alice, 0)
    transport = 20 if version == 4 else 40
    segment = bytes((Inner.SEGMENT, 0, 0)) + (1000).to_bytes(2, "big") + dead
    world.arrive(world.bob, dead)
    world.ring.receive_traffic(world.bob, [bytes((Inner.PARTIAL, transport, 6)) + dead])
    world.ring.receive_traffic(world.bob, [segment, bytes((Inner.PACKET,)) + dead])
    assert not world.tap.written
    assert not world.tap.written_virtual
    assert world.path.counters["inner_ttl_expired"] == 4


def of_hop_limit(source: Address, destination: Address, ttl: int) -> bytes:
    datagram = struct.pack("!HHHH", 1000, 2000, 8 + 7, 0) + b"payload"
    build = ipv4_packet if source.version == 4 else ipv6_packet
    return build(datagram, UDP, source.packed, destination.packed, ttl)
