"""Virtual source addresses that peers have proved to hold, each with the Ethernet header its packets get here.

A certificate is looked at once for an address; from then on `known` answers. Never looks into packets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address

from dht.certificate import Member
from ipop.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from ipop.neighbor import Segment, mac_for
from ipop.resolve import Address

MAX_ORIGINS = 8192


class Origin:
    """A virtual address that a peer's certificate proves."""

    __slots__ = ("header", "member")

    def __init__(self, member: Member, header: bytes) -> None:
        self.member, self.header = member, header


class Origins:
    """By raw address, in `known`. `learn(address, member)` is told of each new one."""

    def __init__(
        self, segment: Segment, own_mac: bytes, learn: Callable[[Address, Member], None], counters: Counter[str]
    ) -> None:
        self._segment, self._own_mac, self._learn, self._counters = segment, own_mac, learn, counters
        self.known: dict[bytes, Origin] = {}

    def of(self, member: Member, source: bytes, destination: bytes, hop_limit: int) -> Origin | None:
        """What is known of `source`, learned now if need be; None, and counted, when `member` does not hold it,
        `destination` isn't ours, or the packet should not exist any more."""
        if not hop_limit:
            self._counters["inner_ttl_expired"] += 1
            return None
        if not self._segment.is_own(destination):
            self._counters["inner_destination_refused"] += 1
            return None
        origin = self.known.get(source)
        if origin is not None and origin.member is member:
            return origin
        address = ip_address(source)
        if not member.holds(address):
            self._counters["inner_source_refused"] += 1
            return None
        if len(self.known) >= MAX_ORIGINS:
            self.known.clear()
        ethertype = ETHERTYPE_IPV4 if len(source) == 4 else ETHERTYPE_IPV6
        origin = self.known[source] = Origin(member, self._own_mac + mac_for(source) + ethertype)
        self._learn(address, member)
        return origin
