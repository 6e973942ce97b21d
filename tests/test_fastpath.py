"""C against Python: the same frames and datagrams give the same, in the same order, with the same account.

Two nodes with the same keys get the same traffic; in one, C moves whatever it can. That C does move the steady state's
packets by itself is shown apart. What is random is made from the seed that a failure prints.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from dht.envelope import Inner
from ipop import fastpath
from ipop.fastpath import WORTH_PACKETS
from ipop.vnet import NO_VNET, Offloads
from tests.native_side import FEATURES, Side, needs_c
from tests.native_traffic import Arrivals, echo, ethernet, frame, super_packet

pytestmark = needs_c
ROUNDS = int(os.environ.get("P2PVPN_FUZZ_EXAMPLES", "200"))


def test_where_all_tests_must_run_the_extension_is_there() -> None:
    assert fastpath.built


@contextmanager
def world(*native: bool, **options: Any) -> Iterator[tuple[Side, ...]]:
    """The same node so many times, with C where `native`, which is in use from the start."""

    async def make() -> tuple[Side, ...]:
        return tuple(Side(each, **options) for each in native)

    loop = asyncio.new_event_loop()
    sides = loop.run_until_complete(make())
    try:
        for side in sides:
            warm(side)
        yield sides
    finally:
        for side in sides:
            side.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def warm(side: Side) -> None:
    """One packet each way for every flow, so that each has an outlet and an inlet."""
    for flow in side.datapath._flows.values():
        flow.packets = WORTH_PACKETS
    for number in range(2):
        for version in (4, 6):
            side.from_tap([NO_VNET + ethernet(version) + echo(side, version, number, outwards=True)])
            packet = bytes((Inner.PACKET,)) + echo(side, version, number, outwards=False)
            for _ in range(2):
                side.arrive(number, [side.far_keypairs[number].seal(packet)])
                side.from_wire()
    side.sent()
    side.tap.written()
    side.align()


def alike(sides: tuple[Side, ...], told: str) -> None:
    native, plain = sides
    one, other = native.sent(), plain.sent()
    if one != other:
        for a,b in zip(one,other):
            for i,j in zip(a,b):
                if i!=j: print(i.counter,i.traffic_class,len(i.plaintext),i.plaintext[:50].hex(),'|',j.counter,j.traffic_class,len(j.plaintext),j.plaintext[:50].hex())
            print(len(a),len(b))
    assert one == other, told
    assert native.tap.written() == plain.tap.written(), told
    assert native.state() == plain.state(), told


WORLDS = (
    {"aes": True},
    {"aes": False},
    {"offloads": Offloads(header=True, checksum=True, tcp=True)},
    {"features": 0},
)


@pytest.mark.parametrize("options", WORLDS)
def test_frames_of_all_kinds_leave_alike(options: dict[str, Any]) -> None:
    seed = Random().getrandbits(32)
    random = Random(seed)
    with world(True, False, **options) as sides:
        assert len(sides[0].fast._outlets) == 4
        for number in range(ROUNDS):
            frames = [frame(random, sides[0], 0.3) for _ in range(random.choice((1, 2, 6)))]
            for side in sides:
                side.from_tap(frames)
            alike(sides, f"seed {seed}, round {number}")
        assert sides[0].fast.active


@pytest.mark.parametrize("options", WORLDS)
def test_datagrams_of_all_kinds_arrive_alike(options: dict[str, Any]) -> None:
    seed = Random().getrandbits(32)
    with world(True, False, **options) as sides:
        assert len(sides[0].fast._inlets) == 2
        arrivals = Arrivals(Random(seed), sides)
        for number in range(ROUNDS):
            arrivals.one(0.3)
            alike(sides, f"seed {seed}, round {number}")
