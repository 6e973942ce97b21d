"""Many datagrams in one system call: what the kernel's UDP_SEGMENT and UDP_GRO need. † Shell module.

A *batch* is what one call carries: datagrams of one size, the last perhaps shorter. Sends nothing itself, and never
looks into datagrams. Sources: udp(7); the kernel's net/ipv4/udp.c for the limits and for what its errors mean.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache

MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS, before kernel 6.11
MAX_BATCH_BYTES = 65_507  # what one IPv4 datagram can hold

# EIO: the device can't fill in checksums. The others: an old kernel, or a socket that isn't UDP's own.
WITHOUT_SEGMENTS = (errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT)
# The route carries less than one segment: each must be sent by itself, in fragments.
TOO_LARGE_FOR_ROUTE = (errno.EINVAL, errno.EMSGSIZE)

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104

Note = tuple[int, int, bytes]  # a piece of ancillary data


def takes_segments(opened: socket.socket) -> bool:
    """Whether this socket can send batches."""
    try:
        opened.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


def gives_batches(opened: socket.socket) -> bool:
    """Ask for batches from this socket; whether it will give them."""
    try:
        opened.setsockopt(_SOL_UDP, _UDP_GRO, 1)
    except OSError:
        return False
    return True


@lru_cache(maxsize=256)
def segment_note(size: int) -> Note:
    """Tells `sendmsg` where to cut."""
    return _SOL_UDP, _UDP_SEGMENT, struct.pack("=H", size)


def gives_classes(opened: socket.socket) -> None:
    """Ask for the traffic class of what this socket receives. Where it won't tell, all is class 0."""
    with suppress(OSError):
        if opened.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)


@lru_cache(maxsize=512)
def class_note(family: int, traffic_class: int) -> Note:
    """Tells `sendmsg` the traffic class."""
    if family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("=i", traffic_class)
    return socket.IPPROTO_IP, socket.IP_TOS, struct.pack("=i", traffic_class)


def read_notes(ancillary: Sequence[Note]) -> tuple[int, int]:
    """Where what `recvmsg` gave is to be cut, 0 when it is one datagram; and its traffic class. The kernel puts only
    datagrams of one class together."""
    size = traffic_class = 0
    for level, kind, content in ancillary:
        if kind == _UDP_GRO and level == _SOL_UDP:
            size = int.from_bytes(content[:4], sys.byteorder)
        elif (kind == socket.IP_TOS and level == socket.IPPROTO_IP) or (
            kind == socket.IPV6_TCLASS and level == socket.IPPROTO_IPV6
        ):
            traffic_class = int.from_bytes(content[:4], sys.byteorder) & 0xFF
    return size, traffic_class


def batches(datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """`datagrams`, in order, in as few batches as the kernel takes."""
    begin, count = 0, len(datagrams)
    while begin < count:
        size = len(datagrams[begin])
        end = begin + 1
        # An empty datagram goes alone: the kernel can't cut by 0.
        most = min(count, begin + max(1, min(MAX_SEGMENTS, MAX_BATCH_BYTES // size if size else 1)))
        while end < most and len(datagrams[end]) == size:
            end += 1
        if end < most and 0 < len(datagrams[end]) < size:
            end += 1
        yield datagrams[begin:end]
        begin = end
