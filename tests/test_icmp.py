"""ICMP errors: well formed, no longer than allowed, and never about what must not be complained about."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipop.ethernet import Ipv4Header, Ipv6Header, checksum, checksum6, ip_ends, ipv4_packet, ipv6_packet
from ipop.icmp import Limiter, Reason, too_big, unreachable
from tests.fuzzing import fuzzed


def raw(text: str) -> bytes:
    return IPv6Address(text).packed if ":" in text else IPv4Address(text).packed


OWN4, OTHER4, BROADCAST4 = raw("10.77.0.5"), raw("10.77.3.9"), raw("10.77.255.255")
OWN6, OTHER6 = raw("fd12::5"), raw("fd12::9")
UDP = struct.pack("!HHHH", 4000, 9, 8, 0)


def packet4(
    body: bytes = UDP, protocol: int = 17, source: bytes = OWN4, to: bytes = OTHER4, fragment: int = 0
) -> bytes:
    packet = ipv4_packet(body, protocol, source, to)
    return packet[:6] + fragment.to_bytes(2, "big") + packet[8:]


def packet6(body: bytes = UDP, next_header: int = 17, source: bytes = OWN6, to: bytes = OTHER6) -> bytes:
    return ipv6_packet(body, next_header, source, to)


def icmp(kind: int) -> bytes:
    return bytes((kind, 0)) + bytes(30)


# --- what is said ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "code"), [(Reason.HOST, 1), (Reason.NETWORK, 0)])
@pytest.mark.parametrize("size", [0, 8, 100, 520, 2000, 65000])
def test_an_ipv4_error_quotes_what_fits_into_576_bytes(reason: Reason, code: int, size: int) -> None:
    original = packet4(UDP + bytes(size))
    error = unreachable(original, OTHER4, reason)
    assert error is not None
    header = Ipv4Header.parse(error)
    assert ip_ends(error) == (OTHER4, OWN4) and header.protocol == 1 and header.traffic_class == 0xC0
    assert len(error) == min(28 + len(original), 576)
    assert checksum(error[:20]) == 0 and checksum(error[20:]) == 0
    assert error[20:22] == bytes((3, code)) and error[24:28] == bytes(4)
    assert original.startswith(error[28:])


@pytest.mark.parametrize(("reason", "code"), [(Reason.HOST, 3), (Reason.NETWORK, 0)])
@pytest.mark.parametrize("size", [0, 8, 1184, 1185, 2000, 65000])
def test_an_ipv6_error_quotes_what_fits_into_1280_bytes(reason: Reason, code: int, size: int) -> None:
    original = packet6(UDP + bytes(size))
    error = unreachable(original, OTHER6, reason)
    assert error is not None
    assert ip_ends(error) == (OTHER6, OWN6) and Ipv6Header.parse(error).next_header == 58
    assert len(error) == min(48 + len(original), 1280)
    assert checksum6(OTHER6, OWN6, 58, error[40:]) == 0
    assert error[40:42] == bytes((1, code)) and error[44:48] == bytes(4)
    assert original.startswith(error[48:])


def test_too_big_names_the_mtu() -> None:
    error = too_big(packet4(UDP + bytes(1400), fragment=0x4000), OTHER4, 1300)
    assert error is not None and error[20:22] == b"\x03\x04" and error[24:28] == (1300).to_bytes(4, "big")
    assert checksum(error[20:]) == 0
    error = too_big(packet6(UDP + bytes(1400)), OTHER6, 1300)
    assert error is not None and error[40:42] == b"\x02\x00" and error[44:48] == (1300).to_bytes(4, "big")
    assert checksum6(OTHER6, OWN6, 58, error[40:]) == 0


def test_too_big_never_names_less_than_every_link_carries() -> None:
    error4, error6 = too_big(packet4(fragment=0x4000), OTHER4, 10), too_big(packet6(), OTHER6, 576)
    assert error4 is not None and error4[24:28] == (68).to_bytes(4, "big")
    assert error6 is not None and error6[44:48] == (1280).to_bytes(4, "big")


def test_an_ipv4_packet_that_may_be_fragmented_is_not_too_big() -> None:
    assert too_big(packet4(UDP + bytes(1400), fragment=0), OTHER4, 1300) is None


def test_padding_behind_the_packet_is_not_quoted() -> None:
    assert unreachable(packet4() + bytes(20), OTHER4) == unreachable(packet4(), OTHER4)
    assert unreachable(packet6() + bytes(20), OTHER6) == unreachable(packet6(), OTHER6)


# --- what is never said ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        *(pytest.param(packet4(icmp(kind), 1), id=f"ICMP type {kind}") for kind in (3, 4, 5, 11, 12)),
        pytest.param(packet4(b"", 1), id="ICMP without a type"),
        pytest.param(packet4(to=raw("224.0.0.251")), id="to a group"),
        pytest.param(packet4(to=raw("255.255.255.255")), id="to everybody"),
        pytest.param(packet4(to=BROADCAST4), id="to everybody in the subnet"),
        pytest.param(packet4(source=raw("0.0.0.0")), id="from nobody"),
        pytest.param(packet4(source=raw("127.0.0.1")), id="from the loopback"),
        pytest.param(packet4(source=raw("224.0.0.1")), id="from a group"),
        pytest.param(packet4(source=raw("255.255.255.255")), id="from everybody"),
        pytest.param(packet4(source=BROADCAST4), id="from everybody in the subnet"),
        pytest.param(packet4(fragment=0x2001), id="a middle fragment"),
        pytest.param(packet4(fragment=1), id="the last fragment"),
        pytest.param(packet4()[:-1], id="cut"),
        pytest.param(packet6(), id="the other family"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_no_ipv4_error_about(packet: bytes) -> None:
    assert unreachable(packet, OTHER4, broadcast4=BROADCAST4) is None
    assert too_big(packet, OTHER4, 1300, broadcast4=BROADCAST4) is None


def extended(*headers: int, last: int, body: bytes) -> bytes:
    """A packet with empty extension headers of these kinds before `body` of protocol `last`."""
    chain = b""
    for header, following in zip(headers, (*headers[1:], last), strict=True):
        # The authentication header counts its length otherwise: here 12 bytes, 3 words less 2.
        chain += bytes((following, 1)) + bytes(10) if header == 51 else bytes((following, 0)) + bytes(6)
    return packet6(chain + body, headers[0])


def fragment6(offset: int, body: bytes, protocol: int) -> bytes:
    return packet6(struct.pack("!BBHI", protocol, 0, offset << 3 | 1, 7) + body, 44)


@pytest.mark.parametrize(
    "packet",
    [
        *(pytest.param(packet6(icmp(kind), 58), id=f"ICMPv6 type {kind}") for kind in (1, 2, 3, 4, 100, 127, 137)),
        pytest.param(packet6(b"", 58), id="ICMPv6 without a type"),
        pytest.param(extended(0, last=58, body=icmp(1)), id="an error behind hop-by-hop options"),
        pytest.param(extended(0, 60, 43, 51, 60, last=58, body=icmp(3)), id="an error behind many headers"),
        pytest.param(fragment6(0, icmp(1), 58), id="an error in a first fragment"),
        pytest.param(fragment6(1, bytes(16), 17), id="a later fragment"),
        pytest.param(packet6(b"\x3a\x00", 0), id="a chain of headers that is cut off"),
        pytest.param(packet6(b"\x3a\xff" + bytes(6), 0), id="a header longer than the packet"),
        pytest.param(packet6(to=raw("ff02::fb")), id="to a group"),
        pytest.param(packet6(source=raw("::")), id="from nobody"),
        pytest.param(packet6(source=raw("ff02::1")), id="from a group"),
        pytest.param(packet6()[:-1], id="cut"),
        pytest.param(packet4(), id="the other family"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_no_ipv6_error_about(packet: bytes) -> None:
    assert unreachable(packet, OTHER6) is None
    assert too_big(packet, OTHER6, 1300) is None


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(packet4(icmp(8), 1), id="a ping"),
        pytest.param(packet4(icmp(0), 1), id="an answer to a ping"),
        pytest.param(packet4(fragment=0x2000), id="a first fragment"),
        pytest.param(packet4(b"", 59), id="an empty packet"),
        pytest.param(packet6(icmp(128), 58), id="a ping6"),
        pytest.param(packet6(b"", 59), id="an empty packet6"),
        pytest.param(fragment6(0, UDP, 17), id="a first fragment6"),
        pytest.param(extended(0, 60, 51, last=17, body=UDP), id="behind extension headers"),
    ],
)
def test_other_packets_may_be_complained_about(packet: bytes) -> None:
    assert unreachable(packet, OTHER4 if packet[0] >> 4 == 4 else OTHER6) is not None


@st.composite
def damaged_packets(draw: st.DrawFn) -> bytes:
    packet = bytearray(
        draw(st.sampled_from([packet4(icmp(8), 1), packet6(icmp(128), 58), extended(0, 60, 43, 51, last=17, body=UDP)]))
    )
    for _ in range(draw(st.integers(0, 4))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    return bytes(packet[: draw(st.integers(0, len(packet)))] if draw(st.booleans()) else packet)


@given(st.binary(max_size=120) | damaged_packets())
@fuzzed(weight=3)
def test_any_bytes_get_a_right_error_or_none_and_no_error_gets_an_error(packet: bytes) -> None:
    for source in (OTHER4, OTHER6):
        for error in (unreachable(packet, source), too_big(packet, source, 1300)):
            if error is None:
                continue
            if len(source) == 4:
                assert checksum(error[:20]) == 0 and checksum(error[20:]) == 0 and len(error) <= 576
            else:
                assert checksum6(error[8:24], error[24:40], 58, error[40:]) == 0 and len(error) <= 1280
            assert unreachable(error, source) is None


# --- how often ---------------------------------------------------------------------------------------------


def test_a_limiter_lets_a_burst_pass_and_then_its_rate() -> None:
    limiter = Limiter(rate_per_s=10, burst=5)
    assert [limiter.take(100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not limiter.take(100.05)
    assert limiter.take(100.11)
    assert not limiter.take(100.12)
    assert [limiter.take(200.0) for _ in range(7)] == [True] * 5 + [False] * 2


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=300))
@fuzzed()
def test_no_stretch_of_time_sees_more_than_burst_and_rate(waits_s: list[float]) -> None:
    limiter = Limiter(rate_per_s=20, burst=5)
    now, passed = 1_800_000_000.0, 0
    started = now
    for wait_s in waits_s:
        now += wait_s
        passed += limiter.take(now)
    assert passed <= 5 + 20 * (now - started) + 1e-3


def test_a_clock_that_goes_back_neither_gives_nor_blocks() -> None:
    limiter = Limiter(rate_per_s=1, burst=1)
    assert limiter.take(1000.0)
    assert not limiter.take(10.0)
    assert limiter.take(11.5)
