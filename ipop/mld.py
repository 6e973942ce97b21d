"""MLD: what IGMP is for IPv4, for IPv6 groups. Pure: packets in, values out, and back.

Reads versions 1 and 2, in the words of `ipop.igmp`. Never sends, keeps no state. Sources: RFC 2710, RFC 3810 sections
5.1 and 5.2, RFC 2711 (router alert).
"""

from __future__ import annotations

import struct

from ipop.ethernet import IPV6_HEADER_BYTES, PROTOCOL_ICMP6, UNSPECIFIED6, BadFrame, Ipv6Header, checksum6, ipv6_packet
from ipop.igmp import MAX_RECORDS, Change, GroupRecord, read_records, timer_code

ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"
# Queries must come from a link-local address (RFC 3810, section 5.1.14), which nobody else here has.
QUERIER = b"\xfe\x80" + bytes(11) + b"mld"

_QUERY, _REPORT1, _DONE, _REPORT2 = 130, 131, 132, 143
_KINDS = frozenset({_QUERY, _REPORT1, _DONE, _REPORT2})
_HOP_BY_HOP = 0
_ROUTER_ALERT = b"\x05\x02\x00\x00\x01\x00"  # MLD, then PadN to eight bytes
_MESSAGE1_BYTES = 24
_RECORDS_AT = 8
_ADDRESS_BYTES = 16


def is_mld(packet: bytes) -> bool:
    """Whether an IPv6 packet, there at least as far as its fixed header, is MLD, by whatever rules it breaks."""
    if packet[0] >> 4 != 6:
        return False
    at, protocol = _upper(packet)
    return protocol == PROTOCOL_ICMP6 and len(packet) > at and packet[at] in _KINDS


def read_report(packet: bytes) -> tuple[GroupRecord, ...]:
    """What an MLD packet of a host says; nothing for a query. Raises BadFrame for what the RFCs tell to ignore."""
    header = Ipv6Header.parse(packet)
    at, protocol = _upper(packet[: header.total_bytes])
    message = packet[at : header.total_bytes]
    if protocol != PROTOCOL_ICMP6 or len(message) < _RECORDS_AT or message[0] not in _KINDS:
        raise BadFrame("no MLD message")
    link_local = header.source[0] == 0xFE and header.source[1] & 0xC0 == 0x80
    if header.hop_limit != 1 or not (link_local or header.source == UNSPECIFIED6):
        raise BadFrame("an MLD message that did not begin on this link")
    if checksum6(header.source, header.destination, PROTOCOL_ICMP6, message) != 0:
        raise BadFrame("an MLD message with a wrong checksum")
    if message[0] == _QUERY:
        return ()
    if message[0] == _REPORT2:
        count = message[6] << 8 | message[7]
        if count > MAX_RECORDS:
            raise BadFrame(f"an MLD report of {count} groups, more than {MAX_RECORDS}")
        return read_records(message, _RECORDS_AT, count, _ADDRESS_BYTES)
    group = message[8:_MESSAGE1_BYTES]
    if len(group) < _ADDRESS_BYTES or group[0] != 0xFF:
        raise BadFrame("an MLD message names an address that is no group")
    change = Change.IS_EXCLUDE if message[0] == _REPORT1 else Change.TO_INCLUDE
    return (GroupRecord(change, group, old=True),)


def query(
    group: bytes | None = None,
    sources: tuple[bytes, ...] = (),
    *,
    response_s: float,
    robustness: int,
    interval_s: float,
    source: bytes = QUERIER,
) -> bytes:
    """An MLDv2 query, as an IP packet: general, for one group, or for one group's `sources`."""
    body = struct.pack(
        "!BBHHH16sBBH",
        _QUERY,
        0,
        0,
        _response_code(round(response_s * 1000)),
        0,
        group or UNSPECIFIED6,
        robustness & 7,
        timer_code(round(interval_s)),
        len(sources),
    ) + b"".join(sources)
    destination = group or ALL_NODES
    total = checksum6(source, destination, PROTOCOL_ICMP6, body)
    message = body[:2] + total.to_bytes(2, "big") + body[4:]
    hop_by_hop = bytes((PROTOCOL_ICMP6, 0)) + _ROUTER_ALERT
    return ipv6_packet(hop_by_hop + message, _HOP_BY_HOP, source, destination, 1)


def _response_code(milliseconds: int) -> int:
    """As `timer_code`, in two bytes (RFC 3810, section 5.1.3)."""
    if milliseconds < 1 << 15:
        return max(milliseconds, 0)
    exponent = min(7, milliseconds.bit_length() - 16)
    return 0x8000 | exponent << 12 | min(0xFFF, (milliseconds >> (exponent + 3)) - 0x1000)


def _upper(packet: bytes) -> tuple[int, int]:
    """Where the message begins, and its protocol: a hop-by-hop header, the only one that MLD has, is passed over."""
    if packet[6] != _HOP_BY_HOP or len(packet) < IPV6_HEADER_BYTES + 8:
        return IPV6_HEADER_BYTES, packet[6]
    return IPV6_HEADER_BYTES + 8 + packet[IPV6_HEADER_BYTES + 1] * 8, packet[IPV6_HEADER_BYTES]
