"""Cuts the super-packets of our kernel into segments, one a datagram, and joins what arrives for the kernel there.

    kind (1) | index (2) | size (2) | the super-packet's own IP and TCP or UDP header | payload

Every segment carries the header of the whole super-packet, unchanged, with its partial checksum. So neither end
sums payloads, and the segments that arrive one after another join by comparing bytes. Whatever is lost, late or out
of order costs only itself: each unbroken *run* becomes a super-packet of its own, or a plain packet, with the IP
length and id, sequence number and flags that a network card would have given it. The replay window lets no segment
through twice. A TCP super-packet may be cut smaller than the kernel asked, where the path carries less.

    Run:  begin (checks everything, once a run) -> extend (a comparison)* -> virtual() or packets()

Only plain headers are cut so: IPv4 without options, not a fragment; IPv6 without extension headers. Others become
complete packets where they are read. Pure, bounded by the 64 KiB of one IP packet; holds no timer and keeps no run
beyond the batch that it came in, which is the caller's care.
Sources: the kernel's net/ipv4/tcp_offload.c and udp_offload.c for what segments look like; RFC 3168 section 6.1.2
for CWR, on the first only.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import repeat
from struct import Struct

from dht.envelope import Inner
from dht.errors import BadDatagram
from ipop.ethernet import ETHERNET_HEADER_BYTES, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, BadFrame, checksum
from ipop.vnet import (
    BEFORE_PACKET_BYTES,
    GSO_ECN,
    GSO_NONE,
    GSO_TCP4,
    GSO_TCP6,
    GSO_UDP,
    NEEDS_CHECKSUM,
    TCP,
    TCP_CHECKSUM_AT,
    UDP,
    UDP_CHECKSUM_AT,
    VNET,
    fill,
    partial_header,
)

MAX_SEGMENTS = 128  # of one super-packet; 64 KiB in pieces of 512 bytes
MAX_UDP_SEGMENTS = 64  # of one that a kernel takes: UDP_MAX_SEGMENTS, before kernel 6.11
LEAST_SIZE_BYTES = 8
SEGMENT_BYTES = 5  # what a segment has in front of its IP header

_FIN, _PSH, _ACK, _CWR = 0x01, 0x08, 0x10, 0x80
_KIND_AND_INDEX = tuple(bytes((Inner.SEGMENT,)) + index.to_bytes(2, "big") for index in range(MAX_SEGMENTS))
_PARTIAL = Struct(">BBB")
# Where the IP header begins, by kind of plaintext.
PACKET_AT: dict[int, int] = {Inner.PACKET: 1, Inner.SEGMENT: SEGMENT_BYTES, Inner.PARTIAL: _PARTIAL.size}
_TCP_HEADER_BYTES, _UDP_HEADER_BYTES = 20, 8


class Head:
    """The IP and transport header of a super-packet, understood. Raises BadFrame when there is anything unusual."""

    __slots__ = ("bytes", "payload_bytes", "tcp", "transport", "version")

    def __init__(self, packet: bytes, start: int, odd: tuple[int, int] | None = None) -> None:
        """Of the packet that begins at `start`; of its payload, nothing need be there. `odd`: where the transport
        header begins and which it is, if the kernel has told, for headers that only `complete` handles."""
        first = packet[start] if len(packet) > start + IPV4_HEADER_BYTES else 0
        if first >> 4 == 6 and len(packet) > start + IPV6_HEADER_BYTES:
            transport, protocol = odd or (IPV6_HEADER_BYTES, packet[start + 6])
            total = IPV6_HEADER_BYTES + (packet[start + 4] << 8 | packet[start + 5])
        elif first == 0x45 or (first >> 4 == 4 and odd is not None):
            transport, protocol = (first & 15) * 4, packet[start + 9]
            total = packet[start + 2] << 8 | packet[start + 3]
            if packet[start + 6] & 0x3F or packet[start + 7]:
                raise BadFrame("a fragment")
        else:
            raise BadFrame("neither IPv4 without options nor IPv6")
        if transport < (IPV6_HEADER_BYTES if first >> 4 == 6 else IPV4_HEADER_BYTES):
            raise BadFrame(f"a transport header at {transport}")
        if protocol == TCP and len(packet) >= start + transport + _TCP_HEADER_BYTES:
            header_bytes = transport + (packet[start + transport + 12] >> 4) * 4
            if header_bytes < transport + _TCP_HEADER_BYTES:
                raise BadFrame("a TCP header of less than 20 bytes")
        elif protocol == UDP:
            header_bytes = transport + _UDP_HEADER_BYTES
        else:
            raise BadFrame(f"protocol {protocol} is not segmented")
        self.tcp = protocol == TCP
        self.version = first >> 4
        self.transport = transport
        self.payload_bytes = total - header_bytes
        self.bytes = packet[start : start + header_bytes]
        if self.payload_bytes <= 0 or len(self.bytes) != header_bytes:
            raise BadFrame("a header that does not fit its packet")

    @property
    def source(self) -> bytes:
        return self.bytes[12:16] if self.version == 4 else self.bytes[8:24]

    @property
    def destination(self) -> bytes:
        return self.bytes[16:20] if self.version == 4 else self.bytes[24:40]

    @property
    def checksum_at(self) -> int:
        return TCP_CHECKSUM_AT if self.tcp else UDP_CHECKSUM_AT

    def gso_type(self, ecn: bool) -> int:
        if not self.tcp:
            return GSO_UDP
        return (GSO_TCP4 if self.version == 4 else GSO_TCP6) | (GSO_ECN if ecn else 0)

    def part(self, index: int, size: int, payload_bytes: int) -> bytes:
        """The header of a packet with `payload_bytes` of the payload, from segment `index` on. Partial checksum."""
        header = bytearray(self.bytes)
        transport = self.transport
        total = len(header) + payload_bytes
        if self.version == 4:
            header[2:4] = total.to_bytes(2, "big")
            header[4:6] = ((int.from_bytes(header[4:6], "big") + index) & 0xFFFF).to_bytes(2, "big")
            header[10:12] = b"\0\0"
            header[10:12] = checksum(bytes(header[:transport])).to_bytes(2, "big")
        else:
            header[4:6] = (total - IPV6_HEADER_BYTES).to_bytes(2, "big")
        skipped = index * size
        if self.tcp:
            sequence = int.from_bytes(header[transport + 4 : transport + 8], "big") + skipped
            header[transport + 4 : transport + 8] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
            if skipped:
                header[transport + 13] &= ~_CWR
            if skipped + payload_bytes < self.payload_bytes:
                header[transport + 13] &= ~(_FIN | _PSH)
        else:
            header[transport + 4 : transport + 6] = (total - transport).to_bytes(2, "big")
        at = transport + self.checksum_at
        # A partial checksum sums the pseudo-header, of which only the length differs.
        shorter = len(header) + self.payload_bytes - total
        partial = (int.from_bytes(header[at : at + 2], "big") - shorter) % 0xFFFF
        header[at : at + 2] = partial.to_bytes(2, "big")
        return bytes(header)


def split(frame: bytes, limit_bytes: int) -> list[bytes]:
    """The plaintexts of a super-packet's segments, from `frame` as the TAP gave it, virtio_net header in front. A TCP
    segment's plaintext is at most `limit_bytes` long. Raises BadFrame for what `complete` must take apart."""
    _, gso_type, _, size, _, _ = VNET.unpack_from(frame)
    head = Head(frame, BEFORE_PACKET_BYTES)
    if head.gso_type(False) != gso_type & ~GSO_ECN or len(frame) != _frame_bytes(head):
        raise BadFrame("a virtio_net header that does not fit its frame")
    if head.tcp:
        size = min(size, limit_bytes - SEGMENT_BYTES - len(head.bytes))
    if size < LEAST_SIZE_BYTES or head.payload_bytes > size * MAX_SEGMENTS:
        raise BadFrame(f"{head.payload_bytes} bytes in segments of {size}")
    before = size.to_bytes(2, "big") + head.bytes
    start = BEFORE_PACKET_BYTES + len(head.bytes)
    whole, rest_bytes = divmod(head.payload_bytes, size)
    payloads = _cutter(0, size, whole).unpack_from(frame, start)
    if rest_bytes:
        payloads += (frame[-rest_bytes:],)
    return list(map(b"".join, zip(_KIND_AND_INDEX, repeat(before), payloads)))


@lru_cache(maxsize=2 * MAX_SEGMENTS)
def _cutter(prefix_bytes: int, size: int, count: int) -> Struct:
    """Takes apart what lies one behind the other `count` times: payloads, or whole plaintexts behind their kinds."""
    return Struct((f"3s{prefix_bytes}s{size}s" if prefix_bytes else f"{size}s") * count)


def _frame_bytes(head: Head) -> int:
    return BEFORE_PACKET_BYTES + len(head.bytes) + head.payload_bytes


def partial(frame: bytes) -> bytes:
    """The plaintext of one packet with a partial checksum, from `frame` as the TAP gave it. Raises BadFrame for what
    `complete` must take apart."""
    flags, gso_type, _, _, checksum_from, checksum_at = VNET.unpack_from(frame)
    transport = checksum_from - ETHERNET_HEADER_BYTES
    if gso_type != GSO_NONE or not flags & NEEDS_CHECKSUM or not 0 < transport < 256 or checksum_at > 255:
        raise BadFrame("not one packet with a partial checksum")
    return _PARTIAL.pack(Inner.PARTIAL, transport, checksum_at) + frame[BEFORE_PACKET_BYTES:]


def read_partial(plaintext: bytes) -> tuple[bytes, int, int]:
    """The packet, where its transport header begins, and where in it the checksum is. Raises BadDatagram."""
    if len(plaintext) < _PARTIAL.size + IPV4_HEADER_BYTES:
        raise BadDatagram(f"a packet with a partial checksum in {len(plaintext)} bytes")
    _, transport, checksum_at = _PARTIAL.unpack_from(plaintext)
    packet = plaintext[_PARTIAL.size :]
    if transport < IPV4_HEADER_BYTES or transport + checksum_at + 2 > len(packet):
        raise BadDatagram(f"a checksum at {transport + checksum_at} of {len(packet)} bytes")
    return packet, transport, checksum_at


def is_bulk(frame: bytes) -> bool:
    """Whether a frame with its virtio_net header is TCP and more than an acknowledgement. What is not may overtake
    what is: no connection's data is reordered by that."""
    if frame[22:24] == b"\x08\x00":
        transport, protocol = BEFORE_PACKET_BYTES + (frame[24] & 15) * 4, frame[33]
    else:
        transport, protocol = BEFORE_PACKET_BYTES + IPV6_HEADER_BYTES, frame[30]
    if protocol != TCP or len(frame) < transport + _TCP_HEADER_BYTES:
        return frame[1] & ~GSO_ECN in (GSO_TCP4, GSO_TCP6)
    return frame[transport + 13] != _ACK or len(frame) > transport + (frame[transport + 12] >> 4) * 4


def complete(frame: bytes) -> list[bytes]:
    """The complete Ethernet frames that `frame`, with its virtio_net header, stands for. Raises BadFrame when nobody
    could say."""
    flags, gso_type, _, size, checksum_from, checksum_at = VNET.unpack_from(frame)
    ethernet, packet = (
        frame[BEFORE_PACKET_BYTES - ETHERNET_HEADER_BYTES : BEFORE_PACKET_BYTES],
        frame[BEFORE_PACKET_BYTES:],
    )
    if gso_type == GSO_NONE:
        if flags & NEEDS_CHECKSUM:
            packet = fill(packet, checksum_from - ETHERNET_HEADER_BYTES, checksum_at)
        return [ethernet + packet]
    head = Head(packet, 0, (checksum_from - ETHERNET_HEADER_BYTES, UDP if gso_type == GSO_UDP else TCP))
    if size < LEAST_SIZE_BYTES or head.gso_type(False) != gso_type & ~GSO_ECN or len(frame) != _frame_bytes(head):
        raise BadFrame("a virtio_net header that does not fit its frame")
    start = len(head.bytes)
    pieces = [packet[at : at + size] for at in range(start, len(packet), size)]
    return [ethernet + each for each in _packets(head, 0, size, pieces)]


def _packets(head: Head, first: int, size: int, pieces: list[bytes]) -> list[bytes]:
    """The complete packets of consecutive segments."""
    return [
        fill(head.part(index, size, len(piece)) + piece, head.transport, head.checksum_at)
        for index, piece in enumerate(pieces, first)
    ]


class Run:
    """Consecutive segments of one super-packet, being joined. Raises BadDatagram for a segment nobody would send."""

    __slots__ = (
        "_last_bytes",
        "_last_index",
        "_next",
        "_pieces",
        "_prefix",
        "_start",
        "_whole_bytes",
        "first",
        "head",
        "size",
    )

    def __init__(self, plaintext: bytes) -> None:
        try:
            head = self.head = Head(plaintext, SEGMENT_BYTES)
        except BadFrame as fault:
            raise BadDatagram(f"a segment of {fault}") from None
        self.first = plaintext[1] << 8 | plaintext[2]
        size = self.size = plaintext[3] << 8 | plaintext[4]
        if size < LEAST_SIZE_BYTES or head.payload_bytes > size * MAX_SEGMENTS:
            raise BadDatagram(f"{head.payload_bytes} bytes in segments of {size}")
        self._start = SEGMENT_BYTES + len(head.bytes)
        self._last_index = (head.payload_bytes - 1) // size
        self._whole_bytes = self._start + size
        self._last_bytes = self._start + head.payload_bytes - self._last_index * size
        self._prefix = plaintext[3 : self._start]
        self._next = self.first
        self._pieces: list[bytes] = []
        if not self.extend(plaintext):
            raise BadDatagram(f"segment {self.first} of {self._last_index + 1} has {len(plaintext)} bytes")

    def extend(self, plaintext: bytes) -> bool:
        """Take the next segment; False when `plaintext` is anything else."""
        if not plaintext.startswith(self._prefix, 3):
            return False
        index = plaintext[1] << 8 | plaintext[2]
        if index != self._next:
            return False
        if index < self._last_index:
            if len(plaintext) != self._whole_bytes:
                return False
        elif index > self._last_index or len(plaintext) != self._last_bytes:
            return False
        if len(self._pieces) == MAX_UDP_SEGMENTS and not self.head.tcp:
            return False
        self._pieces.append(plaintext[self._start :])
        self._next = index + 1
        return True

    def extend_all(self, plaintexts: memoryview, at: int, size: int) -> int:
        """Take as many as come next of the plaintexts that lie one behind the other from `at` on, `size` bytes each but
        for the last. The number of bytes taken."""
        begin, following = at, self._next
        if size == self._whole_bytes:
            count = min((len(plaintexts) - at) // size, self._last_index - following)
            if not self.head.tcp:
                count = min(count, MAX_UDP_SEGMENTS - len(self._pieces))
            if count > 0:
                cut = _cutter(len(self._prefix), self.size, count).unpack_from(plaintexts, at)
                if cut[::3] == _KIND_AND_INDEX[following : following + count] and cut[1::3] == (self._prefix,) * count:
                    self._pieces += cut[2::3]
                    self._next += count
                    at += count * size
        while at < len(plaintexts) and self.extend(bytes(plaintexts[at : at + size])):
            at += size
        return min(at, len(plaintexts)) - begin

    @property
    def segments(self) -> int:
        return len(self._pieces)

    def virtual(self, ethernet: bytes) -> list[bytes]:
        """One frame, in pieces, for a stack that takes super-packets: virtio_net, Ethernet and IP header, payloads."""
        head, pieces = self.head, self._pieces
        if self.first == 0 and self._next > self._last_index:
            header = head.bytes
        else:
            header = head.part(self.first, self.size, sum(map(len, pieces)))
        if len(pieces) == 1:
            front = partial_header(head.transport, head.checksum_at)
        else:
            front = VNET.pack(
                NEEDS_CHECKSUM,
                head.gso_type(head.tcp and bool(header[head.transport + 13] & _CWR)),
                ETHERNET_HEADER_BYTES + len(header),
                self.size,
                ETHERNET_HEADER_BYTES + head.transport,
                head.checksum_at,
            )
        return [front + ethernet + header, *pieces]

    def packets(self) -> list[bytes]:
        """Complete packets, for a stack that takes nothing else."""
        return _packets(self.head, self.first, self.size, self._pieces)
