"""C against Python: the same frames and datagrams give the same, in the same order, with the same account.

Two nodes with the same keys get the same traffic; in one, C moves whatever it can. That C does move the steady state's
packets by itself is shown apart. What is random is made from the seed that a failure prints.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from dht.envelope import Inner
from dht.host import Endpoint
from dht.peer import Reborn
from dht.session import Keypair
from dht.sizes import DEFAULT_BYTES
from ipop import fastpath
from ipop.fastpath import WORTH_PACKETS
from ipop.superpacket import partial, split
from ipop.vnet import NEEDS_CHECKSUM, NO_VNET, Offloads
from tests.native_side import LOCAL, Side, needs_c
from tests.native_traffic import Arrivals, echo, ends, ethernet, frame, super_packet, together, virtual
from tests.test_superpacket import Super, received_frame

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
    side.tap.received()
    side.align()


def alike(sides: tuple[Side, ...], told: str) -> None:
    native, plain = sides
    assert native.sent() == plain.sent(), told
    written = [side.tap.received() for side in sides]
    if written[0] != written[1]:  # C joins segments also where something else is among what came together.
        assert len(written[0]) < len(written[1]), told
        packets = [[packet for frame in each for packet in packets_of(frame)] for each in written]
        assert packets[0] == packets[1], told
    assert native.state() == plain.state(), told


def packets_of(written: bytes) -> list[bytes]:
    """What a kernel makes of a frame with its virtio_net header."""
    return received_frame([written]) if written[0] & NEEDS_CHECKSUM else [written[24:]]


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
        assert sorted(sides[0].fast._inlets) == [(LOCAL + number).to_bytes(4, "big") for number in range(2)]
        arrivals = Arrivals(Random(seed), sides)
        for number in range(ROUNDS):
            arrivals.one(0.3)
            alike(sides, f"seed {seed}, round {number}")


# --- that it is C, and when it is not ---------------------------------------------------------------------------------


class Unwanted(AssertionError):
    """Python was asked to move a packet of the steady state."""


def forbid_python(side: Side) -> None:
    def unwanted(*_: object, **__: object) -> None:
        raise Unwanted

    sessions = side.vpn.ring.parts.sessions
    for each in ("send_all", "open_batch", "receive"):
        setattr(sessions, each, unwanted)


def steady(side: Side, random: Random, number: int = 0) -> tuple[list[bytes], list[bytes]]:
    """Frames, and plaintexts, that C must move by itself."""
    out = replace(super_packet(random, side, number, outwards=True), tcp=True, size=1348, ip_options=b"", options=b"")
    into = replace(super_packet(random, side, number, outwards=False), tcp=True, size=1348, ip_options=b"", options=b"")
    into = replace(into, payload=random.randbytes(40_000))
    packet = echo(side, 4, number, outwards=True)
    frames = [out.frame, NO_VNET + ethernet(4) + packet]
    return frames, [*split(into.frame, 1400), bytes((Inner.PACKET,)) + echo(side, 4, number, outwards=False)]


def test_packets_of_the_steady_state_never_see_python() -> None:
    seed = 5
    random = Random(seed)
    with world(True) as (side,):
        forbid_python(side)
        for _ in range(50):
            frames, texts = steady(side, random)
            side.from_tap(frames)
            for batch in together([side.far_keypairs[0].seal(each) for each in texts]):
                side.arrive(0, batch)
            side.from_wire()
            sent, _ = side.sent()
            whole = bytes((Inner.PACKET,)) + frames[1][24:]
            carried = [each.plaintext for each in sent]
            carried.remove(whole)  # It may overtake TCP's data.
            assert carried == split(frames[0], DEFAULT_BYTES)
            assert len(side.tap.received()) == 2


def python_moved(side: Side, frames: Sequence[bytes], arriving: Sequence[bytes]) -> tuple[bool, bool]:
    """Whether Python had to send, and to receive."""
    traffic, sessions = side.vpn.ring.traffic, side.vpn.ring.parts.sessions
    with (
        patch.object(traffic, "send_traffic", wraps=traffic.send_traffic) as sending,
        patch.object(sessions, "receive", wraps=sessions.receive) as receiving,
    ):
        side.from_tap(frames)
        for datagram in arriving:
            side.arrive(0, [datagram])
            side.from_wire()
    return sending.called, receiving.called


def _new_path(side: Side) -> None:
    side.peers[0].path = Endpoint(*side.peers[0].path)  # type: ignore[misc]  # Equal, but not the one judged.


def _down(side: Side) -> None:
    side.peers[0].up = False


def _rekeyed(side: Side) -> None:
    old, far = side.keypairs[0], side.far_keypairs[0]
    born_at = side.host.now()
    new = Keypair(*old.keys, old.aes, LOCAL + 7, old.remote_index, born_at, initiator=True)
    new.sent, new.window = old.sent, old.window
    side.vpn.ring.parts.sessions.install(side.peers[0], new)
    other = Keypair(*far.keys, old.aes, old.remote_index, LOCAL + 7, born_at, initiator=False)
    other.sent, other.window = far.sent, far.window
    side.keypairs[0], side.far_keypairs[0] = new, other


def _less_room(side: Side) -> None:
    side.peers[0].size.proven_bytes = DEFAULT_BYTES - 100


def _older(side: Side) -> None:
    side.peers[0].features = 0


def _renewed(side: Side) -> None:
    side.peers[0].member = replace(side.peers[0].member)


def _reborn(side: Side) -> None:
    side.peers[0].reborn = Reborn(side.keypairs[0], 1, True)


def _limit(side: Side) -> None:
    side.keypairs[0].sent = side.keypairs[0].limit


@pytest.mark.parametrize(
    ("happens", "out", "into"),
    [
        (lambda side: None, False, False),
        (_new_path, True, True),
        (_down, True, True),
        (_rekeyed, True, True),
        (_less_room, True, False),
        (_older, True, False),
        (_renewed, False, True),
        (_reborn, False, True),
        (_limit, True, False),
    ],
)
def test_whatever_changes_ends_the_use_of_what_was_prepared(
    happens: Callable[[Side], None], out: bool, into: bool
) -> None:
    with world(True) as (side,):
        happens(side)
        frame = NO_VNET + ethernet(4) + echo(side, 4, 0, outwards=True)
        text = bytes((Inner.PACKET,)) + echo(side, 4, 0, outwards=False)
        assert python_moved(side, [frame], [side.far_keypairs[0].seal(text)]) == (out, into)


@pytest.mark.parametrize("version", [4, 6])
def test_nobody_sends_in_the_name_of_another_member_whose_address_is_known(version: int) -> None:
    """Bob seals what carol, who is a peer as well, might have sent."""
    with world(True) as (side,):
        between = ends(side, version, 1, outwards=False)
        stolen, short = (Super(version, True, 1200, bytes(size)).between(*between) for size in (12 * 1200, 100))
        texts = [
            [bytes((Inner.PACKET,)) + echo(side, version, 1, outwards=False)],
            [partial(virtual(short) + short.frame[10:])],
            split(stolen.frame, 1400),
        ]
        for each in texts:
            for batch in together([side.far_keypairs[0].seal(text) for text in each]):
                side.arrive(0, batch)
                side.from_wire()
        assert side.tap.received() == []
        assert side.datapath.counters["inner_source_refused"] == len(texts)


def test_a_stopped_node_moves_nothing() -> None:
    with world(True) as (side,):
        frames, texts = steady(side, Random(1))
        side.vpn.stop()
        side.from_tap(frames)
        side.sent()  # Farewells.
        for text in texts:
            side.arrive(0, [side.far_keypairs[0].seal(text)])
        side.from_wire()
        assert side.tap.received() == []


def test_keys_that_serve_no_more_are_not_kept() -> None:
    with world(True) as (side,):
        assert (len(side.fast._outlets), len(side.fast._inlets)) == (4, 2)
        side.vpn.ring.parts.sessions.remove(side.peers[0])
        side.fast._sweep()
        assert len(side.fast._outlets) == 2
        assert len(side.fast._inlets) == 1
