"""IGMP: how hosts say which IPv4 groups they want, and how a router asks them. Pure: packets in, values out, and back.

Reads versions 1, 2 and 3; a version 1 or 2 report is what version 3 says as "exclude nothing", a leave as "include
nothing". Queries of others are only recognized. Never sends, keeps no state (that is `ipop.membership`). Sources: RFC
1112 appendix I, RFC 2236, RFC 3376 sections 4.1 and 4.2, RFC 2113 (router alert).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from ipop.ethernet import IPV4_HEADER_BYTES, UNSPECIFIED4, BadFrame, Ipv4Header, checksum

PROTOCOL_IGMP = 2
ALL_HOSTS = b"\xe0\x00\x00\x01"
MAX_RECORDS = 64  # of one report: what an Ethernet frame's 1500 bytes hold is more, but no host of ours sends it
MAX_SOURCES = 64  # of one record
TTL = 1

_QUERY, _REPORT1, _REPORT2, _LEAVE, _REPORT3 = 0x11, 0x12, 0x16, 0x17, 0x22
_ROUTER_ALERT = b"\x94\x04\x00\x00"
_INTERNETWORK_CONTROL = 0xC0
_HEADER_BYTES = 8
_RECORD_BYTES = 8


class Change(IntEnum):
    """What a record says of a group and its sources (RFC 3376, section 4.2.12; RFC 3810, section 5.2.12)."""

    IS_INCLUDE = 1
    IS_EXCLUDE = 2
    TO_INCLUDE = 3
    TO_EXCLUDE = 4
    ALLOW = 5
    BLOCK = 6


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """One group in a report. `old`: from a host that knows no source filters (IGMPv2 or MLDv1)."""

    change: Change
    group: bytes
    sources: tuple[bytes, ...] = ()
    old: bool = False


def is_igmp(packet: bytes) -> bool:
    """Whether an IPv4 packet, there at least as far as its fixed header, is IGMP."""
    return packet[0] >> 4 == 4 and packet[9] == PROTOCOL_IGMP


def read_report(packet: bytes) -> tuple[GroupRecord, ...]:
    """What an IGMP packet of a host says; nothing for a query. Raises BadFrame for what the RFCs tell to ignore."""
    header = Ipv4Header.parse(packet)
    if header.protocol != PROTOCOL_IGMP or header.fragment_offset_bytes or header.more_fragments:
        raise BadFrame("no whole IGMP packet")
    message = packet[header.header_bytes : header.total_bytes]
    if len(message) < _HEADER_BYTES:
        raise BadFrame(f"an IGMP message of {len(message)} bytes")
    if checksum(message) != 0:
        raise BadFrame("an IGMP message with a wrong checksum")
    kind = message[0]
    if kind == _REPORT3:
        return _records(message)
    if kind in (_REPORT1, _REPORT2):
        return (GroupRecord(Change.IS_EXCLUDE, _group(message[4:8]), old=True),)
    if kind == _LEAVE:
        return (GroupRecord(Change.TO_INCLUDE, _group(message[4:8]), old=True),)
    if kind == _QUERY:
        return ()
    raise BadFrame(f"an IGMP message of type {kind:#04x}")


def query(
    group: bytes | None = None,
    sources: tuple[bytes, ...] = (),
    *,
    response_s: float,
    robustness: int,
    interval_s: float,
    source: bytes = UNSPECIFIED4,
) -> bytes:
    """An IGMPv3 query, as an IP packet: general, for one group, or for one group's `sources`. From 0.0.0.0 by default:
    so it never becomes the querier where there is another (RFC 4541, section 2.1.1)."""
    body = struct.pack(
        "!BBH4sBBH",
        _QUERY,
        timer_code(round(response_s * 10)),
        0,
        group or UNSPECIFIED4,
        robustness & 7,
        timer_code(round(interval_s)),
        len(sources),
    ) + b"".join(sources)
    message = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    total = IPV4_HEADER_BYTES + len(_ROUTER_ALERT) + len(message)
    fields = struct.pack("!BBHHHBBH", 0x46, _INTERNETWORK_CONTROL, total, 0, 0x4000, TTL, PROTOCOL_IGMP, 0)
    ends = source + (group or ALL_HOSTS) + _ROUTER_ALERT
    return fields[:10] + checksum(fields + ends).to_bytes(2, "big") + ends + message


def timer_code(value: int) -> int:
    """A time of at most 31,744 units as one byte: linear below 128, then with an exponent (RFC 3376, section 4.1.1)."""
    if value < 128:
        return max(value, 0)
    exponent = min(7, max(0, value.bit_length() - 8))
    return 0x80 | exponent << 4 | min(15, (value >> (exponent + 3)) - 16)


def _group(address: bytes) -> bytes:
    if address[0] & 0xF0 != 0xE0:
        raise BadFrame("an IGMP report names an address that is no group")
    return address


def _records(message: bytes) -> tuple[GroupRecord, ...]:
    count = message[6] << 8 | message[7]
    if count > MAX_RECORDS:
        raise BadFrame(f"an IGMP report of {count} groups, more than {MAX_RECORDS}")
    return read_records(message, _HEADER_BYTES, count, 4)


def read_records(message: bytes, at: int, count: int, address_bytes: int) -> tuple[GroupRecord, ...]:
    """The group records of an IGMPv3 or MLDv2 report, which differ in the length of addresses only. Records of unknown
    kinds are skipped. Raises BadFrame."""
    records = []
    for _ in range(count):
        start = at + 4 + address_bytes
        if start > len(message):
            raise BadFrame("a report ends within a record")
        kind, auxiliary, source_count = message[at], message[at + 1], message[at + 2] << 8 | message[at + 3]
        end = start + source_count * address_bytes
        if end + auxiliary * 4 > len(message):
            raise BadFrame("a report ends within a record's sources")
        group = message[at + 4 : start]
        at = end + auxiliary * 4
        if group[0] != 0xFF if address_bytes == 16 else group[0] & 0xF0 != 0xE0:
            raise BadFrame("a report names an address that is no group")
        if not 1 <= kind <= 6:
            continue
        if source_count > MAX_SOURCES:
            # More than anybody filters by here: taken for the wish to have them all.
            records.append(GroupRecord(Change.IS_EXCLUDE, group))
            continue
        sources = tuple(message[each : each + address_bytes] for each in range(start, end, address_bytes))
        records.append(GroupRecord(Change(kind), group, sources))
    return tuple(records)
