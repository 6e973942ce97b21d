"""The fixed header of packets that travel several hops, and the kinds of plaintext inside a session.

    hop limit (1) | mode (1) | content (1) | source id (20) | target id (20) | payload

A relay reads this header, lowers the hop limit and passes the payload on as it is. The payload of a SEALED
envelope is a datagram of an end-to-end session, which the relay can't read.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from dht.errors import BadDatagram
from dht.ids import ID_BYTES

HOP_LIMIT = 64
_HEADER = Struct(f">BBB{ID_BYTES}s{ID_BYTES}s")
HEADER_BYTES = _HEADER.size


class Inner(IntEnum):
    """The first byte of a session's plaintext."""

    KEEPALIVE = 0
    CONTROL = 1
    ROUTED = 2
    PACKET = 3
    FRAGMENT = 4
    SEGMENT = 5  # of a TCP or UDP super-packet
    PARTIAL = 6  # an IP packet whose transport checksum is to be completed
    CHECK = 7  # whether a path works (`dht.checks`)
    SIZE = 8  # whether a plaintext of this length gets through (`dht.sizes`)
    GROUP = 9  # a group's tag, then one of CONTROL, ROUTED, ADMISSION or KEEPALIVE (`dht.groups`)
    ADMISSION = 10  # within GROUP only
    BROADCAST = 11  # a frame for every member of a ring (`dht.broadcast`), on the main ring or within GROUP


class Mode(IntEnum):
    """Who an envelope is for: the node with exactly the target's id, or whoever is nearest to it."""

    EXACT = 0
    NEAREST = 1


class Content(IntEnum):
    """What an envelope carries: a sealed end-to-end datagram, or a control message in the clear of its edges."""

    SEALED = 0
    CONTROL = 1


class Envelope(NamedTuple):
    """One routed packet."""

    hop_limit: int
    mode: int
    content: int
    source: int
    target: int
    payload: bytes

    def pack(self, hops: int = 0) -> bytes:
        """With the hop limit that is left after so many hops."""
        hop_limit, mode, content, source, target, payload = self
        header = _HEADER.pack(
            hop_limit - hops, mode, content, source.to_bytes(ID_BYTES, "big"), target.to_bytes(ID_BYTES, "big")
        )
        return header + payload

    @classmethod
    def parse(cls, data: bytes) -> Envelope:
        """The inverse of `pack`. Raises BadDatagram."""
        if len(data) < HEADER_BYTES:
            raise BadDatagram(f"an envelope has at least {HEADER_BYTES} bytes, not {len(data)}")
        hop_limit, mode, content, source, target = _HEADER.unpack_from(data)
        if hop_limit > HOP_LIMIT or mode > Mode.NEAREST or content > Content.CONTROL:
            raise BadDatagram(f"no envelope has hop limit {hop_limit}, mode {mode}, content {content}")
        return cls(
            hop_limit,
            mode,
            content,
            int.from_bytes(source, "big"),
            int.from_bytes(target, "big"),
            data[HEADER_BYTES:],
        )
