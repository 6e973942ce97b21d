"""What travels along a broadcast tree for the virtual network: frames that their origin vouches for. Pure.

    alone:     kind (1) | sequence (8) | time (4) | signature (64) | body
    together:  kind + 128 (1) | index (1) | first sequence (8) | body        then, for all of them, their
    warrant:   5 (1) | first sequence (8) | time (4) | signature (64) | source, destination (4 or 16 each) | digests

A tree's frame is passed on by members that could alter or invent one, so its origin signs it: the certificate that
holds the packet's source address proves who that is, as for unicast. Frames of one flow that leave together share a
signature: it covers their digests, and the warrant comes last, so that they are of one length and go in one system
call. So a video's packet of 1344 bytes still fits into one datagram. Who loses the warrant loses what it is for; that
doubles a line's rate of loss, as two datagrams a packet would.

Sequences are consecutive for each origin, over all rings, so that a frame that comes twice, by two rings or by a member
that repeats it, is known; `time` (seconds since the epoch, as the origin's peers agree on it) bounds for how long they
must be remembered. An Ed25519 signature costs 50 us and a check 130 us on the 2-core machine of the benchmarks: with
five packets a batch, a stream of 475 packets a second costs a receiver 1.3 % of a core. The idea of one signature for
the digests of many packets is Wong and Lam's (SIGCOMM '98).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2s
from struct import Struct
from typing import Final, NamedTuple

from dht.certificate import SIGNATURE_BYTES, Member, Network
from dht.errors import BadDatagram
from dht.identity import check_signature
from ipop.ethernet import ip_ends, is_multicast

MAX_BATCH: Final = 16
DIGEST_BYTES: Final = 16
PURPOSE: Final = "cast"
_TOGETHER: Final = 0x80
_WARRANT: Final = 5
_ALONE_HEAD = Struct(f"!BQI{SIGNATURE_BYTES}s")
_TOGETHER_HEAD = Struct("!BBQ")
_MAX_SEQUENCE: Final = (1 << 64) - 1 - MAX_BATCH


class Kind(IntEnum):
    """What a body is: an IP packet; or a note about a group, after its author's virtual IPv4 address."""

    PACKET = 1
    BUSY = 2  # so much is sent to this group that it has a ring of its own
    WANTED = 3  # somebody wants this group and is not on its ring yet
    TWICE = 4  # a packet that goes by the network and by its group's ring


class Seal(NamedTuple):
    """What an origin signed: the digests of the frames numbered from `first` on."""

    first: int
    time: int
    digests: tuple[bytes, ...]
    signature: bytes

    def check(self, network: Network, member: Member) -> None:
        """Raises BadDatagram unless `member` signed this."""
        check_signature(member, network, PURPOSE, _signed(self.first, self.time, self.digests), self.signature)


@dataclass(frozen=True, slots=True)
class Cast:
    """One frame as it came. Nothing of it is proven before its seal was checked, which is None where a warrant has it.
    `source`: the address whose holder must have signed; `target`: the packet's destination, or a note's group."""

    kind: Kind
    first: int
    index: int
    body: bytes
    source: bytes
    target: bytes
    digest: bytes
    seal: Seal | None

    @property
    def sequence(self) -> int:
        return self.first + self.index

    def is_covered(self, seal: Seal) -> bool:
        """Whether a seal speaks of this very frame."""
        return self.first == seal.first and seal.digests[self.index : self.index + 1] == (self.digest,)


@dataclass(frozen=True, slots=True)
class Warrant:
    """The seal of frames from `source` to `target`."""

    source: bytes
    target: bytes
    seal: Seal


def parse(data: bytes) -> Cast | Warrant:
    """A frame of a tree. Raises BadDatagram."""
    if data[:1] == bytes((_WARRANT,)):
        return _parse_warrant(data)
    if data and data[0] & _TOGETHER:
        if len(data) < _TOGETHER_HEAD.size:
            raise BadDatagram(f"a cast frame of {len(data)} bytes")
        kind_byte, index, first = _TOGETHER_HEAD.unpack_from(data)
        if index >= MAX_BATCH or first > _MAX_SEQUENCE:
            raise BadDatagram(f"cast frame {index} from {first} on")
        kind = _kind(kind_byte & ~_TOGETHER)
        body = data[_TOGETHER_HEAD.size :]
        return Cast(kind, first, index, body, *_ends(kind, body), _digest(kind, body), None)
    if len(data) < _ALONE_HEAD.size:
        raise BadDatagram(f"a cast frame of {len(data)} bytes")
    kind_byte, sequence, time, signature = _ALONE_HEAD.unpack_from(data)
    if sequence > _MAX_SEQUENCE:
        raise BadDatagram(f"cast frame {sequence}")
    kind, body = _kind(kind_byte), data[_ALONE_HEAD.size :]
    digest = _digest(kind, body)
    return Cast(kind, sequence, 0, body, *_ends(kind, body), digest, Seal(sequence, time, (digest,), signature))


def sign_alone(sign: Callable[[str, bytes], bytes], kind: Kind, body: bytes, sequence: int, time: int) -> bytes:
    """A frame of our own."""
    signature = sign(PURPOSE, _signed(sequence, time, (_digest(kind, body),)))
    return _ALONE_HEAD.pack(kind, sequence, time, signature) + body


def sign_together(
    sign: Callable[[str, bytes], bytes], kind: Kind, packets: Sequence[bytes], first: int, time: int
) -> list[bytes]:
    """Frames for packets of our own with the same source and destination, numbered from `first` on, and their warrant;
    at most MAX_BATCH of them."""
    assert 1 < len(packets) <= MAX_BATCH, f"{len(packets)} packets are no batch"
    digests = [_digest(kind, packet) for packet in packets]
    signature = sign(PURPOSE, _signed(first, time, digests))
    frames = [_TOGETHER_HEAD.pack(kind | _TOGETHER, index, first) + packet for index, packet in enumerate(packets)]
    frames.append(_ALONE_HEAD.pack(_WARRANT, first, time, signature) + b"".join((*ip_ends(packets[0]), *digests)))
    return frames


def _parse_warrant(data: bytes) -> Warrant:
    if len(data) < _ALONE_HEAD.size + 1:
        raise BadDatagram(f"a warrant of {len(data)} bytes")
    _, first, time, signature = _ALONE_HEAD.unpack_from(data)
    # The two addresses of either family, then whole digests, at least two: 8 and 32 differ by more than a digest's
    # half, so a length says which.
    rest = len(data) - _ALONE_HEAD.size
    address_bytes = 4 if rest % DIGEST_BYTES == 8 else 16
    at = _ALONE_HEAD.size + 2 * address_bytes
    if rest % DIGEST_BYTES not in (0, 8) or not 2 <= (len(data) - at) // DIGEST_BYTES <= MAX_BATCH:
        raise BadDatagram(f"a warrant of {len(data)} bytes")
    if first > _MAX_SEQUENCE:
        raise BadDatagram(f"a warrant for cast frames from {first} on")
    digests = tuple(data[each : each + DIGEST_BYTES] for each in range(at, len(data), DIGEST_BYTES))
    source, target = data[_ALONE_HEAD.size : at - address_bytes], data[at - address_bytes : at]
    return Warrant(source, target, Seal(first, time, digests, signature))


def _kind(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise BadDatagram(f"a cast frame of kind {number}") from None


def _ends(kind: Kind, body: bytes) -> tuple[bytes, bytes]:
    if kind in (Kind.PACKET, Kind.TWICE):
        return ip_ends(body)
    if len(body) not in (8, 20) or not is_multicast(body[4:]):
        raise BadDatagram(f"a note of {len(body)} bytes about a group")
    return body[:4], body[4:]


def _digest(kind: Kind, body: bytes) -> bytes:
    return blake2s(body, digest_size=DIGEST_BYTES, salt=bytes((kind,))).digest()


def _signed(first: int, time: int, digests: Sequence[bytes]) -> bytes:
    return first.to_bytes(8, "big") + time.to_bytes(4, "big") + b"".join(digests)
