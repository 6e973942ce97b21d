"""Who has this address? Answers the stack's ARP requests and IPv6 neighbour solicitations on the spot.

There is no Ethernet between the nodes: only IP packets travel. The stack still wants a hardware address for
every neighbour, so each virtual address gets one made from the address itself, whether or not a node holds it;
`ipop.icmp` tells the stack when none does. Pure: never asks the network, keeps no table.
Sources: RFC 826 (ARP), RFC 5227 (probes), RFC 4861 sections 4.3, 4.4, 7.1.1 and 7.2.4 (neighbour discovery).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2s
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ipop.ethernet import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    IPV6_HEADER_BYTES,
    PROTOCOL_ICMP6,
    UNSPECIFIED4,
    UNSPECIFIED6,
    BadFrame,
    Ipv6Header,
    checksum6,
    ipv6_packet,
)

# Both have the "locally administered" bit, so that no bought network card has such an address.
MAC4_PREFIX = b"\x02\x50"
MAC6_PREFIX = b"\x02\x56"

_ARP_FOR_IPV4_OVER_ETHERNET = b"\x00\x01\x08\x00\x06\x04"
_ARP_REQUEST = b"\x00\x01"
_ARP_REPLY = b"\x00\x02"
_ARP_FRAME_BYTES = 42

_SOLICITATION = 135
_ADVERTISEMENT = 136
_SOLICITATION_BYTES = 24
_SOURCE_LINK_ADDRESS = 1
_TARGET_LINK_ADDRESS = 2
_NEIGHBOR_HOP_LIMIT = 255  # Proof that no router passed it on.
_SOLICITED_AND_OVERRIDE = 0x60000000


@lru_cache(maxsize=4096)
def mac_for(address: bytes) -> bytes:
    """The hardware address by which the stack knows a virtual address (4 or 16 raw bytes)."""
    if len(address) == 4:
        return MAC4_PREFIX + address
    return MAC6_PREFIX + blake2s(address, digest_size=4).digest()


class Segment:
    """The virtual Ethernet as one node sees it: its own addresses, and which others are on the link."""

    __slots__ = ("_first4", "_last4", "_prefix6", "_shift6", "broadcast4", "own4", "own6")

    def __init__(self, address4: IPv4Address, subnet: IPv4Network, address6: IPv6Address, prefix6: IPv6Network) -> None:
        self.own4 = address4.packed
        self.own6 = address6.packed
        # Networks of one or two addresses have neither network nor broadcast address (RFC 3021).
        small = subnet.prefixlen >= 31
        self.broadcast4 = b"" if small else subnet.broadcast_address.packed
        self._first4 = int(subnet.network_address) + (not small)
        self._last4 = int(subnet.broadcast_address) - (not small)
        self._shift6 = 128 - prefix6.prefixlen
        self._prefix6 = int(prefix6.network_address) >> self._shift6

    def is_neighbor(self, address: bytes) -> bool:
        """Whether a raw address may belong to another node of the network: never our own, never a group, the
        broadcast address or the address of the network itself."""
        if len(address) == 4:
            return self._first4 <= int.from_bytes(address, "big") <= self._last4 and address != self.own4
        number = int.from_bytes(address, "big")
        if number >> self._shift6 != self._prefix6 or address == self.own6:
            return False
        # All zeros after the prefix is the routers' anycast address (RFC 4291, section 2.6.1).
        return self._shift6 == 0 or number != self._prefix6 << self._shift6

    def is_own(self, address: bytes) -> bool:
        return address == self.own4 or address == self.own6


def answer(frame: bytes, own: Segment) -> bytes | None:
    """The frame that answers an ARP request or a neighbour solicitation of our own stack; None for any other
    frame, and for questions about addresses that are no neighbour's."""
    ethertype = frame[12:14]
    if ethertype == ETHERTYPE_ARP:
        return _answer_arp(frame, own)
    if ethertype == ETHERTYPE_IPV6 and frame[20:21] == b"\x3a" and frame[54:55] == b"\x87":
        return _answer_solicitation(frame, own)
    return None


def _answer_arp(frame: bytes, own: Segment) -> bytes | None:
    if len(frame) < _ARP_FRAME_BYTES or frame[14:20] != _ARP_FOR_IPV4_OVER_ETHERNET or frame[20:22] != _ARP_REQUEST:
        return None
    asking_mac, asking, target = frame[22:28], frame[28:32], frame[38:42]
    # From nobody: a probe whether the address is free. Asking for itself: an announcement. To answer either
    # would make the stack give up its own address.
    if asking in (UNSPECIFIED4, target) or not own.is_neighbor(target):
        return None
    mac = mac_for(target)
    return b"".join(
        (asking_mac, mac, ETHERTYPE_ARP, _ARP_FOR_IPV4_OVER_ETHERNET, _ARP_REPLY, mac, target, asking_mac, asking)
    )


def _answer_solicitation(frame: bytes, own: Segment) -> bytes | None:
    try:
        header = Ipv6Header.parse(frame[14:])
    except BadFrame:
        return None
    message = frame[14 + IPV6_HEADER_BYTES : 14 + header.total_bytes]
    if len(message) < _SOLICITATION_BYTES or message[1] != 0 or header.hop_limit != _NEIGHBOR_HOP_LIMIT:
        return None
    target = message[8:24]
    # As in ARP, a question from nobody is duplicate address detection, and silence means that it is free.
    if header.source == UNSPECIFIED6 or not own.is_neighbor(target):
        return None
    link_address = _source_link_address(message)
    if link_address is None or checksum6(header.source, header.destination, PROTOCOL_ICMP6, message) != 0:
        return None
    asking_mac = link_address or frame[6:12]
    mac = mac_for(target)
    packet = ipv6_packet(
        _advertisement(target, mac, header.source), PROTOCOL_ICMP6, target, header.source, _NEIGHBOR_HOP_LIMIT
    )
    return b"".join((asking_mac, mac, ETHERTYPE_IPV6, packet))


def _source_link_address(message: bytes) -> bytes | None:
    """The hardware address a solicitation gives for its sender, b"" when it gives none, None when its options
    are malformed."""
    found = b""
    at = _SOLICITATION_BYTES
    while at < len(message):
        option = message[at : at + 8]
        # Lengths count 8 bytes; a length of 0 would never end.
        if len(option) < 8 or option[1] == 0 or at + option[1] * 8 > len(message):
            return None
        if option[0] == _SOURCE_LINK_ADDRESS and option[1] == 1:
            found = option[2:]
        at += option[1] * 8
    return found


def _advertisement(target: bytes, mac: bytes, to: bytes) -> bytes:
    head = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _SOLICITED_AND_OVERRIDE)
    message = head + target + bytes((_TARGET_LINK_ADDRESS, 1)) + mac
    sum_bytes = checksum6(target, to, PROTOCOL_ICMP6, message).to_bytes(2, "big")
    return message[:2] + sum_bytes + message[4:]
