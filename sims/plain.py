"""A suite without cryptography, for worlds of ten thousand nodes and more: every message as long as the real one, and
as many of them, at a fraction of the time.

What it replaces, behind `dht.suite.Suite`:

| real | here |
|---|---|
| ephemeral X25519 key | the 32 random bytes themselves, drawn by the same call, so that chance goes the same way |
| four Diffie-Hellman exchanges, HKDF, pre-shared key | nothing: transport keys are halves of both ephemeral keys |
| sealed static key and payload | the same bytes in the clear, and a tag that names whom they are for |
| ChaCha20-Poly1305, AES-GCM | the plaintext, and the first half of the key as its tag |

What stays real: certificates, signatures of static keys and of records, mac1 and cookies, counters, replay windows,
renewal of keys, formats and sizes. What no longer holds: secrecy; that a static key's owner is at the other end; that
a datagram wasn't altered on its way, which no simulated network does. A datagram under wrong keys, a response to
another initiation and an initiation for another node are refused as before. So a world of honest nodes runs exactly
as with `dht.suite.NOISE`, down to the trace hash, and worlds with forgers of handshakes need the real one.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag

from dht.errors import BadDatagram
from dht.noise import KEY_BYTES, TAG_BYTES

_HALF: Final = KEY_BYTES // 2
_SEALED_STATIC: Final = KEY_BYTES + TAG_BYTES


class PlainAead:
    """As long as the real thing, and no secret."""

    __slots__ = ("_tag",)

    def __init__(self, key: bytes) -> None:
        self._tag = key[:TAG_BYTES]

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        return data + self._tag

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Raises InvalidTag for what was sealed under another key."""
        if data[-TAG_BYTES:] != self._tag:
            raise InvalidTag
        return bytes(data[:-TAG_BYTES])


class PlainHandshake:
    """One end of one handshake: IKpsk2's two messages, in the clear."""

    __slots__ = ("_ephemeral", "_forth", "_initiator", "_own_static", "_steps", "remote_static")

    def __init__(self, initiator: bool, own_static: bytes, ephemeral: bytes, remote_static: bytes | None) -> None:
        self._initiator, self._own_static, self._ephemeral = initiator, own_static, ephemeral
        self.remote_static = remote_static
        self._forth = ephemeral  # the initiator's, once known; then both
        self._steps = 0

    def __copy__(self) -> PlainHandshake:
        """One that goes its own way from here."""
        copied = PlainHandshake(self._initiator, self._own_static, self._ephemeral, self.remote_static)
        copied._forth, copied._steps = self._forth, self._steps
        return copied

    @property
    def complete(self) -> bool:
        return self._steps == 2

    def use_ephemeral(self, private: bytes, /) -> None:
        """A responder's."""
        self._ephemeral = private

    def write(self, payload: bytes = b"", /) -> bytes:
        """The next message, of the length that Noise gives it."""
        self._steps += 1
        if self._initiator:
            assert self.remote_static is not None, "IK knows whom it writes to"
            tag = self.remote_static[:TAG_BYTES]
            return self._ephemeral + self._own_static + tag + payload + tag
        tag = self._forth[:TAG_BYTES]
        self._forth += self._ephemeral
        return self._ephemeral + payload + tag

    def read(self, message: bytes, /) -> bytes:
        """The payload of the other end's message. Raises BadDatagram when it is cut short or not for this end."""
        head = KEY_BYTES if self._initiator else KEY_BYTES + _SEALED_STATIC
        tag = self._ephemeral[:TAG_BYTES] if self._initiator else self._own_static[:TAG_BYTES]
        if len(message) < head + TAG_BYTES or message[-TAG_BYTES:] != tag:
            raise BadDatagram("a plain handshake message is cut short, or not for this end")
        ephemeral = message[:KEY_BYTES]
        if self._initiator:
            self._forth = self._ephemeral + ephemeral
        else:
            self._forth = ephemeral
            self.remote_static = message[KEY_BYTES : 2 * KEY_BYTES]
        self._steps += 1
        return message[head:-TAG_BYTES]

    def split(self) -> tuple[bytes, bytes]:
        """The two transport keys, made of halves: different ones each way, the same at both ends."""
        assert self.complete, "the handshake is not over"
        one, other = self._forth[:KEY_BYTES], self._forth[KEY_BYTES:]
        return one[:_HALF] + other[:_HALF], other[:_HALF] + one[:_HALF]


class PlainSuite:
    """Give it to identities in place of `dht.suite.NOISE`."""

    __slots__ = ()

    def initiator(
        self, prologue: bytes, psk: bytes, static: tuple[bytes, bytes], ephemeral_private: bytes, remote_static: bytes
    ) -> PlainHandshake:
        return PlainHandshake(True, static[1], ephemeral_private, remote_static)

    def responder(self, prologue: bytes, psk: bytes, static: tuple[bytes, bytes]) -> PlainHandshake:
        return PlainHandshake(False, static[1], b"", None)

    def aead(self, key: bytes, aes: bool) -> PlainAead:
        return PlainAead(key)


PLAIN: Final = PlainSuite()
