"""Frames of broadcast trees that their origin signed: alone or together they pass, whatever was changed does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from ipop.cast_wire import MAX_BATCH, Cast, Kind, Warrant, parse, sign_alone, sign_together
from ipop.ethernet import ipv4_packet, ipv6_packet
from tests.fuzzing import fuzzed
from tests.identities import make_identities

ONE, OTHER = make_identities(2, seed=11)
OWN4 = ONE.member.address4.packed
GROUP4, GROUP6 = bytes((239, 1, 2, 3)), b"\xff\x15" + bytes(13) + b"\x07"
NOW = 1_800_000_000


def packet(text: bytes) -> bytes:
    return ipv4_packet(text, 17, OWN4, GROUP4)


def batch(count: int) -> list[bytes]:
    return sign_together(ONE.sign, Kind.PACKET, [packet(b"%d" % number) for number in range(count)], 1000, NOW)


def proven(frame: bytes, warrant: bytes | None = None) -> Cast:
    """A frame that its seal speaks of. Raises BadDatagram."""
    cast = parse(frame)
    if not isinstance(cast, Cast):
        raise BadDatagram("a warrant is no frame")
    seal = cast.seal
    if seal is None:
        signed = parse(warrant or b"")
        if not isinstance(signed, Warrant) or (signed.source, signed.target) != (cast.source, cast.target):
            raise BadDatagram("no warrant for these")
        seal = signed.seal
    seal.check(ONE.network, ONE.member)
    if not cast.is_covered(seal):
        raise BadDatagram("the seal is another frame's")
    return cast


@pytest.mark.parametrize("count", (2, 3, MAX_BATCH))
def test_each_frame_of_a_batch_is_covered_by_its_warrant(count: int) -> None:
    *frames, warrant = batch(count)
    for number, frame in enumerate(frames):
        cast = proven(frame, warrant)
        assert (cast.kind, cast.sequence, cast.source, cast.target) == (Kind.PACKET, 1000 + number, OWN4, GROUP4)
        assert cast.body == packet(b"%d" % number)
    # A video's packet fits into one datagram of a common link, behind the heads of a tree and of a group.
    assert len(frames[0]) - len(packet(b"0")) == 10


def test_frames_alone_notes_and_ipv6_are_carried_too() -> None:
    six = [ipv6_packet(b"%d" % number, 17, ONE.member.address6.packed, GROUP6) for number in range(2)]
    *frames, warrant = sign_together(ONE.sign, Kind.TWICE, six, 7, NOW)
    assert [proven(frame, warrant).body for frame in frames] == six
    for kind, body, target in (
        (Kind.PACKET, packet(b"x"), GROUP4),
        (Kind.BUSY, OWN4 + GROUP4, GROUP4),
        (Kind.WANTED, OWN4 + GROUP6, GROUP6),
    ):
        cast = proven(sign_alone(ONE.sign, kind, body, 5, NOW))
        assert (cast.kind, cast.sequence, cast.body, cast.source, cast.target) == (kind, 5, body, OWN4, target)


def test_another_member_or_purpose_did_not_sign_it() -> None:
    cast = parse(sign_alone(ONE.sign, Kind.PACKET, packet(b"x"), 1, NOW))
    assert isinstance(cast, Cast) and cast.seal is not None
    with pytest.raises(BadDatagram, match="did not sign"):
        cast.seal.check(ONE.network, OTHER.member)
    with pytest.raises(BadDatagram, match="did not sign"):
        proven(sign_alone(lambda _, content: ONE.sign("record", content), Kind.PACKET, packet(b"x"), 1, NOW))


def test_a_frame_of_one_kind_place_or_batch_does_not_pass_for_another() -> None:
    (first, second, warrant), (third, _, other) = batch(2), batch(3)[1:]
    for frame, signed in (
        (bytes((0x80 | Kind.TWICE,)) + first[1:], warrant),
        (first[:1] + b"\1" + first[2:], warrant),
        (second[:1] + b"\2" + second[2:], warrant),
        (first[:2] + (1001).to_bytes(8, "big") + first[10:], warrant),
        (third[:2] + (2000).to_bytes(8, "big") + third[10:], other),
    ):
        with pytest.raises(BadDatagram):
            proven(frame, signed)


@given(st.integers(0, 2), st.integers(0, 10_000), st.integers(1, 255))
@fuzzed()
def test_no_changed_byte_passes(which: int, at: int, change: int) -> None:
    frames = [*batch(2), sign_alone(ONE.sign, Kind.PACKET, packet(b"x"), 5, NOW)]
    spoilt = bytearray(frames[which + (which == 2)] if which < 2 else frames[3])
    spoilt[at % len(spoilt)] ^= change
    with pytest.raises(BadDatagram):
        if which == 2:
            proven(bytes(spoilt))
        else:
            proven(bytes(spoilt), frames[2])
    warrant = bytearray(frames[2])
    warrant[at % len(warrant)] ^= change
    with pytest.raises(BadDatagram):
        proven(frames[0], bytes(warrant))
        proven(frames[1], bytes(warrant))


@given(st.binary(max_size=400))
@fuzzed()
def test_no_bytes_upset_the_parser(junk: bytes) -> None:
    for data in (junk, b"\x81\0" + junk, b"\x05" + junk, b"\x02" + bytes(76) + junk):
        try:
            parse(data)
        except BadDatagram:
            continue


def test_a_frame_cut_anywhere_is_refused() -> None:
    *frames, warrant = batch(3)
    for whole in (frames[0], sign_alone(ONE.sign, Kind.PACKET, packet(b"x"), 5, NOW)):
        for length in range(len(whole)):
            with pytest.raises(BadDatagram):
                proven(whole[:length], warrant)
    for length in range(len(warrant)):
        with pytest.raises(BadDatagram):
            proven(frames[2], warrant[:length])
