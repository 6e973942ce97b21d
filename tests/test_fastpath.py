"""C against Python: the same frames and datagrams give the same, in the same order, or C leaves them to Python."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.envelope import Inner
from ipop import fastpath
from ipop.ethernet import ipv4_packet, ipv6_packet
from ipop.superpacket import partial, split
from ipop.vnet import NEEDS_CHECKSUM, NO_VNET, VNET
from tests.fuzzing import fuzzed
from tests.native_side import Side, needs_c
from tests.test_superpacket import ETHERNET, Super, supers

pytestmark = needs_c


def test_where_all_tests_must_run_the_extension_is_there() -> None:
    assert fastpath.built


@contextmanager
def both(**options: object) -> Iterator[tuple[Side, Side]]:
    """The same node twice: with C, and without. C is in use from the start."""

    async def make() -> tuple[Side, Side]:
        return Side(True, **options), Side(False, **options)  # type: ignore[arg-type]

    loop = asyncio.new_event_loop()
    sides = loop.run_until_complete(make())
    try:
        warm(*sides)
        yield sides
    finally:
        for side in sides:
            side.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def warm(*sides: Side) -> None:
    """One packet each way for every flow, so that each has an outlet and an inlet."""
    for side in sides:
        for number in range(2):
            for version in (4, 6):
                side.from_tap([NO_VNET + ethernet(version) + echo(side, version, number, outwards=True)])
                packet = bytes((Inner.PACKET,)) + echo(side, version, number, outwards=False)
                side.arrive(number, [side.far_keypairs[number].seal(packet)])
                side.from_wire()
        side.sent()
        assert len(side.tap.written()) == 4, side.state()
    assert sides[0].fast.active
    assert len(sides[0].fast._outlets) == 4
    assert len(sides[0].fast._inlets) == 2


def ethernet(version: int) -> bytes:
    return ETHERNET + (b"\x08\x00" if version == 4 else b"\x86\xdd")


def ends(side: Side, version: int, number: int, *, outwards: bool) -> tuple[bytes, bytes]:
    """Raw addresses of alice and a peer, in the order of a packet's header."""
    near, far = side.members[0], side.members[1 + number]
    pair = (near.address4.packed, far.address4.packed) if version == 4 else (near.address6.packed, far.address6.packed)
    return pair if outwards else pair[::-1]


def echo(side: Side, version: int, number: int, *, outwards: bool, payload: bytes = b"ping") -> bytes:
    build = ipv4_packet if version == 4 else ipv6_packet
    kind = b"\x08\0\0\0" if version == 4 else b"\x80\0\0\0"
    return build(kind + payload, 1 if version == 4 else 58, *ends(side, version, number, outwards=outwards))


# --- out -------------------------------------------------------------------------------------------------------------


@st.composite
def mutations(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    """Bytes to be changed: at which place, to what. Mostly none."""
    if draw(st.integers(0, 2)):
        return ()
    place = st.one_of(st.integers(0, 90), st.sampled_from((0, 1, 4, 5, 6, 7, 8, 9, 22, 24, 26, 30, 33, 36, 40, 48)))
    return tuple(draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=3)))


@st.composite
def frames(draw: st.DrawFn) -> tuple[str, Super, int, tuple[tuple[int, int], ...], int]:
    """What kind, of what, to which peer, what is changed, and how many bytes are cut off."""
    kind = draw(st.sampled_from(("super", "super", "partial", "whole", "echo")))
    return (kind, draw(supers()), draw(st.integers(0, 1)), draw(mutations()), draw(st.sampled_from((0,) * 9 + (1, 30))))


def frame_of(side: Side, drawn: tuple[str, Super, int, tuple[tuple[int, int], ...], int]) -> bytes:
    kind, made, number, changes, missing = drawn
    made = made.between(*ends(side, made.version, number, outwards=True))
    if kind == "super":
        frame = made.frame
    elif kind == "partial":
        head = VNET.pack(NEEDS_CHECKSUM, 0, 0, 0, 14 + made.transport, 16 if made.tcp else 6)
        frame = head + made.frame[10 : 10 + 14 + 1400]
    elif kind == "whole":
        frame = NO_VNET + made.frame[10 : 10 + 14 + 1400]
    else:
        frame = NO_VNET + ethernet(made.version) + echo(side, made.version, number, outwards=True, payload=made.payload)
    changed = bytearray(frame)
    for place, value in changes:
        if place < len(changed):
            changed[place] = value
    return bytes(changed[: len(changed) - missing])


@pytest.mark.parametrize("aes", [True, False])
def test_frames_of_all_kinds_leave_alike(aes: bool) -> None:
    with both(aes=aes) as sides:

        @given(st.lists(frames(), min_size=1, max_size=6))
        @fuzzed()
        def alike(drawn: list[tuple[str, Super, int, tuple[tuple[int, int], ...], int]]) -> None:
            given_frames = [frame_of(sides[0], each) for each in drawn]
            for side in sides:
                side.from_tap(given_frames)
            native, plain = (side.sent() for side in sides)
            assert native == plain
            assert sides[0].tap.written() == sides[1].tap.written()
            assert sides[0].state() == sides[1].state()

        alike()


# --- in --------------------------------------------------------------------------------------------------------------


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, list[bytes], int, str, int]:
    """From which peer, plaintexts that come together, of what class, what happens to them, and where."""
    number = draw(st.integers(0, 1))
    made = draw(supers())
    kind = draw(st.sampled_from(("super", "super", "packet", "partial", "odd", "mixed")))
    changes = draw(mutations())
    what = draw(
        st.sampled_from(
            ("nothing",) * 6
            + ("lost", "repeated", "reordered", "forged", "short", "another index", "elsewhere", "late", "no counter")
        )
    )
    traffic_class = draw(st.sampled_from((0, 0, 0, 2, 1, 3, 0xB8)))
    return number, [kind.encode(), made, changes], traffic_class, what, draw(st.integers(0, 127))  # type: ignore[list-item]


def plaintexts_of(side: Side, number: int, kind: str, made: Super, changes: tuple[tuple[int, int], ...]) -> list[bytes]:
    made = made.between(*ends(side, made.version, number, outwards=False))
    frame = made.frame
    whole = bytes((Inner.PACKET,)) + echo(side, made.version, number, outwards=False, payload=made.payload[:1200])
    head = VNET.pack(NEEDS_CHECKSUM, 0, 0, 0, 14 + made.transport, 16 if made.tcp else 6)
    if kind == "super":
        plaintexts = split(frame, 1400)
    elif kind == "packet":
        plaintexts = [whole] * 3
    elif kind == "partial":
        plaintexts = [partial(head + frame[10 : 10 + 14 + 1300])] * 2
    elif kind == "odd":
        plaintexts = [bytes((Inner.KEEPALIVE,)) + bytes(20), bytes((77,)) + bytes(20), bytes((Inner.SIZE, 0, 1, 0))]
    else:
        plaintexts = [*split(frame, 1400), whole, bytes((Inner.KEEPALIVE,))]
    if changes:
        changed = bytearray(plaintexts[0])
        for place, value in changes:
            if place < len(changed):
                changed[place] = value
        plaintexts[0] = bytes(changed)
        if len(plaintexts) > 1 and changes[0][1] % 2:  # Alike in all, so that they stay one super-packet.
            plaintexts = [
                each[:3] + plaintexts[0][3:60] + each[60:] for each in plaintexts if len(each) >= 60
            ] or plaintexts
    return plaintexts


def together(datagrams: list[bytes]) -> Iterator[list[bytes]]:
    """As a kernel may send them at once: of one size, the last perhaps shorter, no more than 60 KB."""
    batch: list[bytes] = []
    for each in datagrams:
        if batch and (
            len(each) > len(batch[0])
            or len(batch[-1]) < len(batch[0])
            or len(batch) == 60
            or (len(batch) + 1) * len(batch[0]) > 60_000
        ):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def change(datagrams: list[bytes], what: str, at: int) -> list[bytes]:
    """What a network, or somebody on it, does to datagrams."""
    at %= len(datagrams)
    each = datagrams[at]
    match what:
        case "lost":
            del datagrams[at]
        case "repeated":
            datagrams.insert(at, each)
        case "reordered":
            datagrams.append(datagrams.pop(at))
        case "forged":
            datagrams[at] = each[:-1] + bytes((each[-1] ^ 1,))
        case "short":
            datagrams[at] = each[: len(each) // 2]
        case "another index":
            datagrams[at] = each[:7] + bytes((each[7] ^ 9,)) + each[8:]
        case "no counter":
            datagrams[at] = each[: 8 + at % 30]
    return datagrams


@pytest.mark.parametrize("aes", [True, False])
def test_datagrams_of_all_kinds_arrive_alike(aes: bool) -> None:
    with both(aes=aes) as sides:
        held: list[tuple[int, list[bytes]]] = []

        @given(st.lists(batches(), min_size=1, max_size=4))
        @fuzzed()
        def alike(drawn: list[tuple[int, list[bytes], int, str, int]]) -> None:
            for number, (kind, made, changes), traffic_class, what, at in drawn:
                plaintexts = plaintexts_of(sides[0], number, kind.decode(), made, changes)  # type: ignore[arg-type]
                sealed = [[side.far_keypairs[number].seal(each) for each in plaintexts] for side in sides]
                assert sealed[0] == sealed[1]
                if what == "late":
                    held.append((number, sealed[0]))
                    continue
                for side in sides:
                    source = side.outside if what == "elsewhere" else None
                    for batch in together(change(list(sealed[0]), what, at)):
                        side.arrive(number, batch, traffic_class, source)
                    side.from_wire()
            if held and drawn[0][4] % 3 == 0:
                number, datagrams = held.pop(0)
                for side in sides:
                    for batch in together(datagrams):
                        side.arrive(number, batch)
                    side.from_wire()
            assert sides[0].tap.written() == sides[1].tap.written()
            assert sides[0].sent() == sides[1].sent()
            assert sides[0].state() == sides[1].state()

        alike()
