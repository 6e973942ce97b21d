"""Super-packets cut and joined again, against a plain segmentation that shares no code with `ipop.superpacket`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dht.envelope import Inner
from dht.errors import BadDatagram
from ipop.ethernet import BadFrame
from ipop.superpacket import MAX_SEGMENTS, MAX_UDP_SEGMENTS, SEGMENT_BYTES, Run, complete, partial, read_partial, split
from ipop.vnet import GSO_ECN, GSO_TCP4, GSO_TCP6, GSO_UDP, NEEDS_CHECKSUM, NO_VNET, VNET, fill
from tests.fuzzing import fuzzed

ETHERNET = b"\x02aaaaa\x02bbbbb"
FIN, SYN, PSH, ACK, CWR = 0x01, 0x02, 0x08, 0x10, 0x80
LIMIT_BYTES = 1500  # roomy: no TCP segment is cut smaller than asked


# --- the oracle: one's complement sums word by word, headers taken apart by hand ---------------------------


def slow_sum(data: bytes, start: int = 0) -> int:
    total = start
    for high, low in zip(data[::2], data[1::2] + b"\0", strict=False):
        total += high << 8 | low
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(packet: bytes, protocol: int, length: int) -> bytes:
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return addresses + struct.pack("!IHBB", length, 0, 0, protocol)


def transport_of(packet: bytes) -> tuple[int, int]:
    """Where the transport header begins, and the protocol; options are skipped, extension headers are not known."""
    return ((packet[0] & 15) * 4, packet[9]) if packet[0] >> 4 == 4 else (40, packet[6])


def slow_segments(packet: bytes, size: int) -> list[bytes]:
    """What a network card would send: every field of every packet computed from scratch."""
    transport, protocol = transport_of(packet)
    tcp = protocol == 6
    start = transport + ((packet[transport + 12] >> 4) * 4 if tcp else 8)
    payloads = [packet[at : at + size] for at in range(start, len(packet), size)]
    made = []
    for index, payload in enumerate(payloads):
        ip, upper = bytearray(packet[:transport]), bytearray(packet[transport:start])
        length = len(upper) + len(payload)
        if ip[0] >> 4 == 4:
            struct.pack_into("!H", ip, 2, len(ip) + length)
            struct.pack_into("!H", ip, 4, (struct.unpack_from("!H", ip, 4)[0] + index) % 65536)
            struct.pack_into("!H", ip, 10, 0)
            struct.pack_into("!H", ip, 10, 0xFFFF - slow_sum(bytes(ip)))
        else:
            struct.pack_into("!H", ip, 4, length)
        if tcp:
            struct.pack_into("!I", upper, 4, (struct.unpack_from("!I", upper, 4)[0] + index * size) % 2**32)
            if index > 0:
                upper[13] &= 255 - CWR
            if index < len(payloads) - 1:
                upper[13] &= 255 - FIN - PSH
            at = 16
        else:
            struct.pack_into("!H", upper, 4, length)
            at = 6
        struct.pack_into("!H", upper, at, 0)
        whole = slow_sum(pseudo(packet, protocol, length) + bytes(upper) + payload)
        struct.pack_into("!H", upper, at, 0xFFFF - whole or 0xFFFF)
        made.append(bytes(ip + upper) + payload)
    return made


def checksums_hold(packet: bytes) -> bool:
    transport, protocol = transport_of(packet)
    whole = packet[transport:]
    ip_holds = packet[0] >> 4 == 6 or slow_sum(packet[:transport]) == 0xFFFF
    return ip_holds and slow_sum(pseudo(packet, protocol, len(whole)) + whole) == 0xFFFF


# --- super-packets as a kernel makes them ------------------------------------------------------------------


@dataclass(frozen=True)
class Super:
    version: int
    tcp: bool
    size: int
    payload: bytes
    flags: int = ACK
    sequence: int = 1000
    id: int = 7
    options: bytes = b""
    ip_options: bytes = b""
    ends: bytes = b""

    def between(self, source: bytes, destination: bytes) -> Super:
        return replace(self, ends=source + destination)

    @property
    def packet(self) -> bytes:
        """With a partial checksum."""
        if self.tcp:
            offset = (20 + len(self.options)) // 4 << 4
            upper = bytearray(struct.pack("!HHIIBBHHH", 1, 2, self.sequence, 3, offset, self.flags, 4, 0, 0))
            upper += self.options
        else:
            upper = bytearray(struct.pack("!HHHH", 1, 2, 8 + len(self.payload), 0))
        length, protocol = len(upper) + len(self.payload), 6 if self.tcp else 17
        if self.version == 4:
            words = 5 + len(self.ip_options) // 4
            total = words * 4 + length
            fields = struct.pack("!BBHHHBBH", 0x40 | words, 2, total, self.id, 0x4000, 64, protocol, 0)
            addresses = self.ends or bytes((10, 77, 0, 1, 10, 77, 0, 2))
            ip = bytearray(fields + addresses + self.ip_options)
            struct.pack_into("!H", ip, 10, 0xFFFF - slow_sum(bytes(ip)))
        else:
            ip = bytearray(struct.pack("!IHBB", 6 << 28 | 5, length, protocol, 64) + (self.ends or bytes(range(32))))
        struct.pack_into("!H", upper, 16 if self.tcp else 6, slow_sum(pseudo(bytes(ip), protocol, length)))
        return bytes(ip + upper) + self.payload

    @property
    def transport(self) -> int:
        return 20 + len(self.ip_options) if self.version == 4 else 40

    @property
    def frame(self) -> bytes:
        gso = (GSO_TCP4 if self.version == 4 else GSO_TCP6) if self.tcp else GSO_UDP
        if self.tcp and self.flags & CWR:
            gso |= GSO_ECN
        # The header length is a hint that may be wrong.
        head = VNET.pack(NEEDS_CHECKSUM, gso, 999, self.size, 14 + self.transport, 16 if self.tcp else 6)
        return head + ETHERNET + (b"\x08\x00" if self.version == 4 else b"\x86\xdd") + self.packet


@st.composite
def supers(draw: st.DrawFn) -> Super:
    tcp = draw(st.booleans())
    size = draw(st.one_of(st.integers(8, 40), st.integers(500, 1340)))
    count = draw(st.integers(1, 12))
    rest = draw(st.integers(1, size))
    seed = draw(st.integers(0, 250))
    payload = bytes((seed + i * i) & 0xFF for i in range((count - 1) * size + rest))
    return Super(
        draw(st.sampled_from((4, 6))),
        tcp,
        size,
        payload,
        flags=draw(st.integers(0, 255)) & ~SYN,
        sequence=draw(st.one_of(st.integers(0, 2**32 - 1), st.just(2**32 - 1000))),
        id=draw(st.one_of(st.integers(0, 65535), st.just(65534))),
        options=draw(st.sampled_from((b"", b"\x01\x01\x08\x0a" + bytes(range(8)), bytes(40)))) if tcp else b"",
    )


def join(plaintexts: list[bytes]) -> list[Run]:
    """As the data path does with one batch."""
    runs: list[Run] = []
    for plaintext in plaintexts:
        if not runs or not runs[-1].extend(plaintext):
            runs.append(Run(plaintext))
    return runs


def received(run: Run) -> list[bytes]:
    """What the kernel makes of a run given to it as one frame, were it to send it on."""
    pieces = run.virtual(ETHERNET + b"\x08\x00")
    assert pieces[0][10:22] == ETHERNET
    header_bytes, gso = VNET.unpack_from(pieces[0])[2], pieces[0][1]
    assert gso == 0 or len(pieces[0]) - 10 == header_bytes
    return received_frame(pieces)


def received_frame(pieces: Sequence[bytes]) -> list[bytes]:
    """What the kernel makes of a frame in pieces with a virtio_net header, were it to send it on."""
    whole = b"".join(pieces)
    flags, gso, _, size, checksum_from, checksum_at = VNET.unpack_from(whole)
    assert flags == NEEDS_CHECKSUM
    packet = whole[24:]
    transport, protocol = transport_of(packet)
    assert (checksum_from - 14, checksum_at) == (transport, 16 if protocol == 6 else 6)
    if gso == 0:
        assert size == 0
        return [fill(packet, transport, checksum_at)]
    assert gso & ~GSO_ECN == (GSO_UDP if protocol == 17 else GSO_TCP4 if packet[0] >> 4 == 4 else GSO_TCP6)
    assert bool(gso & GSO_ECN) == (protocol == 6 and bool(packet[transport + 13] & CWR))
    length = slow_sum(pseudo(packet, protocol, len(packet) - transport))
    assert struct.unpack_from("!H", packet, transport + checksum_at)[0] % 0xFFFF == length % 0xFFFF
    return slow_segments(packet, size)


# --- the tests ---------------------------------------------------------------------------------------------


@fuzzed()
@given(supers(), st.data())
def test_any_loss_and_order_gives_the_packets_that_plain_segmentation_would(made: Super, data: st.DataObject) -> None:
    whole = slow_segments(made.packet, made.size)
    assert all(map(checksums_hold, whole))
    plaintexts = split(made.frame, LIMIT_BYTES)
    assert len(plaintexts) == len(whole)
    order = data.draw(st.one_of(st.just(list(range(len(whole)))), st.permutations(range(len(whole)))))
    kept = [index for index in order if data.draw(st.integers(0, 3))]
    cuts = data.draw(st.sets(st.integers(0, len(kept)), max_size=3))
    bounds = [0, *sorted(cuts), len(kept)]
    virtual: list[bytes] = []
    plain: list[bytes] = []
    for low, high in pairwise(bounds):
        for run in join([plaintexts[index] for index in kept[low:high]]):
            virtual += received(run)
            plain += run.packets()
    assert virtual == plain == [whole[index] for index in kept]


@fuzzed()
@given(supers())
def test_a_super_packet_that_arrives_whole_is_handed_over_as_it_was(made: Super) -> None:
    (run,) = join(split(made.frame, LIMIT_BYTES))
    header, *pieces = run.virtual(made.frame[10:24])
    assert header[10:] + b"".join(pieces) == made.frame[10:]


@fuzzed()
@given(st.lists(supers(), min_size=2, max_size=4), st.randoms())
def test_super_packets_that_mix_on_their_way_stay_apart(many: list[Super], random: Any) -> None:
    flows = [Super(**{**vars(made), "sequence": made.sequence ^ number << 20}) for number, made in enumerate(many)]
    sent = [
        (plaintext, whole)
        for made in flows
        for plaintext, whole in zip(split(made.frame, LIMIT_BYTES), slow_segments(made.packet, made.size), strict=True)
    ]
    random.shuffle(sent)
    runs = join([plaintext for plaintext, _ in sent])
    assert [packet for run in runs for packet in received(run)] == [whole for _, whole in sent]


@fuzzed()
@given(supers(), st.integers(300, 1420))
@example(Super(4, True, 1348, bytes(5000), flags=ACK | PSH | FIN | CWR), 1300)
def test_a_path_that_carries_less_gets_smaller_tcp_segments(made: Super, limit_bytes: int) -> None:
    plaintexts = split(made.frame, limit_bytes)
    (run,) = join(plaintexts)
    if made.tcp:
        assert max(map(len, plaintexts)) <= limit_bytes
        assert run.size == min(made.size, limit_bytes - SEGMENT_BYTES - made.transport - 20 - len(made.options))
    else:
        assert run.size == made.size  # A UDP segment is somebody's datagram.
    assert received(run) == run.packets() == slow_segments(made.packet, run.size)


@fuzzed()
@given(st.integers(1, 10), st.integers(8, 200), st.binary(min_size=1, max_size=900))
def test_ip_options_are_in_every_packet(words: int, size: int, payload: bytes) -> None:
    made = Super(4, True, size, payload, ip_options=b"\x01" * (4 * words), options=bytes(12))
    assert complete(made.frame) == [made.frame[10:24] + each for each in slow_segments(made.packet, made.size)]


@fuzzed()
@given(supers())
def test_taking_a_super_packet_apart_here_gives_the_same_packets(made: Super) -> None:
    assert complete(made.frame) == [made.frame[10:24] + each for each in slow_segments(made.packet, made.size)]


def test_a_large_super_packet_with_many_segments() -> None:
    made = Super(4, True, 1348, bytes(range(256)) * 254)
    plaintexts = split(made.frame, LIMIT_BYTES)
    (run,) = join(plaintexts)
    assert len(plaintexts) == run.segments == 49
    assert received(run) == slow_segments(made.packet, made.size)


def test_too_many_segments_are_refused_on_both_sides() -> None:
    made = Super(4, True, 16, bytes(16 * (MAX_SEGMENTS + 1)))
    with pytest.raises(BadFrame):
        split(made.frame, LIMIT_BYTES)
    assert len(complete(made.frame)) == MAX_SEGMENTS + 1
    forged = bytes((Inner.SEGMENT, 0, 0, 0, 16)) + made.packet[: 40 + 16]
    with pytest.raises(BadDatagram):
        Run(forged)


def test_ip_options_and_fragments_are_not_cut_for_the_wire() -> None:
    with_options = Super(4, True, 100, bytes(500), ip_options=b"\x01\x01\x01\x00")
    fragment = bytearray(Super(4, True, 100, bytes(500)).frame)
    fragment[24 + 6] |= 0x20
    for frame in (with_options.frame, bytes(fragment)):
        with pytest.raises(BadFrame):
            split(frame, LIMIT_BYTES)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False])
def test_one_packet_with_a_partial_checksum(version: int, tcp: bool) -> None:
    made = Super(version, tcp, 1000, b"payload")
    frame = VNET.pack(NEEDS_CHECKSUM, 0, 0, 0, 14 + made.transport, 16 if tcp else 6) + made.frame[10:]
    packet, transport, checksum_at = read_partial(partial(frame))
    assert packet == made.packet
    (expected,) = slow_segments(made.packet, 1000)
    assert fill(packet, transport, checksum_at) == expected
    assert complete(frame) == [made.frame[10:24] + expected]


def test_a_frame_that_needs_nothing_is_complete() -> None:
    assert complete(NO_VNET + b"frame") == [b"frame"]


@pytest.mark.parametrize("version", [4, 6])
def test_no_kernel_is_given_more_udp_segments_than_the_older_take(version: int) -> None:
    made = Super(version, False, 100, bytes(range(250)) * 50)
    runs = join(split(made.frame, LIMIT_BYTES))
    assert [run.segments for run in runs] == [MAX_UDP_SEGMENTS, 125 - MAX_UDP_SEGMENTS]
    expected = slow_segments(made.packet, made.size)
    assert [packet for run in runs for packet in received_frame(run.virtual(made.frame[10:24]))] == expected
    assert [packet for run in runs for packet in run.packets()] == expected


def test_a_udp_checksum_of_zero_is_sent_as_ones() -> None:
    # The payload makes up for the header, so that the whole sums to 65535, whose complement is 0.
    made = Super(4, False, 1000, b"\0\0")
    whole = slow_sum(made.packet[20:])
    made = Super(4, False, 1000, (0xFFFF - whole).to_bytes(2, "big"))
    assert fill(made.packet, 20, 6)[26:28] == b"\xff\xff"


SEEDS = (
    split(Super(4, True, 100, bytes(300)).frame, LIMIT_BYTES)[1],
    split(Super(6, False, 99, bytes(300)).frame, LIMIT_BYTES)[0],
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A segment with a few bytes changed and its end cut off or grown."""
    plaintext = bytearray(draw(st.sampled_from(SEEDS)))
    for at in draw(st.lists(st.integers(1, 70), max_size=4)):
        plaintext[at] = draw(st.integers(0, 255))
    return bytes(plaintext[: draw(st.integers(1, len(plaintext)))]) + draw(st.binary(max_size=9))


@fuzzed()
@given(st.one_of(mutated(), st.sampled_from(SEEDS)))
def test_no_plaintext_of_a_peer_makes_more_than_a_refusal(plaintext: bytes) -> None:
    open_run = Run(split(Super(4, True, 100, bytes(300)).frame, LIMIT_BYTES)[0])
    open_run.extend(plaintext)
    assert len(open_run.packets()) == open_run.segments
    try:
        run = Run(plaintext)
    except BadDatagram:
        return
    header, *pieces = run.virtual(ETHERNET + b"\x08\x00")
    assert len(pieces) == 1
    assert len(header) + len(pieces[0]) <= 24 + 65_535
    run.packets()


@fuzzed()
@given(st.binary(max_size=60))
def test_no_partial_packet_of_a_peer_makes_more_than_a_refusal(rest: bytes) -> None:
    try:
        packet, transport, checksum_at = read_partial(bytes((Inner.PARTIAL,)) + rest)
    except BadDatagram:
        return
    assert len(fill(packet, transport, checksum_at)) == len(packet)
