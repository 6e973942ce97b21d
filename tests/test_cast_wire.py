"""Signed frames of broadcast trees: what was signed together passes, whatever was changed does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from ipop.cast_wire import MAX_BATCH, Cast, Kind, sign_together
from ipop.ethernet import ipv4_packet, ipv6_packet
from tests.fuzzing import fuzzed
from tests.identities import make_identities

ONE, OTHER = make_identities(2, seed=11)
GROUP4, GROUP6 = bytes((239, 1, 2, 3)), b"\xff\x15" + bytes(13) + b"\x07"
NOW = 1_800_000_000


def packet(text: bytes) -> bytes:
    return ipv4_packet(text, 17, ONE.member.address4.packed, GROUP4)


def batch(count: int) -> list[bytes]:
    return sign_together(ONE.sign, [(Kind.PACKET, packet(b"%d" % number)) for number in range(count)], 1000, NOW)


@pytest.mark.parametrize("count", (1, 2, MAX_BATCH))
def test_each_frame_of_a_batch_stands_for_itself(count: int) -> None:
    for number, frame in enumerate(batch(count)):
        cast = Cast.parse(frame)
        cast.check(ONE.network, ONE.member)
        assert (cast.kind, cast.sequence, cast.time) == (Kind.PACKET, 1000 + number, NOW)
        assert cast.body == packet(b"%d" % number)
        assert (cast.source, cast.target) == (ONE.member.address4.packed, GROUP4)


def test_notes_and_ipv6_packets_are_carried_too() -> None:
    six = ipv6_packet(b"six", 17, ONE.member.address6.packed, GROUP6)
    own4 = ONE.member.address4.packed
    frames = sign_together(
        ONE.sign, [(Kind.TWICE, six), (Kind.BUSY, own4 + GROUP4), (Kind.WANTED, own4 + GROUP6)], 5, NOW
    )
    casts = [Cast.parse(frame) for frame in frames]
    for cast in casts:
        cast.check(ONE.network, ONE.member)
    assert [(cast.kind, cast.source, cast.target) for cast in casts] == [
        (Kind.TWICE, ONE.member.address6.packed, GROUP6),
        (Kind.BUSY, own4, GROUP4),
        (Kind.WANTED, own4, GROUP6),
    ]


def test_another_member_or_purpose_did_not_sign_it() -> None:
    cast = Cast.parse(batch(2)[0])
    with pytest.raises(BadDatagram, match="did not sign"):
        cast.check(ONE.network, OTHER.member)
    forged = sign_together(lambda _, content: ONE.sign("record", content), [(Kind.PACKET, packet(b"x"))], 1, NOW)
    with pytest.raises(BadDatagram, match="did not sign"):
        Cast.parse(forged[0]).check(ONE.network, ONE.member)


@given(st.integers(1, 3), st.integers(0, 10_000), st.integers(1, 255))
@fuzzed()
def test_no_changed_byte_passes(count: int, at: int, change: int) -> None:
    frame = bytearray(batch(count)[-1])
    frame[at % len(frame)] ^= change
    with pytest.raises(BadDatagram):
        Cast.parse(bytes(frame)).check(ONE.network, ONE.member)


@given(st.binary(max_size=400))
@fuzzed()
def test_no_bytes_upset_the_parser(junk: bytes) -> None:
    for data in (junk, b"\x01\0\x01" + junk, b"\x02\0\x01" + bytes(76) + junk):
        with pytest.raises(BadDatagram):
            Cast.parse(data).check(ONE.network, ONE.member)


def test_a_frame_cut_anywhere_is_refused() -> None:
    frame = batch(3)[1]
    for length in range(len(frame)):
        with pytest.raises(BadDatagram):
            Cast.parse(frame[:length]).check(ONE.network, ONE.member)
