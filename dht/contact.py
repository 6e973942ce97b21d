"""What one node must know to speak to another: its id, its static key and where it may be reached.

A contact from a peer is a hint, not a proof: a wrong one costs a failed handshake, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.ids import ID_BYTES, id_bytes

MAX_ENDPOINTS = 6
REMEMBERED = 4096  # of those read; neighbours tell of each other all the time
STATIC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Contact:
    """A node's id, its X25519 static public key (32 bytes), and its endpoints, likeliest first."""

    id: int
    static: bytes
    endpoints: tuple[Endpoint, ...]
    _packed: bytes = field(default=b"", init=False, repr=False, compare=False)  # once it was asked for

    def pack(self) -> bytes:
        """Id, static key, then each endpoint behind its length: 52 bytes and 7 or 19 an endpoint."""
        if not self._packed:
            parts = [id_bytes(self.id), self.static]
            for endpoint in self.endpoints[:MAX_ENDPOINTS]:
                packed = endpoint.pack()
                parts.append(bytes((len(packed),)) + packed)
            object.__setattr__(self, "_packed", b"".join(parts))
        return self._packed

    @classmethod
    def parse(cls, packed: bytes) -> Contact:
        """The inverse of `pack`. Raises BadDatagram."""
        return _parsed(packed)


def _parse(packed: bytes) -> Contact:
    at = ID_BYTES + STATIC_BYTES
    if len(packed) < at:
        raise BadDatagram(f"a contact has at least {at} bytes, not {len(packed)}")
    endpoints = []
    while at < len(packed):
        size = packed[at]
        if at + 1 + size > len(packed):
            raise BadDatagram("a contact ends within an endpoint")
        endpoints.append(Endpoint.parse(packed[at + 1 : at + 1 + size]))
        at += 1 + size
    if len(endpoints) > MAX_ENDPOINTS:
        raise BadDatagram(f"a contact names {len(endpoints)} endpoints, more than {MAX_ENDPOINTS}")
    static = packed[ID_BYTES : ID_BYTES + STATIC_BYTES]
    return Contact(int.from_bytes(packed[:ID_BYTES], "big"), static, tuple(endpoints))


_parsed = lru_cache(maxsize=REMEMBERED)(_parse)


def remember(entries: int) -> None:
    """Remember so many of those read, for a process in which more nodes than usual live."""
    global _parsed  # noqa: PLW0603
    _parsed = lru_cache(maxsize=entries)(_parse)
