"""ARP and neighbour discovery: neighbours exist, ourselves and nobody do not, and malformed questions are silence."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipop.ethernet import BROADCAST_MAC, ETHERTYPE_ARP, Ethernet, Ipv6Header, checksum6, ipv6_packet, wrap
from ipop.neighbor import Segment, answer, mac_for
from tests.fuzzing import fuzzed

OWN_MAC = bytes.fromhex("02500a4d0005")
OWN = Segment(
    IPv4Address("10.77.0.5"),
    IPv4Network("10.77.0.0/16"),
    IPv6Address("fd12:3456:789a::5"),
    IPv6Network("fd12:3456:789a::/48"),
)
UNSPECIFIED6 = "::"
SOLICITED_NODE = "ff02::1:ff00:9"


def raw(text: str) -> bytes:
    return IPv6Address(text).packed if ":" in text else IPv4Address(text).packed


def arp(asking: str, target: str, operation: int = 1, destination: bytes = BROADCAST_MAC) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + OWN_MAC + raw(asking) + bytes(6) + raw(target)
    return destination + OWN_MAC + ETHERTYPE_ARP + body


def solicitation(
    target: str,
    source: str = "fd12:3456:789a::5",
    options: bytes = b"\x01\x01" + OWN_MAC,
    hop_limit: int = 255,
    code: int = 0,
    spoil: int = 0,
) -> bytes:
    message = struct.pack("!BBHI", 135, code, 0, 0) + raw(target) + options
    value = checksum6(raw(source), raw(SOLICITED_NODE), 58, message) ^ spoil
    message = message[:2] + value.to_bytes(2, "big") + message[4:]
    packet = ipv6_packet(message, 58, raw(source), raw(SOLICITED_NODE), hop_limit)
    return wrap(packet, bytes.fromhex("3333ff000009"), OWN_MAC)


def test_hardware_addresses_come_from_the_addresses() -> None:
    assert mac_for(raw("10.77.3.9")) == bytes.fromhex("02500a4d0309")
    mac = mac_for(raw("fd12:3456:789a::9"))
    assert mac[:2] == b"\x02\x56" and len(mac) == 6
    assert mac != mac_for(raw("fd12:3456:789a::a"))
    assert mac == mac_for(raw("fd12:3456:789a::9"))
    # Unicast and locally administered.
    assert all(mac_for(raw(text))[0] & 3 == 2 for text in ("10.77.3.9", "fd12::9"))


# --- ARP ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["10.77.0.1", "10.77.0.4", "10.77.0.6", "10.77.3.9", "10.77.255.254"])
def test_arp_for_a_neighbor_is_answered_to_the_asker(target: str) -> None:
    reply = answer(arp("10.77.0.5", target), OWN)
    assert reply is not None
    frame = Ethernet.parse(reply)
    assert (frame.destination, frame.source, frame.ethertype) == (OWN_MAC, mac_for(raw(target)), ETHERTYPE_ARP)
    expected = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    assert frame.payload == expected + mac_for(raw(target)) + raw(target) + OWN_MAC + raw("10.77.0.5")


def test_a_padded_or_unicast_arp_request_is_answered_too() -> None:
    plain = answer(arp("10.77.0.5", "10.77.3.9"), OWN)
    assert plain is not None
    assert answer(arp("10.77.0.5", "10.77.3.9") + bytes(18), OWN) == plain
    assert answer(arp("10.77.0.5", "10.77.3.9", destination=mac_for(raw("10.77.3.9"))), OWN) == plain


def test_arp_from_another_address_of_this_machine_is_answered() -> None:
    assert answer(arp("192.0.2.1", "10.77.3.9"), OWN) is not None


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp("10.77.0.5", "10.77.0.5"), id="an announcement of our own address"),
        pytest.param(arp("10.77.3.9", "10.77.3.9"), id="an announcement of another address"),
        pytest.param(arp("0.0.0.0", "10.77.0.5"), id="a probe for our own address"),
        pytest.param(arp("0.0.0.0", "10.77.3.9"), id="a probe for another address"),
        pytest.param(arp("10.77.3.9", "10.77.0.5"), id="a question about ourselves"),
        pytest.param(arp("10.77.0.5", "10.77.255.255"), id="the broadcast address"),
        pytest.param(arp("10.77.0.5", "10.77.0.0"), id="the address of the network"),
        pytest.param(arp("10.77.0.5", "10.78.0.1"), id="above the subnet"),
        pytest.param(arp("10.77.0.5", "10.76.255.255"), id="below the subnet"),
        pytest.param(arp("10.77.0.5", "10.77.3.9", operation=2), id="a reply"),
        pytest.param(arp("10.77.0.5", "10.77.3.9")[:-1], id="cut"),
        pytest.param(arp("10.77.0.5", "10.77.3.9")[:12] + b"\x08\x00" + arp("10.77.0.5", "10.77.3.9")[14:], id="IPv4"),
        pytest.param(arp("10.77.0.5", "10.77.3.9").replace(b"\x06\x04", b"\x08\x04"), id="other hardware"),
    ],
)
def test_other_arp_frames_are_not_answered(frame: bytes) -> None:
    assert answer(frame, OWN) is None


# --- neighbour discovery -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["fd12:3456:789a::1", "fd12:3456:789a::4", "fd12:3456:789a:ffff:ffff:ffff:ffff:ffff"]
)
def test_a_solicitation_for_a_neighbor_is_answered_to_the_asker(target: str) -> None:
    reply = answer(solicitation(target), OWN)
    assert reply is not None
    frame = Ethernet.parse(reply)
    assert (frame.destination, frame.source) == (OWN_MAC, mac_for(raw(target)))
    header = Ipv6Header.parse(frame.payload)
    assert (header.source, header.destination) == (raw(target), raw("fd12:3456:789a::5"))
    assert (header.hop_limit, header.next_header) == (255, 58)
    message = frame.payload[40:]
    assert checksum6(header.source, header.destination, 58, message) == 0
    assert message[:2] == b"\x88\0" and message[4:8] == b"\x60\0\0\0"
    assert message[8:] == raw(target) + b"\x02\x01" + mac_for(raw(target))


def test_a_solicitation_without_link_address_is_answered_to_the_sender_of_its_frame() -> None:
    reply = answer(solicitation("fd12:3456:789a::9", options=b""), OWN)
    assert reply is not None and reply[:6] == OWN_MAC


def test_options_we_do_not_know_are_skipped() -> None:
    nonce = b"\x0e\x02" + bytes(14)
    assert answer(solicitation("fd12:3456:789a::9", options=nonce + b"\x01\x01" + OWN_MAC), OWN) is not None


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(solicitation("fd12:3456:789a::9", source=UNSPECIFIED6, options=b""), id="address detection"),
        pytest.param(solicitation("fd12:3456:789a::5"), id="our own address"),
        pytest.param(solicitation("fd12:3456:789a::"), id="the routers' anycast address"),
        pytest.param(solicitation("fd12:3456:789b::9"), id="another network"),
        pytest.param(solicitation("fe80::9"), id="a link-local address"),
        pytest.param(solicitation("ff02::1"), id="a group"),
        pytest.param(solicitation("fd12:3456:789a::9", hop_limit=254), id="one that was routed"),
        pytest.param(solicitation("fd12:3456:789a::9", code=1), id="code 1"),
        pytest.param(solicitation("fd12:3456:789a::9", spoil=1), id="a wrong checksum"),
        pytest.param(solicitation("fd12:3456:789a::9", options=b"\x01\x00" + OWN_MAC), id="an option of length 0"),
        pytest.param(solicitation("fd12:3456:789a::9", options=b"\x01\x02" + OWN_MAC), id="an option too long"),
        pytest.param(solicitation("fd12:3456:789a::9", options=b"\x01\x01" + OWN_MAC[:-1]), id="an option cut"),
        pytest.param(solicitation("fd12:3456:789a::9")[:-1], id="cut"),
        pytest.param(solicitation("fd12:3456:789a::9")[:60], id="cut in its target"),
    ],
)
def test_other_solicitations_are_not_answered(frame: bytes) -> None:
    assert answer(frame, OWN) is None


# --- who is on the link ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix_length", [8, 16, 24, 30, 31, 32])
def test_every_host_of_the_subnet_but_ourselves_is_a_neighbor(prefix_length: int) -> None:
    subnet = IPv4Network(f"10.77.8.4/{prefix_length}", strict=False)
    hosts = list(subnet.hosts()) if prefix_length >= 24 else [subnet[1], subnet[77], subnet[-2]]
    own = hosts[0]
    segment = Segment(own, subnet, IPv6Address("fd12::5"), IPv6Network("fd12::/48"))
    assert [host for host in hosts if not segment.is_neighbor(host.packed)] == [own]
    assert segment.is_own(own.packed) and not segment.is_own(bytes(4))
    outside = [int(subnet[0]) - 1, int(subnet[-1]) + 1]
    ends = [] if prefix_length >= 31 else [int(subnet[0]), int(subnet[-1])]
    assert not any(segment.is_neighbor(number.to_bytes(4, "big")) for number in outside + ends)
    assert segment.broadcast4 == (b"" if prefix_length >= 31 else subnet.broadcast_address.packed)


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=2, max_size=2).map(lambda end: b"\x0a\x4d" + end))
@fuzzed()
def test_is_neighbor_agrees_with_ipaddress_on_ipv4(address: bytes) -> None:
    subnet = IPv4Network("10.77.0.0/16")
    host = IPv4Address(address)
    special = (subnet.network_address, subnet.broadcast_address, IPv4Address("10.77.0.5"))
    assert OWN.is_neighbor(address) == (host in subnet and host not in special)


@given(
    st.binary(min_size=16, max_size=16)
    | st.binary(min_size=10, max_size=10).map(lambda end: raw("fd12:3456:789a::")[:6] + end)
)
@fuzzed()
def test_is_neighbor_agrees_with_ipaddress_on_ipv6(address: bytes) -> None:
    network = IPv6Network("fd12:3456:789a::/48")
    host = IPv6Address(address)
    assert OWN.is_neighbor(address) == (
        host in network and host not in (network.network_address, IPv6Address("fd12:3456:789a::5"))
    )


# --- noise -------------------------------------------------------------------------------------------------


@st.composite
def damaged_questions(draw: st.DrawFn) -> bytes:
    frame = bytearray(draw(st.sampled_from([arp("10.77.0.5", "10.77.3.9"), solicitation("fd12:3456:789a::9")])))
    for _ in range(draw(st.integers(0, 4))):
        frame[draw(st.integers(12, len(frame) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(frame)))
    return bytes(frame[:end] if draw(st.booleans()) else frame) + draw(st.binary(max_size=20))


@given(st.binary(max_size=120) | damaged_questions())
@fuzzed(weight=3)
def test_any_frame_gets_an_answer_about_a_neighbor_or_none(frame: bytes) -> None:
    reply = answer(frame, OWN)
    if reply is None:
        return
    answered = Ethernet.parse(reply)
    if answered.ethertype == ETHERTYPE_ARP:
        assert len(reply) == 42 and OWN.is_neighbor(answered.payload[14:18])
    else:
        header = Ipv6Header.parse(answered.payload)
        assert OWN.is_neighbor(header.source)
        assert checksum6(header.source, header.destination, 58, answered.payload[40:]) == 0
