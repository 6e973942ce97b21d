"""Frames and IP headers: what is accepted, what is refused, and sums that come out as the RFCs say."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from ipop.ethernet import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    BadFrame,
    Ethernet,
    Ipv4Header,
    Ipv6Header,
    address_text,
    checksum,
    checksum6,
    ip_destination,
    ip_ends,
    ip_source,
    ipv4_packet,
    ipv6_packet,
    is_multicast,
    unwrap,
    wrap,
)
from tests.fuzzing import fuzzed

A4, B4 = IPv4Address("10.77.0.5").packed, IPv4Address("10.77.3.9").packed
A6, B6 = IPv6Address("fd12::5").packed, IPv6Address("fd12::9").packed
MAC_A, MAC_B = bytes.fromhex("02500a4d0005"), bytes.fromhex("02500a4d0309")
PACKET4 = ipv4_packet(b"payload", 17, A4, B4)
PACKET6 = ipv6_packet(b"payload", 17, A6, B6)

# Mostly-right packets reach deeper than noise does.
addresses4, addresses6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
packets4 = st.builds(ipv4_packet, st.binary(max_size=80), st.integers(0, 255), addresses4, addresses4)
packets6 = st.builds(ipv6_packet, st.binary(max_size=80), st.integers(0, 255), addresses6, addresses6)


@st.composite
def damaged_packets(draw: st.DrawFn) -> bytes:
    packet = bytearray(draw(packets4 | packets6))
    for _ in range(draw(st.integers(0, 4))):
        packet[draw(st.integers(0, min(len(packet), 44) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(packet)))
    return bytes(packet[:end] if draw(st.booleans()) else packet) + draw(st.binary(max_size=8))


def sum_by_the_book(data: bytes) -> int:
    """RFC 1071, section 4.1, as written there."""
    total = 0
    for at in range(0, len(data) - 1, 2):
        total += data[at] << 8 | data[at + 1]
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# --- packets from peers ------------------------------------------------------------------------------------


def test_the_ends_of_a_packet() -> None:
    assert ip_ends(PACKET4) == (A4, B4) == (ip_source(PACKET4), ip_destination(PACKET4))
    assert ip_ends(PACKET6) == (A6, B6) == (ip_source(PACKET6), ip_destination(PACKET6))


def changed(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes((value,)) + packet[at + 1 :]


@pytest.mark.parametrize("read", [ip_source, ip_destination, ip_ends])
@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PACKET4[:19], id="a cut IPv4 header"),
        pytest.param(PACKET6[:39], id="a cut IPv6 header"),
        pytest.param(PACKET4[:-1], id="IPv4, a byte too few"),
        pytest.param(PACKET6[:-1], id="IPv6, a byte too few"),
        pytest.param(PACKET4 + b"\0", id="IPv4, a byte too many"),
        pytest.param(PACKET6 + b"\0", id="IPv6, a byte too many"),
        pytest.param(changed(PACKET4, 0, 0x44), id="an IPv4 header of 16 bytes"),
        pytest.param(changed(PACKET4, 0, 0x4F), id="an IPv4 header longer than the packet"),
        pytest.param(changed(PACKET4, 3, 19), id="an IPv4 packet shorter than its header"),
        pytest.param(changed(PACKET4, 0, 0x05), id="version 0"),
        pytest.param(changed(PACKET4, 0, 0x55), id="version 5"),
        pytest.param(changed(PACKET6, 0, 0xF0), id="version 15"),
        pytest.param(wrap(PACKET4, MAC_A, MAC_B), id="a frame where a packet should be"),
    ],
)
def test_packets_that_lie_about_themselves_are_the_peers_fault(read: Callable[[bytes], object], packet: bytes) -> None:
    with pytest.raises(BadDatagram):
        read(packet)


def test_ipv4_options_are_no_fault() -> None:
    packet = bytearray(ipv4_packet(b"\x01\x01\x01\x00payload", 17, A4, B4))
    packet[0] = 0x46
    assert ip_ends(bytes(packet)) == (A4, B4)
    assert Ipv4Header.parse(bytes(packet)).header_bytes == 24


@given(st.binary(max_size=100) | damaged_packets())
@fuzzed()
def test_any_bytes_from_a_peer_give_two_addresses_of_one_family_or_bad_datagram(packet: bytes) -> None:
    try:
        source, destination = ip_ends(packet)
    except BadDatagram:
        return
    assert len(source) == len(destination) == (4 if packet[0] >> 4 == 4 else 16)
    header = Ipv4Header.parse(packet) if len(source) == 4 else Ipv6Header.parse(packet)
    assert (header.source, header.destination, header.total_bytes) == (source, destination, len(packet))


# --- frames of our own kernel ------------------------------------------------------------------------------


@pytest.mark.parametrize(("packet", "ends"), [(PACKET4, (A4, B4)), (PACKET6, (A6, B6))], ids=["IPv4", "IPv6"])
def test_unwrap_undoes_wrap_and_cuts_padding(packet: bytes, ends: tuple[bytes, bytes]) -> None:
    frame = wrap(packet, MAC_A, MAC_B)
    assert frame[:12] == MAC_A + MAC_B
    assert unwrap(frame) == (packet, *ends)
    assert unwrap(frame + bytes(20)) == (packet, *ends)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(MAC_A + MAC_B + b"\x08", id="a cut Ethernet header"),
        pytest.param(MAC_A + MAC_B + ETHERTYPE_IPV4, id="no packet"),
        pytest.param(MAC_A + MAC_B + ETHERTYPE_ARP + bytes(46), id="ARP"),
        pytest.param(MAC_A + MAC_B + ETHERTYPE_ARP + PACKET4, id="an ethertype that does not fit"),
        pytest.param(MAC_A + MAC_B + ETHERTYPE_IPV6 + PACKET4, id="IPv4 called IPv6"),
        pytest.param(MAC_A + MAC_B + ETHERTYPE_IPV4 + PACKET6, id="IPv6 called IPv4"),
        pytest.param(MAC_A + MAC_B + b"\x81\x00\x00\x01" + ETHERTYPE_IPV4 + PACKET4, id="a VLAN tag"),
    ],
)
def test_other_frames_are_bad_frames(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        unwrap(frame)


@given(
    st.binary(max_size=120)
    | st.builds(
        lambda kind, packet: MAC_A + MAC_B + kind + packet,
        st.sampled_from([ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP]),
        damaged_packets(),
    )
)
@fuzzed()
def test_any_frame_gives_a_packet_that_a_peer_would_accept_or_bad_frame(frame: bytes) -> None:
    try:
        packet, source, destination = unwrap(frame)
    except BadFrame:
        return
    assert ip_ends(packet) == (source, destination)
    assert wrap(packet, frame[:6], frame[6:12]) == frame[: 14 + len(packet)]


@given(st.binary(max_size=40))
@fuzzed()
def test_ethernet_parses_or_refuses_any_bytes(frame: bytes) -> None:
    try:
        parsed = Ethernet.parse(frame)
    except BadFrame:
        assert len(frame) < 14
        return
    assert parsed.pack() == frame
    assert (len(parsed.destination), len(parsed.source), len(parsed.ethertype)) == (6, 6, 2)


# --- headers and sums --------------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.integers(0, 255), addresses4, addresses4, st.integers(0, 255), st.integers(0, 255))
@fuzzed()
def test_a_built_ipv4_header_reads_back_and_sums_to_zero(
    payload: bytes, protocol: int, source: bytes, destination: bytes, ttl: int, traffic_class: int
) -> None:
    packet = ipv4_packet(payload, protocol, source, destination, ttl, traffic_class)
    assert sum_by_the_book(packet[:20]) == 0
    assert Ipv4Header.parse(packet) == Ipv4Header(
        header_bytes=20,
        total_bytes=20 + len(payload),
        traffic_class=traffic_class,
        dont_fragment=True,
        more_fragments=False,
        fragment_offset_bytes=0,
        ttl=ttl,
        protocol=protocol,
        source=source,
        destination=destination,
    )


@given(st.binary(max_size=60), st.integers(0, 255), addresses6, addresses6, st.integers(0, 255), st.integers(0, 255))
@fuzzed()
def test_a_built_ipv6_header_reads_back(
    payload: bytes, next_header: int, source: bytes, destination: bytes, hop_limit: int, traffic_class: int
) -> None:
    packet = ipv6_packet(payload, next_header, source, destination, hop_limit, traffic_class)
    assert Ipv6Header.parse(packet) == Ipv6Header(
        total_bytes=40 + len(payload),
        traffic_class=traffic_class,
        next_header=next_header,
        hop_limit=hop_limit,
        source=source,
        destination=destination,
    )


def test_fragment_fields_are_read_in_bytes() -> None:
    packet = PACKET4[:6] + struct.pack("!H", 0x2000 | 185) + PACKET4[8:]
    header = Ipv4Header.parse(packet)
    assert (header.more_fragments, header.dont_fragment, header.fragment_offset_bytes) == (True, False, 1480)


@given(st.binary(max_size=100) | damaged_packets())
@fuzzed()
def test_header_views_read_or_refuse_any_bytes(packet: bytes) -> None:
    for view, version in ((Ipv4Header, 4), (Ipv6Header, 6)):
        try:
            header = view.parse(packet)
        except BadFrame:
            continue
        assert packet[0] >> 4 == version and header.total_bytes <= len(packet)


@given(st.binary(max_size=200) | st.integers(0, 9).map(bytes) | st.integers(0, 9).map(lambda n: b"\xff" * n))
@fuzzed()
def test_checksum_is_the_one_of_rfc_1071(data: bytes) -> None:
    assert checksum(data) == sum_by_the_book(data)
    if len(data) % 2 == 0 and any(data):
        assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


def test_checksum_of_the_example_in_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_checksum6_of_a_captured_neighbour_solicitation() -> None:
    # A neighbour solicitation as Linux sent it: fd00:1::5 asks for fd00:1::9 over ff02::1:ff00:9.
    message = bytes.fromhex("870039b800000000fd0000010000000000000000000000090101a241a3890001")
    source = IPv6Address("fd00:1::5").packed
    destination = IPv6Address("ff02::1:ff00:9").packed
    assert checksum6(source, destination, 58, message) == 0


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("223.255.255.255", False),
        ("224.0.0.1", True),
        ("239.255.255.255", True),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("ff02::1", True),
        ("fe80::1", False),
        ("fd00::1", False),
    ],
)
def test_groups_are_told_from_single_hosts(text: str, group: bool) -> None:
    address = IPv6Address(text).packed if ":" in text else IPv4Address(text).packed
    assert is_multicast(address) is group
    assert address_text(address) == text
