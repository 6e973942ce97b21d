"""IGMP and MLD: reports of every version are read, queries are what the RFCs draw, and anything else is refused."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipop import igmp, mld
from ipop.destination import Reach, is_membership, mac_of, reach_of, stays_on_link
from ipop.ethernet import BadFrame, Ipv4Header, Ipv6Header, checksum, checksum6, ipv4_packet, ipv6_packet
from ipop.igmp import Change, GroupRecord, timer_code
from tests.fuzzing import fuzzed

HOST4 = IPv4Address("10.77.0.5").packed
HOST6 = IPv6Address("fe80::5").packed
GROUP4 = IPv4Address("239.1.2.3").packed
GROUP6 = IPv6Address("ff15::1:3").packed
ONE4, TWO4 = IPv4Address("10.77.0.8").packed, IPv4Address("10.77.0.9").packed
ONE6 = IPv6Address("fd00::8").packed


def igmp_packet(message: bytes, source: bytes = HOST4) -> bytes:
    """With its checksum filled in."""
    message = message[:2] + checksum(message[:2] + b"\0\0" + message[4:]).to_bytes(2, "big") + message[4:]
    return ipv4_packet(message, igmp.PROTOCOL_IGMP, source, GROUP4, ttl=1)


def mld_packet(message: bytes, source: bytes = HOST6, hop_limit: int = 1) -> bytes:
    total = checksum6(source, GROUP6, 58, message[:2] + b"\0\0" + message[4:])
    message = message[:2] + total.to_bytes(2, "big") + message[4:]
    return ipv6_packet(b"\x3a\0\x05\x02\0\0\x01\0" + message, 0, source, GROUP6, hop_limit)


def report3(*records: tuple[int, bytes, tuple[bytes, ...]], auxiliary: bytes = b"") -> bytes:
    body = struct.pack("!BBHHH", 0x22, 0, 0, 0, len(records))
    for kind, group, sources in records:
        body += struct.pack("!BBH", kind, len(auxiliary) // 4, len(sources)) + group + b"".join(sources) + auxiliary
    return igmp_packet(body)


def report_mld2(*records: tuple[int, bytes, tuple[bytes, ...]], hop_limit: int = 1, source: bytes = HOST6) -> bytes:
    body = struct.pack("!BBHHH", 143, 0, 0, 0, len(records))
    for kind, group, sources in records:
        body += struct.pack("!BBH", kind, 0, len(sources)) + group + b"".join(sources)
    return mld_packet(body, source, hop_limit)


def test_reports_of_all_versions_of_igmp_are_read() -> None:
    for kind in (0x12, 0x16):
        (record,) = igmp.read_report(igmp_packet(struct.pack("!BBH", kind, 0, 0) + GROUP4))
        assert record == GroupRecord(Change.IS_EXCLUDE, GROUP4, old=True)
    (leave,) = igmp.read_report(igmp_packet(b"\x17\0\0\0" + GROUP4))
    assert leave == GroupRecord(Change.TO_INCLUDE, GROUP4, old=True)
    packet = report3((1, GROUP4, (ONE4, TWO4)), (6, GROUP4, ()), auxiliary=bytes(8))
    assert igmp.read_report(packet) == (
        GroupRecord(Change.IS_INCLUDE, GROUP4, (ONE4, TWO4)),
        GroupRecord(Change.BLOCK, GROUP4),
    )


def test_reports_of_both_versions_of_mld_are_read() -> None:
    head = struct.pack("!BBHHH", 131, 0, 0, 0, 0)
    assert mld.read_report(mld_packet(head + GROUP6)) == (GroupRecord(Change.IS_EXCLUDE, GROUP6, old=True),)
    assert mld.read_report(mld_packet(b"\x84" + head[1:] + GROUP6)) == (
        GroupRecord(Change.TO_INCLUDE, GROUP6, old=True),
    )
    packet = report_mld2((4, GROUP6, (ONE6,)), source=bytes(16))
    assert mld.read_report(packet) == (GroupRecord(Change.TO_EXCLUDE, GROUP6, (ONE6,)),)


def test_records_of_unknown_kinds_are_passed_over_and_long_lists_mean_everybody() -> None:
    many = tuple(number.to_bytes(4, "big") for number in range(igmp.MAX_SOURCES + 1))
    records = igmp.read_report(report3((9, GROUP4, (ONE4,)), (1, GROUP4, many)))
    assert records == (GroupRecord(Change.IS_EXCLUDE, GROUP4),)


def test_what_is_damaged_or_did_not_begin_on_this_link_is_refused() -> None:
    good = report3((4, GROUP4, (ONE4,)))
    spoilt = good[:-1] + bytes((good[-1] ^ 1,))
    for packet in (
        spoilt,
        good[:30],
        igmp_packet(struct.pack("!BBHHH", 0x22, 0, 0, 0, 2) + good[-12:]),
        igmp_packet(b"\x16\0\0\0" + ONE4),
        igmp_packet(b"\x99\0\0\0" + GROUP4),
        igmp_packet(b"\x16\0\0\0"),
        report3(*[(4, GROUP4, ())] * (igmp.MAX_RECORDS + 1)),
    ):
        with pytest.raises(BadFrame):
            igmp.read_report(packet)
    good6 = report_mld2((4, GROUP6, ()))
    for packet in (
        good6[:-1] + bytes((good6[-1] ^ 1,)),
        report_mld2((4, GROUP6, ()), hop_limit=64),
        report_mld2((4, GROUP6, ()), source=ONE6),
        report_mld2((4, ONE6, ())),
        ipv6_packet(bytes(24), 58, HOST6, GROUP6, 1),
    ):
        with pytest.raises(BadFrame):
            mld.read_report(packet)


def test_queries_are_as_the_rfcs_draw_them() -> None:
    general = igmp.query(response_s=10, robustness=2, interval_s=125)
    header = Ipv4Header.parse(general)
    assert (header.ttl, header.protocol, header.header_bytes) == (1, 2, 24)
    assert general[20:24] == b"\x94\x04\0\0" and header.destination == igmp.ALL_HOSTS
    assert checksum(general[:24]) == 0 and checksum(general[24:]) == 0
    assert general[24:26] == b"\x11\x64" and general[28:] == bytes(4) + b"\x02\x7d\0\0"
    specific = igmp.query(GROUP4, (ONE4, TWO4), response_s=1, robustness=2, interval_s=125)
    assert specific[16:20] == GROUP4 and specific[28:32] == GROUP4 and specific[-10:] == b"\0\x02" + ONE4 + TWO4
    six = mld.query(GROUP6, (ONE6,), response_s=1, robustness=2, interval_s=125)
    parsed = Ipv6Header.parse(six)
    assert (parsed.hop_limit, parsed.next_header) == (1, 0)
    assert parsed.source[:2] == b"\xfe\x80" and parsed.destination == GROUP6
    assert six[40:48] == b"\x3a\0\x05\x02\0\0\x01\0" and six[48] == 130
    assert checksum6(parsed.source, parsed.destination, 58, six[48:]) == 0
    assert int.from_bytes(six[52:54], "big") == 1000
    # A host reads queries as such, and says nothing new by them.
    assert igmp.read_report(general) == () and mld.read_report(six) == ()


@given(st.integers(0, 31744))
@fuzzed()
@example(127)
@example(128)
@example(31744)
def test_times_become_codes_that_say_no_more_and_nearly_as_much(value: int) -> None:
    code = timer_code(value)
    said = code if code < 128 else (code & 15 | 16) << ((code >> 4 & 7) + 3)
    assert said <= value and value - said <= max(0, said // 16)


@given(st.binary(max_size=80), st.sampled_from((4, 6)))
@fuzzed()
def test_no_bytes_upset_the_readers(junk: bytes, version: int) -> None:
    packet = ipv4_packet(junk, 2, HOST4, GROUP4) if version == 4 else ipv6_packet(junk, 0, HOST6, GROUP6, 1)
    is_membership(packet), stays_on_link(packet)
    try:
        records = igmp.read_report(packet) if version == 4 else mld.read_report(packet)
    except BadFrame:
        return
    assert all(record.group[0] >= 0xE0 for record in records)


@given(st.integers(0, 30), st.binary(min_size=1, max_size=1))
@fuzzed()
def test_a_report_with_a_changed_byte_is_refused(at: int, byte: bytes) -> None:
    packet = report3((4, GROUP4, (ONE4,)), (1, GROUP4, (TWO4,)))
    at = 20 + at % (len(packet) - 20)
    changed = packet[:at] + byte + packet[at + 1 :]
    if changed != packet:
        with pytest.raises(BadFrame):
            igmp.read_report(changed)


def test_destinations_reach_whom_they_should() -> None:
    broadcast = IPv4Address("10.77.255.255").packed
    expected = {
        "10.77.0.9": Reach.ONE,
        "10.77.255.255": Reach.EVERYBODY,
        "255.255.255.255": Reach.EVERYBODY,
        "224.0.0.251": Reach.EVERYBODY,
        "224.0.1.1": Reach.SUBSCRIBERS,
        "239.255.255.250": Reach.SUBSCRIBERS,
        "fd00::1": Reach.ONE,
        "ff02::fb": Reach.EVERYBODY,
        "ff12::1234": Reach.EVERYBODY,
        "ff05::fb": Reach.SUBSCRIBERS,
        "ff0e::101": Reach.SUBSCRIBERS,
        "ff01::1": Reach.NOBODY,
        "ff00::1": Reach.NOBODY,
    }
    for text, reach in expected.items():
        address = (IPv6Address(text) if ":" in text else IPv4Address(text)).packed
        assert reach_of(address, broadcast) is reach, text


def test_groups_have_the_hardware_addresses_that_hosts_listen_to() -> None:
    assert mac_of(IPv4Address("239.129.2.3").packed) == bytes.fromhex("01005e010203")
    assert mac_of(IPv4Address("10.77.255.255").packed) == b"\xff" * 6
    assert mac_of(IPv6Address("ff02::1:2").packed) == bytes.fromhex("333300010002")


def test_what_belongs_to_the_link_stays_there() -> None:
    dhcp = struct.pack("!HHHH", 68, 67, 8, 0)
    mdns = struct.pack("!HHHH", 5353, 5353, 8, 0)
    assert stays_on_link(ipv4_packet(dhcp, 17, HOST4, b"\xff" * 4))
    assert not stays_on_link(ipv4_packet(mdns, 17, HOST4, b"\xff" * 4))
    later = bytearray(ipv4_packet(dhcp, 17, HOST4, b"\xff" * 4))
    later[6:8] = b"\0\x10"
    assert not stays_on_link(bytes(later)), "a later fragment has no ports"
    assert stays_on_link(ipv6_packet(struct.pack("!HHHH", 546, 547, 8, 0), 17, HOST6, GROUP6))
    assert stays_on_link(ipv6_packet(b"\x88" + bytes(23), 58, HOST6, GROUP6))
    assert stays_on_link(report3((4, GROUP4, ()))) and stays_on_link(report_mld2((4, GROUP6, ())))
