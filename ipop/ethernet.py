"""Ethernet II frames, and the headers of the IPv4 and IPv6 packets they carry. Pure: bytes in, bytes out.

Addresses are raw bytes here (4, 6 or 16 of them): these functions run once a packet, and `ipaddress` objects
would cost more than the encryption. Nothing here verifies the IPv4 header checksum or anything above IP: the
stack that gets the packet does. Sources: IEEE 802.3 clause 3 (Ethernet II), RFC 791, RFC 8200, RFC 1071.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import NamedTuple

from dht.errors import BadDatagram

ETHERNET_HEADER_BYTES = 14
IPV4_HEADER_BYTES = 20
IPV6_HEADER_BYTES = 40
MAC_BYTES = 6

ETHERTYPE_IPV4 = b"\x08\x00"
ETHERTYPE_ARP = b"\x08\x06"
ETHERTYPE_IPV6 = b"\x86\xdd"

BROADCAST_MAC = b"\xff" * MAC_BYTES
BROADCAST4 = b"\xff" * 4
UNSPECIFIED4 = bytes(4)
UNSPECIFIED6 = bytes(16)

PROTOCOL_ICMP = 1
PROTOCOL_ICMP6 = 58

DEFAULT_TTL = 64


class BadFrame(Exception):
    """A frame from our own stack that the virtual network does not carry; the text says why."""


class Ethernet(NamedTuple):
    """An Ethernet II frame taken apart."""

    destination: bytes
    source: bytes
    ethertype: bytes
    payload: bytes

    @classmethod
    def parse(cls, frame: bytes) -> Ethernet:
        if len(frame) < ETHERNET_HEADER_BYTES:
            raise BadFrame(f"a frame of {len(frame)} bytes has no Ethernet header")
        return cls(frame[:6], frame[6:12], frame[12:14], frame[14:])

    def pack(self) -> bytes:
        return self.destination + self.source + self.ethertype + self.payload


# --- one call a packet -------------------------------------------------------------------------------------


def _length(packet: bytes) -> int:
    """How long the header says the packet is. Raises BadFrame unless header and buffer have room for that."""
    present = len(packet)
    if present < IPV4_HEADER_BYTES:
        raise BadFrame(f"{present} bytes are too few for an IP packet")
    first = packet[0]
    if first >> 4 == 4:
        header = (first & 15) << 2
        total = packet[2] << 8 | packet[3]
        if header < IPV4_HEADER_BYTES or total < header:
            raise BadFrame(f"an IPv4 packet says {header} bytes of header in {total} bytes in total")
    elif first >> 4 == 6:
        total = IPV6_HEADER_BYTES + (packet[4] << 8 | packet[5])
    else:
        raise BadFrame(f"IP version {first >> 4}")
    if total > present:
        raise BadFrame(f"an IP packet says {total} bytes, and {present} came")
    return total


def unwrap(frame: bytes) -> tuple[bytes, bytes, bytes]:
    """The IP packet in a frame of our own stack, its source and its destination; padding is cut off.
    Raises BadFrame for anything else than an IP packet."""
    packet = frame[ETHERNET_HEADER_BYTES:]
    total = _length(packet)
    if packet[0] >> 4 == 4:
        if frame[12:14] != ETHERTYPE_IPV4:
            raise BadFrame(f"ethertype {frame[12:14].hex()} is not carried")
        source, destination = packet[12:16], packet[16:20]
    else:
        if frame[12:14] != ETHERTYPE_IPV6:
            raise BadFrame(f"ethertype {frame[12:14].hex()} is not carried")
        source, destination = packet[8:24], packet[24:40]
    return (packet if len(packet) == total else packet[:total]), source, destination


def ip_ends(packet: bytes) -> tuple[bytes, bytes]:
    """Source and destination of an IP packet that a peer sent. Raises BadDatagram unless it is exactly one packet."""
    try:
        total = _length(packet)
    except BadFrame as fault:
        raise BadDatagram(str(fault)) from None
    if total != len(packet):
        raise BadDatagram(f"an IP packet says {total} bytes, and {len(packet)} came")
    if packet[0] >> 4 == 4:
        return packet[12:16], packet[16:20]
    return packet[8:24], packet[24:40]


def hop_limit(packet: bytes) -> int:
    """The hop limit, or time to live, of an IP packet that is there at least as far as its fixed header."""
    return packet[8] if packet[0] >> 4 == 4 else packet[7]


def ip_source(packet: bytes) -> bytes:
    """The source address of a peer's packet, 4 or 16 bytes; checks as `ip_ends`."""
    return ip_ends(packet)[0]


def ip_destination(packet: bytes) -> bytes:
    """The destination address of a peer's packet, 4 or 16 bytes; checks as `ip_ends`."""
    return ip_ends(packet)[1]


def wrap(packet: bytes, destination_mac: bytes, source_mac: bytes) -> bytes:
    """A frame around an IP packet that has been checked; its version chooses the ethertype."""
    return b"".join((destination_mac, source_mac, ETHERTYPE_IPV4 if packet[0] < 0x50 else ETHERTYPE_IPV6, packet))


def is_multicast(address: bytes) -> bool:
    """Whether a raw IPv4 or IPv6 address names a group: 224.0.0.0/4 or ff00::/8."""
    return address[0] & 0xF0 == 0xE0 if len(address) == 4 else address[0] == 0xFF


# --- now and then ------------------------------------------------------------------------------------------


def address_text(address: bytes) -> str:
    """Canonical text of a raw address, for logs and people."""
    return str(ipaddress.ip_address(address))


def checksum(data: bytes) -> int:
    """The Internet checksum of `data` (RFC 1071); 0 over data that holds a right checksum already."""
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    # The ones' complement sum of 16-bit words is the number modulo 65535, where a non-zero sum shows as 65535.
    total = number % 0xFFFF or (0xFFFF if number else 0)
    return 0xFFFF - total


def checksum6(source: bytes, destination: bytes, protocol: int, payload: bytes) -> int:
    """The checksum of an upper-layer packet over IPv6: with the pseudo-header of RFC 8200, section 8.1."""
    return checksum(source + destination + struct.pack("!IxxxB", len(payload), protocol) + payload)


@dataclass(frozen=True, slots=True)
class Ipv4Header:
    """The fields of an IPv4 header that this project looks at."""

    header_bytes: int
    total_bytes: int
    traffic_class: int
    dont_fragment: bool
    more_fragments: bool
    fragment_offset_bytes: int
    ttl: int
    protocol: int
    source: bytes
    destination: bytes

    @classmethod
    def parse(cls, packet: bytes) -> Ipv4Header:
        """Raises BadFrame unless `packet` begins with an IPv4 packet that is all there."""
        total = _length(packet)
        if packet[0] >> 4 != 4:
            raise BadFrame("not an IPv4 packet")
        fragment = packet[6] << 8 | packet[7]
        return cls(
            header_bytes=(packet[0] & 15) << 2,
            total_bytes=total,
            traffic_class=packet[1],
            dont_fragment=bool(fragment & 0x4000),
            more_fragments=bool(fragment & 0x2000),
            fragment_offset_bytes=(fragment & 0x1FFF) << 3,
            ttl=packet[8],
            protocol=packet[9],
            source=packet[12:16],
            destination=packet[16:20],
        )


@dataclass(frozen=True, slots=True)
class Ipv6Header:
    """The fixed header of an IPv6 packet; extension headers count as payload."""

    total_bytes: int
    traffic_class: int
    next_header: int
    hop_limit: int
    source: bytes
    destination: bytes

    @classmethod
    def parse(cls, packet: bytes) -> Ipv6Header:
        """Raises BadFrame unless `packet` begins with an IPv6 packet that is all there."""
        total = _length(packet)
        if packet[0] >> 4 != 6:
            raise BadFrame("not an IPv6 packet")
        return cls(
            total_bytes=total,
            traffic_class=(packet[0] & 15) << 4 | packet[1] >> 4,
            next_header=packet[6],
            hop_limit=packet[7],
            source=packet[8:24],
            destination=packet[24:40],
        )


def ipv4_packet(
    payload: bytes, protocol: int, source: bytes, destination: bytes, ttl: int = DEFAULT_TTL, traffic_class: int = 0
) -> bytes:
    """An IPv4 packet without options that may not be fragmented, with its header checksum."""
    # Identification 0 is right for a packet that is never fragmented (RFC 6864, section 4.1).
    total = IPV4_HEADER_BYTES + len(payload)
    fields = struct.pack("!BBHHHBBH", 0x45, traffic_class, total, 0, 0x4000, ttl, protocol, 0)
    sum_bytes = checksum(fields + source + destination).to_bytes(2, "big")
    return fields[:10] + sum_bytes + source + destination + payload


def ipv6_packet(
    payload: bytes,
    next_header: int,
    source: bytes,
    destination: bytes,
    hop_limit: int = DEFAULT_TTL,
    traffic_class: int = 0,
) -> bytes:
    """An IPv6 packet with flow label 0."""
    fields = struct.pack("!IHBB", 6 << 28 | traffic_class << 20, len(payload), next_header, hop_limit)
    return fields + source + destination + payload
