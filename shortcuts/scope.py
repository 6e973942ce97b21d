"""How far an underlay address reaches: this host, this link, a private network, behind a carrier, everywhere.

Pure; says nothing about whether a packet would arrive. Documentation and benchmarking ranges count as public: nobody
routes them, but whoever builds a network of them in a laboratory means the Internet.
Sources: RFC 1918, RFC 4193 (private), RFC 6598 (shared, carrier-grade NAT), RFC 3927 and RFC 4291 (link-local).
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final


class Scope(IntEnum):
    """Wider is more."""

    LOOPBACK = 0
    LINK_LOCAL = 1
    PRIVATE = 2
    SHARED = 3
    PUBLIC = 4


_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
_SHARED: Final = ip_network("100.64.0.0/10")


@lru_cache(maxsize=4096)
def scope_of(address: str) -> Scope:
    """The scope of an IPv4 or IPv6 address in canonical text. Raises ValueError for any other text."""
    parsed = ip_address(address)
    if parsed.is_loopback:
        return Scope.LOOPBACK
    if parsed.is_link_local:
        return Scope.LINK_LOCAL
    if any(parsed in network for network in _PRIVATE if network.version == parsed.version):
        return Scope.PRIVATE
    return Scope.SHARED if parsed.version == 4 and parsed in _SHARED else Scope.PUBLIC


def is_ipv6(address: str) -> bool:
    return ":" in address
