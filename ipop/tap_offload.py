"""Asks the kernel what it will leave to the program behind a TAP device. † Shell module.

Each step down is probed, because kernels differ: without UDP super-packets before 6.2, without any in some
containers. Source: the kernel's drivers/net/tun.c and include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import fcntl
import struct

from ipop.vnet import NO_OFFLOADS, VNET_BYTES, Offloads

IFF_VNET_HDR = 0x4000
_TUNGETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x800454D2, 0x400454D0, 0x400454D8
_CHECKSUM, _TSO4, _TSO6, _TSO_ECN, _USO4, _USO6 = 1, 2, 4, 8, 0x20, 0x40
_TCP, _UDP = _TSO4 | _TSO6 | _TSO_ECN, _USO4 | _USO6


def has_header(descriptor: int) -> bool:
    """Whether frames of this device carry a virtio_net header: not every driver knows the flag it was opened with."""
    request = bytearray(40)
    try:
        fcntl.ioctl(descriptor, _TUNGETIFF, request)
    except OSError:
        return False
    return bool(struct.unpack_from("=H", request, 16)[0] & IFF_VNET_HDR)


def take_offloads(descriptor: int, wanted: Offloads) -> Offloads:
    """Of what is `wanted`, as much as the kernel gives."""
    if not has_header(descriptor):
        return NO_OFFLOADS
    fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("=i", VNET_BYTES))
    steps = (
        wanted,
        Offloads(header=True, checksum=wanted.checksum, tcp=wanted.tcp),
        Offloads(header=True, checksum=wanted.checksum),
    )
    for step in steps:
        flags = _CHECKSUM * step.checksum | _TCP * step.tcp | _UDP * step.udp
        try:
            # Super-packets come with partial checksums, so the kernel refuses the one without the other.
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, flags)
        except OSError:
            continue
        return step
    return Offloads(header=True)
