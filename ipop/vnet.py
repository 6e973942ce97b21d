"""The virtio_net header in front of a TAP frame, and the checksums that it says are still to be filled in.

    flags (1) | gso type (1) | header length (2) | gso size (2) | checksum from (2) | checksum at (2)

In the machine's own byte order. With it a kernel hands over what it would have left to a network card: TCP and UDP
packets of up to 64 KiB to be cut into segments (a *super-packet*), and a transport checksum that holds no more than
the sum of the pseudo-header (a *partial* checksum). Pure. Never trusts the header length, which the kernel calls a
hint: where the transport header ends is read from the transport header.
Sources: VIRTIO 1.2, section 5.1.6; the kernel's include/linux/virtio_net.h; RFC 1071.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from ipop.ethernet import ETHERNET_HEADER_BYTES, BadFrame, checksum

VNET = Struct("=BBHHHH")
VNET_BYTES = VNET.size
BEFORE_PACKET_BYTES = VNET_BYTES + ETHERNET_HEADER_BYTES
NO_VNET = bytes(VNET_BYTES)

NEEDS_CHECKSUM = 1
GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP, GSO_ECN = 0, 1, 4, 5, 0x80

TCP, UDP = 6, 17
TCP_CHECKSUM_AT, UDP_CHECKSUM_AT = 16, 6


@dataclass(frozen=True, slots=True)
class Offloads:
    """What the stack behind a TAP leaves to us, and takes from us. `header` is what all others need."""

    header: bool = False  # frames carry a virtio_net header
    checksum: bool = False  # partial checksums
    tcp: bool = False  # TCP super-packets
    udp: bool = False  # UDP super-packets

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in ("header", "checksum", "tcp", "udp") if getattr(self, name))


NO_OFFLOADS = Offloads()
ALL_OFFLOADS = Offloads(header=True, checksum=True, tcp=True, udp=True)


def partial_header(transport: int, checksum_at: int) -> bytes:
    """In front of a packet whose transport header begins at `transport` and whose checksum is partial."""
    return VNET.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, ETHERNET_HEADER_BYTES + transport, checksum_at)


def fill(packet: bytes | bytearray, transport: int, checksum_at: int) -> bytes:
    """`packet` with the partial checksum at `transport + checksum_at` made complete."""
    at = transport + checksum_at
    if transport <= 0 or at + 2 > len(packet):
        raise BadFrame(f"a checksum at {at} of {len(packet)} bytes")
    # The sum runs over the field too, and so takes in the pseudo-header. To UDP, 0 would mean that there is none;
    # to TCP, 0 and 65535 are the same number.
    total = checksum(bytes(packet[transport:])) or 0xFFFF
    return b"".join((packet[:at], total.to_bytes(2, "big"), packet[at + 2 :]))
