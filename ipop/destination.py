"""How far a packet for many goes: by its destination, and by what it is. Pure.

| destination | goes to |
|---|---|
| 224.0.0.0/24, ff02::/16, 255.255.255.255, the subnet's broadcast address | every member: this is one link |
| any other group | the members whose hosts want it |
| ff00::/16, ff01::/16 | nobody: such packets never leave a host (RFC 4291, section 2.7) |

Some packets stay on the TAP whatever their destination: IGMP and MLD, answered here; neighbour discovery, as there is
no Ethernet between the nodes; DHCP, for a host that asks everywhere for an address must not get one from somebody
else's network. Sources: RFC 5771, RFC 4291, RFC 1112 section 6.4, RFC 2464 section 7.
"""

from __future__ import annotations

from enum import Enum, auto

from ipop.ethernet import BROADCAST4, BROADCAST_MAC, IPV6_HEADER_BYTES, PROTOCOL_ICMP6, is_multicast
from ipop.igmp import is_igmp
from ipop.mld import is_mld

PROTOCOL_UDP = 17
_DHCP4 = frozenset({67, 68})
_DHCP6 = frozenset({546, 547})
_INTERFACE_LOCAL, _LINK_LOCAL = 1, 2


class Reach(Enum):
    """Who is meant by a destination address."""

    ONE = auto()
    NOBODY = auto()
    EVERYBODY = auto()
    SUBSCRIBERS = auto()


def reach_of(destination: bytes, broadcast4: bytes) -> Reach:
    """`broadcast4`: the subnet's own broadcast address, empty when it has none."""
    if len(destination) == 4:
        if destination in (BROADCAST4, broadcast4) or destination[:3] == b"\xe0\x00\x00":
            return Reach.EVERYBODY
        return Reach.SUBSCRIBERS if is_multicast(destination) else Reach.ONE
    if destination[0] != 0xFF:
        return Reach.ONE
    scope = destination[1] & 15
    if scope <= _INTERFACE_LOCAL:
        return Reach.NOBODY
    return Reach.EVERYBODY if scope == _LINK_LOCAL else Reach.SUBSCRIBERS


def is_membership(packet: bytes) -> bool:
    """Whether a packet, there at least as far as its fixed header, is IGMP or MLD."""
    return is_igmp(packet) or is_mld(packet)


def is_discovery(packet: bytes) -> bool:
    """Whether this is IPv6 neighbour discovery (RFC 4861), which stays on its own link."""
    return (
        len(packet) > IPV6_HEADER_BYTES
        and packet[0] >> 4 == 6
        and packet[6] == PROTOCOL_ICMP6
        and 133 <= packet[40] <= 137
    )


def stays_on_link(packet: bytes) -> bool:
    """Whether a packet, there at least as far as its fixed header, must not leave the TAP it came from, nor come to it
    from elsewhere."""
    if is_membership(packet):
        return True
    if packet[0] >> 4 == 4:
        if packet[6] & 0x1F or packet[7]:
            return False  # Not the first fragment: no ports in it.
        at, protocol, dhcp = (packet[0] & 15) << 2, packet[9], _DHCP4
    else:
        at, protocol, dhcp = IPV6_HEADER_BYTES, packet[6], _DHCP6
        if is_discovery(packet):
            return True
    return protocol == PROTOCOL_UDP and int.from_bytes(packet[at + 2 : at + 4], "big") in dhcp


def mac_of(destination: bytes) -> bytes:
    """The hardware address to which hosts listen for a group or a broadcast address."""
    if len(destination) == 16:
        return b"\x33\x33" + destination[12:]
    if not is_multicast(destination):
        return BROADCAST_MAC
    return bytes((0x01, 0x00, 0x5E, destination[1] & 0x7F)) + destination[2:]
