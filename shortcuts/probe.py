"""The datagram that somebody unknown sends to find out whether it gets in, and that says nothing but "I do".

    0x18 | 3 zero | token (16)

Whoever waits for it has made up the token, told it over sessions only, and takes it once. Not answered, so that its
sender remains unknown. To any other node it is a datagram that comes too late. Pure: no clock, no I/O.
"""

from __future__ import annotations

from typing import Final

from dht.errors import BadDatagram
from shortcuts.messages import TOKEN_BYTES

PROBE: Final = 0x18
PROBE_BYTES: Final = 4 + TOKEN_BYTES
_HEADER: Final = bytes((PROBE, 0, 0, 0))


def probe(token: bytes) -> bytes:
    """The datagram that carries `token`."""
    return _HEADER + token


def token_of(datagram: bytes) -> bytes:
    """The inverse of `probe`. Raises BadDatagram."""
    if len(datagram) != PROBE_BYTES or datagram[:4] != _HEADER:
        raise BadDatagram("not a probe of this version")
    return datagram[4:]
