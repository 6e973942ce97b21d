"""Cuts a session's plaintext that is too long for one datagram, and joins the pieces at the other end.

    message (4) | index (1) | count (1) | piece

Per edge, so that every hop uses its own datagram size and no IP fragment is ever needed. Pieces may come in any
order; a message that misses one is forgotten after a while. Bounded: an edge holds at most MAX_PARTIAL messages.
"""

from __future__ import annotations

from struct import Struct

from dht.errors import BadDatagram

MAX_PLAINTEXT_BYTES = 1420  # the longest piece with its kind in front: 1500 - IPv6 40 - UDP 8 - transport 32
MAX_FRAGMENTS = 8
MAX_PARTIAL = 8
PATIENCE_S = 3.0
_HEADER = Struct(">IBB")
_PIECE_BYTES = MAX_PLAINTEXT_BYTES - 1 - _HEADER.size
MAX_MESSAGE_BYTES = MAX_FRAGMENTS * _PIECE_BYTES


def cut(plaintext: bytes, message: int, limit_bytes: int = MAX_PLAINTEXT_BYTES) -> list[bytes]:
    """The pieces of `plaintext`, each with its header; with the kind in front none is longer than `limit_bytes`, unless
    there would be too many. `message` tells them from others in flight."""
    assert len(plaintext) <= MAX_MESSAGE_BYTES, f"{len(plaintext)} bytes are too long for one message"
    piece_bytes = min(_PIECE_BYTES, max(limit_bytes - 1 - _HEADER.size, -(-len(plaintext) // MAX_FRAGMENTS)))
    count = -(-len(plaintext) // piece_bytes)
    return [
        _HEADER.pack(message & 0xFFFFFFFF, index, count) + plaintext[index * piece_bytes : (index + 1) * piece_bytes]
        for index in range(count)
    ]


class Reassembly:
    """The incomplete messages of one edge."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: dict[int, tuple[float, int, dict[int, bytes]]] = {}

    def add(self, data: bytes, now: float) -> bytes | None:
        """Takes one piece; the whole plaintext once it is complete. Raises BadDatagram."""
        if len(data) <= _HEADER.size or len(data) > _HEADER.size + _PIECE_BYTES:
            raise BadDatagram(f"a fragment of {len(data)} bytes")
        message, index, count = _HEADER.unpack_from(data)
        if not 1 < count <= MAX_FRAGMENTS or index >= count:
            raise BadDatagram(f"fragment {index} of {count}")
        for stale in [key for key, (since, _, _) in self._partial.items() if now - since > PATIENCE_S]:
            del self._partial[stale]
        if message not in self._partial:
            if len(self._partial) >= MAX_PARTIAL:
                del self._partial[next(iter(self._partial))]
            self._partial[message] = (now, count, {})
        _, expected, pieces = self._partial[message]
        if count != expected:
            raise BadDatagram(f"fragments of one message disagree: {count} or {expected} pieces")
        pieces[index] = data[_HEADER.size :]
        if len(pieces) < expected:
            return None
        del self._partial[message]
        return b"".join(pieces[position] for position in range(expected))
