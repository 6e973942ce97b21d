"""† Which IP addresses this machine has, and the news that they have changed: Linux rtnetlink, by hand.

A shell module for `dht.udp`. Two questions of one message type do not need a netlink library with threads and an
event loop of its own. It never changes anything on the machine, and where the kernel refuses netlink (some
containers) it knows no addresses rather than failing.

Source: rtnetlink(7), RTM_GETADDR and the multicast groups RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x10, 0x100
NLMSG_ERROR, NLMSG_DONE, RTM_NEWADDR, RTM_GETADDR = 2, 3, 20, 22
NLM_F_REQUEST, NLM_F_DUMP = 0x001, 0x300
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x08, 0x20, 0x40

SETTLE_S = 0.1  # An interface that comes up brings several addresses at once.
ANSWER_S = 1.0  # The kernel answers at once; this only bounds the damage of one that does not.
BUFFER_BYTES = 1 << 16

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, interface index
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type

log = logging.getLogger(__name__)


class Addresses:
    """The addresses of the network namespace it is made in; `changed` is called after any of them came or went.

    Both sockets are opened at once, so that they stay in that namespace whatever the thread does later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        self._loop, self._changed = loop, changed
        self._sequence = 0
        self._settling: asyncio.TimerHandle | None = None
        self._asking: socket.socket | None = None
        self._hearing: socket.socket | None = None
        try:
            self._asking = _netlink(groups=0)
            self._asking.settimeout(ANSWER_S)
            self._hearing = _netlink(groups=RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
            self._hearing.setblocking(False)
            loop.add_reader(self._hearing, self._hear)
        except OSError as error:
            log.warning("cannot ask the kernel for this machine's addresses, nor hear of changes: %s", error)

    def all(self) -> list[Address]:
        """Every usable address, in the kernel's order, those about to expire last. Empty when it will not say."""
        if self._asking is None:
            return []
        self._sequence += 1
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        length = _HEADER.size + len(body)
        found: list[tuple[bool, Address]] = []
        try:
            header = _HEADER.pack(length, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
            self._asking.send(header + body)
            while _read_addresses(self._asking.recv(BUFFER_BYTES), self._sequence, found):
                pass
        except OSError as error:
            log.warning("the kernel did not list this machine's addresses: %s", error)
        return [address for _, address in sorted(found, key=lambda entry: entry[0])]

    def close(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        if self._hearing is not None:
            self._loop.remove_reader(self._hearing)
            self._hearing.close()
        if self._asking is not None:
            self._asking.close()

    def _hear(self) -> None:
        assert self._hearing is not None
        try:
            while self._hearing.recv(BUFFER_BYTES):
                pass
        except OSError:
            # Nothing left, or more news than the buffer holds: in either case it is time to look for ourselves.
            pass
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self._changed()


def _netlink(groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened


def _read_addresses(answer: bytes, sequence: int, found: list[tuple[bool, Address]]) -> bool:
    """Add the addresses in one part of the kernel's answer to `found`; False after the last part."""
    at = 0
    while at + _HEADER.size <= len(answer):
        length, kind, _, answers, _ = _HEADER.unpack_from(answer, at)
        if length < _HEADER.size or at + length > len(answer):
            return False
        if answers == sequence:  # else it belongs to a question whose answer we gave up on
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                return False
            if kind == RTM_NEWADDR and (entry := _read_address(answer[at + _HEADER.size : at + length])):
                found.append(entry)
        at += _aligned(length)
    return bool(answer)


def _read_address(message: bytes) -> tuple[bool, Address] | None:
    """Whether an address is deprecated, and the address; None when it cannot be used (yet)."""
    if len(message) < _ADDRESS.size:
        return None
    family, _, flags, _, _ = _ADDRESS.unpack_from(message)
    attributes: dict[int, bytes] = {}
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    # On a point-to-point link IFA_ADDRESS is the other end, and IFA_LOCAL ours.
    packed = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)
    if IFA_FLAGS in attributes:
        flags = int.from_bytes(attributes[IFA_FLAGS], "little" if _LITTLE_ENDIAN else "big")
    if packed is None or flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED):
        return None
    deprecated = bool(flags & IFA_F_DEPRECATED)
    if family == socket.AF_INET and len(packed) == 4:
        return deprecated, ipaddress.IPv4Address(packed)
    if family == socket.AF_INET6 and len(packed) == 16:
        return deprecated, ipaddress.IPv6Address(packed)
    return None


_LITTLE_ENDIAN = struct.pack("=H", 1) == b"\x01\x00"


def _aligned(length: int) -> int:
    return (length + 3) & ~3
