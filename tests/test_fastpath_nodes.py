"""Whole nodes on real sockets, whose packets C moves in some and Python in others, direct and through a relay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import product

import pytest

from dht.sizes import DEFAULT_BYTES
from ipop import fastpath
from ipop.fastpath import FastPath
from ipop.vnet import ALL_OFFLOADS, NO_VNET, Offloads
from tests.native_side import SocketTap, everything, needs_c
from tests.test_offload_paths import TRAFFIC, Ends, until
from tests.test_superpacket import slow_segments

pytestmark = needs_c
REPEATED = 3


class PairTap(SocketTap):
    """A `SocketTap` with the surface of `MemoryTap`."""

    def __init__(self, name: str, offloads: Offloads) -> None:
        super().__init__(offloads)
        self.name = name
        self.written: list[bytes] = []
        self.written_virtual: list[tuple[bytes, ...]] = []
        asyncio.get_running_loop().add_reader(self.far, self._look)

    def inject(self, frame: bytes) -> None:
        self.send(NO_VNET + frame)

    def inject_virtual(self, *frames: bytes) -> None:
        for frame in frames:
            self.send(frame)

    def _look(self) -> None:
        for frame in everything(self.far):
            if frame.startswith(NO_VNET):
                self.written.append(frame[10:])
            else:
                self.written_virtual.append((frame,))

    def close(self) -> None:
        super().close()
        asyncio.get_running_loop().remove_reader(self.far)
        self.far.close()


def quicken(ends: Ends, native: Sequence[bool], monkeypatch: pytest.MonkeyPatch) -> list[FastPath]:
    """Give C what it may have at once, not only once there is much."""
    monkeypatch.setattr(fastpath, "WORTH_PACKETS", 1)
    monkeypatch.setattr(fastpath, "WORTH_OCTETS", 1)
    made = [FastPath(node, host, tap) for node, host, tap in zip(ends.nodes, ends.hosts, ends.taps, strict=False)]
    for each, wanted in zip(made, native, strict=False):
        if wanted:
            each.start()
    return made


async def carry(ends: Ends) -> None:
    expected: list[bytes] = []
    bob = ends.nodes[1].datapath.inbound
    before = bob.packets

    def came() -> bool:
        return bob.packets >= before + len(expected)

    for made in [ends.addressed(each) for each in TRAFFIC] * REPEATED:
        expected += slow_segments(made.packet, made.size)
        ends.taps[0].inject_virtual(made.frame)
        await until(came)
    await until(lambda: len(ends.arrived()) >= len(expected))
    assert sorted(ends.arrived()) == sorted(expected)
    assert sum(node.counters["bad_datagram"] + node.counters["inner_malformed"] for node in ends.nodes) == 0


@pytest.mark.parametrize("native", [(True, True), (True, False), (False, True)])
def test_nodes_with_c_and_without_understand_each_other(
    native: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        ends = Ends(ALL_OFFLOADS, ALL_OFFLOADS, (True, True), tap=PairTap)
        fast = quicken(ends, native, monkeypatch)
        try:
            await ends.connect()
            await carry(ends)
            assert fast[0].active == native[0]
            alice, bob = (node.peer(ends.identities[1 - at].member.id) for at, node in enumerate(ends.nodes))
            assert alice is not None
            assert bob is not None
            assert alice.tx_bytes <= bob.rx_bytes <= alice.tx_bytes + 10_000
        finally:
            ends.close()
            for tap in ends.taps:
                tap.close()

    asyncio.run(scene())


@pytest.mark.parametrize("native", list(product((True, False), repeat=2)))
def test_the_same_through_a_relay_with_c_and_without(
    native: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ends, and of the relay."""

    async def scene() -> None:
        ends = Ends(ALL_OFFLOADS, ALL_OFFLOADS, (True, True, True), relayed=True, tap=PairTap)
        fast = quicken(ends, (native[0], native[0], native[1]), monkeypatch)
        for node in ends.nodes:
            node.ring.parts.relay.willing = True

        def path(here: int, there: int) -> str | None:
            peer = ends.nodes[here].peer(ends.identities[there].member.id)
            return None if peer is None else peer.path

        try:
            await ends.connect()
            await until(lambda: path(0, 1) == path(1, 0) == "proxy")
            bob = ends.identities[1].member.id
            await until(lambda: ends.nodes[0].ring.traffic.room_bytes(bob) == DEFAULT_BYTES)
            await carry(ends)
            assert bool(fast[0]._outlets) == native[0]
            assert bool(fast[2]._transits) == native[1]
            (circuit,) = ends.nodes[2].ring.parts.relay.circuits
            assert circuit.octets > REPEATED * sum(len(made.payload) for made in TRAFFIC)
        finally:
            ends.close()
            for tap in ends.taps:
                tap.close()

    asyncio.run(scene())
