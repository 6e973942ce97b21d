"""A bulk stream waits for everything else, keeps its own order, and is bounded."""

from __future__ import annotations

import pytest

from ipop.datapath import BULK_BYTES, MAX_BULK_BYTES
from ipop.superpacket import is_bulk
from ipop.vnet import ALL_OFFLOADS
from tests.test_datapath import World, packet
from tests.test_superpacket import ACK, FIN, Super

PAYLOAD = bytes(44 * 1348)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("options", [b"", bytes(12)])
def test_only_tcp_with_data_or_signals_is_bulk(version: int, options: bytes) -> None:
    assert is_bulk(Super(version, True, 1348, PAYLOAD, options=options).frame)
    assert is_bulk(Super(version, True, 1348, b"x", options=options).frame)
    assert is_bulk(Super(version, True, 1348, b"", flags=ACK | FIN, options=options).frame)
    assert not is_bulk(Super(version, True, 1348, b"", options=options).frame)
    assert not is_bulk(Super(version, False, 1348, PAYLOAD).frame)


def supers(world: World, count: int) -> list[bytes]:
    ends = world.alice.address4.packed, world.bob.address4.packed
    return [Super(4, True, 1348, PAYLOAD, id=number).between(*ends).frame for number in range(count)]


def test_a_datagram_overtakes_the_super_packets_that_came_with_it() -> None:
    world = World()
    world.tap.offloads = ALL_OFFLOADS
    world.connect()
    small = Super(4, False, 1348, b"voice").between(world.alice.address4.packed, world.bob.address4.packed)
    datagram = bytes((1, 0, 0, 0, 0, 0, 34, 0, 6, 0)) + small.frame[10:]
    world.tap.inject_virtual(*supers(world, 5), datagram)
    sent = [plaintext for _, plaintext in world.ring.sent_traffic]
    assert sent[0].endswith(b"voice")
    ids = [plaintext[9] << 8 | plaintext[10] for plaintext in sent[1:]]
    assert ids == sorted(ids)
    assert len(ids) == 5 * 44


def test_a_wake_up_sends_a_bounded_part_and_the_queue_is_bounded() -> None:
    world = World()
    world.connect()
    frames = supers(world, 2 * MAX_BULK_BYTES // len(PAYLOAD))
    for frame in frames:
        world.path.outbound_virtual(frame)
    refused = world.path.counters["outbound_bulk_dropped"]
    assert 0 <= MAX_BULK_BYTES - (len(frames) - refused) * len(frames[0]) < len(frames[0])
    assert world.path.drained()
    assert BULK_BYTES <= sum(len(plaintext) for _, plaintext in world.ring.sent_traffic) < BULK_BYTES + 2 * len(PAYLOAD)
    world.inject(packet(world.alice.address4, world.bob.address4))
    while world.path.drained():
        pass
    assert len(world.ring.sent_traffic) == 44 * (len(frames) - refused)
