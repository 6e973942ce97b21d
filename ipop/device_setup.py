"""Gives a new TAP device its addresses, over netlink. † Shell module.

Only `ipop.device` uses it, in a short-lived process, so that a running node doesn't hold pyroute2. It never changes
another interface than the one it is told, and never runs a program. Source: the kernel's
Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from dht.session import OVERHEAD_BYTES
from dht.udp_batch import MAX_BATCH_BYTES, MAX_SEGMENTS
from ipop.errors import SetupError
from ipop.superpacket import SEGMENT_BYTES

log = logging.getLogger(__name__)

_AF_INET = 2
_AF_INET6 = 10
_MAIN_TABLE = 254
_MULTICAST4 = "224.0.0.0/4"
_FLAG_NODAD = 0x02
_ADDR_GEN_MODE_NONE = 1

# Written to /proc/sys/net/ipv6/conf/NAME/. The first must come first: Docker turns IPv6 off on new interfaces.
_SYSCTLS6 = {
    "disable_ipv6": 0,
    "accept_ra": 0,
    "autoconf": 0,
    "router_solicitations": 0,
    "accept_dad": 0,
    "dad_transmits": 0,
}

Network = IPv4Network | IPv6Network


def set_up(
    name: str,
    address4: IPv4Address,
    subnet: IPv4Network,
    address6: IPv6Address,
    prefix6: IPv6Network,
    mac: bytes,
    mtu: int,
    room_bytes: int,
    multicast_route: bool = False,
) -> bool:
    """Give the device its addresses and bring it up. Returns whether it speaks IPv6. Raises SetupError."""
    try:
        with IPRoute() as netlink:
            index: int = netlink.link_lookup(ifname=name)[0]
            _refuse_conflicts(netlink, address4, subnet)
            _refuse_conflicts(netlink, address6, prefix6)
            netlink.link("set", index=index, address=mac.hex(":"), mtu=mtu)
            _quieten(netlink, index, name)
            _bound_super_packets(netlink, index, mtu, room_bytes)
            netlink.addr("add", index=index, address=str(address4), prefixlen=subnet.prefixlen)
            ipv6 = _add_address6(netlink, index, address6, prefix6)
            netlink.link("set", index=index, state="up")
            if multicast_route:
                # With its source: of several addresses, the kernel might choose one that nobody here takes.
                netlink.route("add", dst=_MULTICAST4, oif=index, prefsrc=str(address4), scope="link")
            return ipv6
    except NetlinkError as error:
        raise SetupError(f"cannot configure TAP device '{name}': {_why(error.code)}") from error


def _add_address6(netlink: Any, index: int, address6: IPv6Address, prefix6: IPv6Network) -> bool:
    try:
        # No duplicate address detection: the authority gives an address once, and nobody would answer.
        netlink.addr("add", index=index, address=str(address6), prefixlen=prefix6.prefixlen, flags=_FLAG_NODAD)
    except NetlinkError as error:
        if error.code not in (errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPERM):
            raise
        # EACCES is what the kernel says when the interface has IPv6 turned off.
        log.warning("no IPv6 in this network: it is turned off on this machine (%s)", os.strerror(error.code))
        return False
    return True


def _why(code: int) -> str:
    if code in (errno.EPERM, errno.EACCES):
        return "this needs root or the capability CAP_NET_ADMIN"
    return os.strerror(code)


def super_packet_segments(mtu: int, room_bytes: int) -> int:
    """How many segments, as the kernel cuts, make no more datagrams than one system call sends: the few that would be
    left over cost a call, and a frame at the other end, each time."""
    headers_bytes = 52  # IPv4, TCP, time stamps
    ours = min(SEGMENT_BYTES + mtu, room_bytes)
    datagrams = min(MAX_SEGMENTS, MAX_BATCH_BYTES // (ours + OVERHEAD_BYTES))
    return max(1, datagrams * (ours - SEGMENT_BYTES - headers_bytes) // (mtu - headers_bytes))


def _bound_super_packets(netlink: Any, index: int, mtu: int, room_bytes: int) -> None:
    with suppress(NetlinkError):
        netlink.link("set", index=index, IFLA_GSO_MAX_SEGS=super_packet_segments(mtu, room_bytes))


def _quieten(netlink: Any, index: int, name: str) -> None:
    """Keep the kernel from talking by itself on a link where nobody listens: no link-local address (so no router
    solicitations and few multicast reports), no autoconfiguration. What fails here costs a few frames only."""
    mode = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]}
    try:
        netlink.link("set", index=index, IFLA_AF_SPEC=mode)
    except NetlinkError as error:
        log.debug("%s keeps its link-local address: %s", name, os.strerror(error.code))
    for setting, value in _SYSCTLS6.items():
        try:
            # Containers often have /proc/sys read-only.
            Path("/proc/sys/net/ipv6/conf", name, setting).write_text(str(value))
        except OSError as error:
            log.debug("%s: %s stays as it is: %s", name, setting, error.strerror)


def _refuse_conflicts(netlink: Any, address: IPv4Address | IPv6Address, network: Network) -> None:
    """Raises SetupError when our address is on another interface, or when a part of our network is routed
    elsewhere. The kernel would accept both, and traffic would silently go the wrong way."""
    family = _AF_INET if address.version == 4 else _AF_INET6
    for message in netlink.get_addr(family=family):
        present = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if present is not None and ip_address(present) == address:
            raise SetupError(
                f"address {address} is on interface '{_interface(netlink, message['index'])}' already: is this node"
                " running here? Stop it, or remove the address"
            )
    for message in netlink.get_routes(family=family, table=_MAIN_TABLE):
        target = message.get_attr("RTA_DST")
        if target is None:
            continue  # A default route, which every other route overrides.
        routed = ip_network(f"{target}/{message['dst_len']}")
        if not _overlap(routed, network):
            continue
        index = message.get_attr("RTA_OIF")
        if index and routed == network and _is_tap(netlink, index):
            raise SetupError(
                f"another node of this network runs on this machine (interface {_interface(netlink, index)}), or of one"
                f" with the same subnet {network}: stop it with 'p2pvpn down', or run this node on another machine"
            )
        where = f"to interface '{_interface(netlink, index)}'" if index else "elsewhere"
        # Of two routes the longer wins: a route wider than our network loses to ours, and that is no conflict.
        if routed.prefixlen >= network.prefixlen:
            raise SetupError(
                f"the virtual network {network} collides with {routed}, which this machine routes {where}: remove"
                " that route, or make the network with another --subnet"
            )
        log.warning("the virtual network %s hides a part of %s, routed %s", network, routed, where)


def _overlap(a: Network, b: Network) -> bool:
    if isinstance(a, IPv4Network):
        return isinstance(b, IPv4Network) and a.overlaps(b)
    return isinstance(b, IPv6Network) and a.overlaps(b)


def _is_tap(netlink: Any, index: int) -> bool:
    links = netlink.get_links(index)
    kind = links[0].get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") if links else None
    return kind in ("tun", "tap")  # The kernel says tun of both.


def _interface(netlink: Any, index: int) -> str:
    links = netlink.get_links(index)
    return str(links[0].get_attr("IFLA_IFNAME")) if links else f"number {index}"
