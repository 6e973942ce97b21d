"""The primitives that a node's handshakes and sessions are made of: one object, so that there is one place to give
another.

`NOISE` is the product's: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, then ChaCha20-Poly1305 or AES-GCM. Signatures,
certificates and the MACs of first datagrams are not part of it. Nothing here keeps state between handshakes.
"""

from __future__ import annotations

from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from dht.noise import HandshakeState

PATTERN: Final = "IKpsk2"


class Aead(Protocol):
    """Authenticated encryption under one key, as `cryptography` has it."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """The ciphertext, and a tag of 16 bytes."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Raises cryptography's InvalidTag, or ValueError for a nonce of a wrong length."""


class HandshakeEnd(Protocol):
    """One end of one handshake, as `dht.noise.HandshakeState` describes it; `copy.copy` gives an independent one."""

    @property
    def complete(self) -> bool: ...
    @property
    def remote_static(self) -> bytes | None: ...
    def use_ephemeral(self, private: bytes, /) -> None: ...
    def write(self, payload: bytes = b"", /) -> bytes: ...
    def read(self, message: bytes, /) -> bytes: ...
    def split(self) -> tuple[bytes, bytes]: ...


class Suite(Protocol):
    """What ends of handshakes, and what transport keys are used with."""

    def initiator(
        self, prologue: bytes, psk: bytes, static: tuple[bytes, bytes], ephemeral_private: bytes, remote_static: bytes
    ) -> HandshakeEnd:
        """The end that writes first. `static`: its own key pair, private and public."""

    def responder(self, prologue: bytes, psk: bytes, static: tuple[bytes, bytes]) -> HandshakeEnd:
        """The end that reads first, and has its ephemeral key later, if it answers."""

    def aead(self, key: bytes, aes: bool) -> Aead:
        """For transport datagrams; `aes`: both ends have AES in hardware."""


class NoiseSuite:
    """The real one."""

    __slots__ = ()

    def initiator(
        self, prologue: bytes, psk: bytes, static: tuple[bytes, bytes], ephemeral_private: bytes, remote_static: bytes
    ) -> HandshakeState:
        return HandshakeState(PATTERN, True, prologue, static[0], ephemeral_private, remote_static, psk)

    def responder(self, prologue: bytes, psk: bytes, static: tuple[bytes, bytes]) -> HandshakeState:
        return HandshakeState(PATTERN, False, prologue, static[0], None, psk=psk)

    def aead(self, key: bytes, aes: bool) -> AESGCM | ChaCha20Poly1305:
        return AESGCM(key) if aes else ChaCha20Poly1305(key)


NOISE: Final = NoiseSuite()
