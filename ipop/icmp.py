"""Error messages to our own stack about packets that could not be carried: ICMP and ICMPv6.

Pure: builds packets (IP, without an Ethernet header) and counts tokens; never sends. Nothing here is ever said
to another node. Sources: RFC 792, RFC 1122 section 3.2.2, RFC 1191, RFC 1812 section 4.3.2, RFC 4443 section 2.4.

Choosing `source`: Linux drops an IPv4 packet that comes in by a device with one of the machine's own addresses
as its source, unless `accept_local` is set. The destination of the packet complained about always works.
"""

from __future__ import annotations

import struct
from enum import Enum

from ipop.ethernet import (
    BROADCAST4,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_ICMP,
    PROTOCOL_ICMP6,
    UNSPECIFIED6,
    BadFrame,
    Ipv4Header,
    Ipv6Header,
    checksum,
    checksum6,
    ipv4_packet,
    ipv6_packet,
    is_multicast,
)

ERROR4_BYTES = 576  # RFC 1812, section 4.3.2.3: quote as much as fits into this.
ERROR6_BYTES = 1280  # RFC 4443, section 2.4 (c): the least MTU of IPv6.
ICMP_HEADER_BYTES = 8
# These messages only cross into our own kernel. Enough for a scan of a small subnet, too few to keep a core busy.
ERRORS_PER_S = 100.0
ERRORS_AT_ONCE = 50
LEAST_MTU4 = 68  # RFC 791: every IPv4 link carries this.
LEAST_MTU6 = 1280

_UNREACHABLE4 = 3
_FRAGMENTATION_NEEDED = 4
_UNREACHABLE6 = 1
_TOO_BIG6 = 2
# Errors, and Redirect which RFC 1812 counts with them. Queries and replies may be complained about.
_ERROR_TYPES4 = frozenset({3, 4, 5, 11, 12})
_FIRST_QUERY_TYPE6 = 128
_REDIRECT6 = 137
_INTERNETWORK_CONTROL = 0xC0  # RFC 1812, section 4.3.2.5: errors are sent with this precedence.

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS, _MOBILITY = 0, 43, 44, 51, 60, 135
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS, _MOBILITY})


class Reason(Enum):
    """Why a packet was not carried: (ICMP code, ICMPv6 code) of the unreachable message that says it."""

    NETWORK = (0, 0)
    """No node at all can be reached: we are cut off from the overlay."""
    HOST = (1, 3)
    """The network is there, the node that holds this address is not."""


class Limiter:
    """A token bucket: lets `burst` events pass at once and `rate_per_s` in the long run."""

    __slots__ = ("_burst", "_rate_per_s", "_seen_at", "_tokens")

    def __init__(self, rate_per_s: float = ERRORS_PER_S, burst: int = ERRORS_AT_ONCE) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._seen_at: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more event may pass at `now`; if so, it is counted."""
        if self._seen_at is not None and now > self._seen_at:
            self._tokens = min(float(self._burst), self._tokens + (now - self._seen_at) * self._rate_per_s)
        # A clock that goes back earns nothing, and is followed: what it said before may have been far ahead.
        self._seen_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def unreachable(packet: bytes, source: bytes, reason: Reason = Reason.HOST, broadcast4: bytes = b"") -> bytes | None:
    """A destination unreachable message about `packet`, from `source` (raw, of the same family). None when the
    RFCs forbid to complain about such a packet. `broadcast4`: the subnet's broadcast address, if it has one."""
    if len(source) == 4:
        if not _may_report4(packet, broadcast4):
            return None
        return _error4(packet, source, _UNREACHABLE4, reason.value[0], 0)
    if not _may_report6(packet):
        return None
    return _error6(packet, source, _UNREACHABLE6, reason.value[1], 0)


def too_big(packet: bytes, source: bytes, mtu_bytes: int, broadcast4: bytes = b"") -> bytes | None:
    """A message that `packet` is longer than `mtu_bytes`. None when the RFCs forbid to complain, and for an IPv4
    packet that may be fragmented, where fragmenting it is the right thing to do."""
    if len(source) == 4:
        if not _may_report4(packet, broadcast4) or not Ipv4Header.parse(packet).dont_fragment:
            return None
        return _error4(packet, source, _UNREACHABLE4, _FRAGMENTATION_NEEDED, max(mtu_bytes, LEAST_MTU4))
    if not _may_report6(packet):
        return None
    return _error6(packet, source, _TOO_BIG6, 0, max(mtu_bytes, LEAST_MTU6))


def _error4(packet: bytes, source: bytes, kind: int, code: int, parameter: int) -> bytes:
    header = Ipv4Header.parse(packet)
    quoted = packet[: min(header.total_bytes, ERROR4_BYTES - IPV4_HEADER_BYTES - ICMP_HEADER_BYTES)]
    message = struct.pack("!BBHI", kind, code, 0, parameter) + quoted
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    return ipv4_packet(message, PROTOCOL_ICMP, source, header.source, traffic_class=_INTERNETWORK_CONTROL)


def _error6(packet: bytes, source: bytes, kind: int, code: int, parameter: int) -> bytes:
    header = Ipv6Header.parse(packet)
    quoted = packet[: min(header.total_bytes, ERROR6_BYTES - IPV6_HEADER_BYTES - ICMP_HEADER_BYTES)]
    message = struct.pack("!BBHI", kind, code, 0, parameter) + quoted
    sum_bytes = checksum6(source, header.source, PROTOCOL_ICMP6, message).to_bytes(2, "big")
    return ipv6_packet(message[:2] + sum_bytes + message[4:], PROTOCOL_ICMP6, source, header.source)


def _may_report4(packet: bytes, broadcast4: bytes) -> bool:
    """RFC 1812, section 4.3.2.7."""
    try:
        header = Ipv4Header.parse(packet)
    except BadFrame:
        return False
    if header.destination in (BROADCAST4, broadcast4) or is_multicast(header.destination):
        return False
    # A source that is no single host: unspecified, 0/8, loopback, multicast, class E and broadcast.
    if header.source[0] in (0, 127) or header.source[0] >= 0xE0 or header.source == broadcast4:
        return False
    if header.fragment_offset_bytes != 0:
        return False
    if header.protocol == PROTOCOL_ICMP:
        body = packet[header.header_bytes : header.total_bytes]
        return bool(body) and body[0] not in _ERROR_TYPES4
    return True


def _may_report6(packet: bytes) -> bool:
    """RFC 4443, section 2.4 (e), and as for IPv4 nothing about fragments other than the first: what they are part
    of may be an error."""
    try:
        header = Ipv6Header.parse(packet)
    except BadFrame:
        return False
    if header.source == UNSPECIFIED6 or is_multicast(header.source) or is_multicast(header.destination):
        return False
    upper = _upper_layer(packet[: header.total_bytes], header.next_header)
    if upper is None:
        return False
    protocol, body = upper
    if protocol == PROTOCOL_ICMP6:
        return bool(body) and body[0] >= _FIRST_QUERY_TYPE6 and body[0] != _REDIRECT6
    return True


def _upper_layer(packet: bytes, next_header: int) -> tuple[int, bytes] | None:
    """Protocol and bytes behind the extension headers; None for a fragment that is not the first, and when the
    chain is cut off."""
    at = IPV6_HEADER_BYTES
    while next_header in _EXTENSIONS:
        extension = packet[at : at + 8]
        if len(extension) < 8:
            return None
        if next_header == _FRAGMENT:
            if (extension[2] << 8 | extension[3]) >> 3:
                return None
            at += 8
        elif next_header == _AUTHENTICATION:  # The one that counts in units of four bytes (RFC 4302).
            at += (extension[1] + 2) * 4
        else:
            at += (extension[1] + 1) * 8
        next_header = extension[0]
    return next_header, packet[at:]
