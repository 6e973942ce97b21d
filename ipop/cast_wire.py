"""What travels along a broadcast tree for the virtual network: signed frames. Pure.

    kind (1) | index (1) | count (1) | first sequence (8) | time (4) | signature (64) | digests of the others | body

A tree's frame is passed on by members that could alter or invent one, so its origin signs it: the certificate that
holds the packet's source address proves who that is, as for unicast. Frames that leave together are signed together:
the signature covers the digests of all `count` of them, each frame carries those that it can't compute itself, and one
check serves the batch. Sequences are consecutive for each origin, over all rings, so that a frame that comes twice, by
two rings or by a member that repeats it, is known; `time` (seconds since the epoch, as the origin's peers agree on it)
bounds for how long sequences must be remembered.

Measured on the 2-core machine of the benchmarks, an Ed25519 signature costs 50 us and a check 130 us; a video stream of
5 Mbit/s, 475 packets a second in batches of five, costs a receiver 1 % of a core. The idea of spreading one signature
over many packets by their digests is Gennaro and Rohatgi's (CRYPTO '97).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2s
from struct import Struct

from dht.certificate import SIGNATURE_BYTES, Member, Network
from dht.errors import BadDatagram
from dht.identity import check_signature
from ipop.ethernet import ip_ends, is_multicast

MAX_BATCH = 8
DIGEST_BYTES = 16
PURPOSE = "cast"
_HEAD = Struct("!BBBQI")
_LEAST_BYTES = _HEAD.size + SIGNATURE_BYTES


class Kind(IntEnum):
    """What a body is: an IP packet; or a note about a group, after its author's virtual IPv4 address."""

    PACKET = 1
    BUSY = 2  # so much is sent to this group that it has a ring of its own
    WANTED = 3  # somebody wants this group and is not on its ring yet
    TWICE = 4  # a packet that goes by the network and by its group's ring


@dataclass(frozen=True, slots=True)
class Cast:
    """One frame as it came. Nothing of it is proven before `check`."""

    kind: Kind
    sequence: int
    time: int
    signature: bytes
    digests: tuple[bytes, ...]  # of the whole batch
    first: int
    body: bytes
    source: bytes  # the address whose holder must have signed
    target: bytes  # the packet's destination, or the group that a note is about

    @classmethod
    def parse(cls, data: bytes) -> Cast:
        """Raises BadDatagram."""
        if len(data) < _LEAST_BYTES:
            raise BadDatagram(f"a cast frame of {len(data)} bytes")
        kind_byte, index, count, first, time = _HEAD.unpack_from(data)
        if not 0 < count <= MAX_BATCH or index >= count or first + count >= 1 << 64:
            raise BadDatagram(f"cast frame {index} of {count}")
        at = _LEAST_BYTES + DIGEST_BYTES * (count - 1)
        if len(data) < at:
            raise BadDatagram("a cast frame ends within its digests")
        try:
            kind = Kind(kind_byte)
        except ValueError:
            raise BadDatagram(f"a cast frame of kind {kind_byte}") from None
        body = data[at:]
        digests = [data[each : each + DIGEST_BYTES] for each in range(_LEAST_BYTES, at, DIGEST_BYTES)]
        digests.insert(index, _digest(kind, body))
        if kind in (Kind.PACKET, Kind.TWICE):
            source, target = ip_ends(body)
        else:
            source, target = body[:4], body[4:]
            if len(body) not in (8, 20) or not is_multicast(target):
                raise BadDatagram(f"a note of {len(body)} bytes about a group")
        return cls(
            kind, first + index, time, data[_HEAD.size : _LEAST_BYTES], tuple(digests), first, body, source, target
        )

    def check(self, network: Network, member: Member) -> None:
        """Raises BadDatagram unless `member`, who holds the source address, signed this frame."""
        check_signature(member, network, PURPOSE, _signed(self.first, self.time, self.digests), self.signature)


def sign_together(
    sign: Callable[[str, bytes], bytes], items: Sequence[tuple[Kind, bytes]], first: int, time: int
) -> list[bytes]:
    """Frames of our own, numbered from `first` on, at most MAX_BATCH of them."""
    assert 0 < len(items) <= MAX_BATCH, f"{len(items)} frames are no batch"
    digests = [_digest(kind, body) for kind, body in items]
    signature = sign(PURPOSE, _signed(first, time, digests))
    return [
        b"".join(
            (
                _HEAD.pack(kind, index, len(items), first, time),
                signature,
                *digests[:index],
                *digests[index + 1 :],
                body,
            )
        )
        for index, (kind, body) in enumerate(items)
    ]


def _digest(kind: Kind, body: bytes) -> bytes:
    return blake2s(body, digest_size=DIGEST_BYTES, salt=bytes((kind,))).digest()


def _signed(first: int, time: int, digests: Sequence[bytes]) -> bytes:
    return first.to_bytes(8, "big") + time.to_bytes(4, "big") + b"".join(digests)
