"""The Noise Protocol Framework over Curve25519: one handshake, as a machine that writes and reads messages.

Pure: keys, ephemeral ones too, are handed in; there is no clock, no socket and no randomness here. It never looks
into payloads and never sends anything; what travels after the handshake is `dht.session`.
Source: Trevor Perrin, "The Noise Protocol Framework", revision 34 (2018-07-11), https://noiseprotocol.org/noise.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from dht.errors import BadDatagram

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
MAX_MESSAGE_BYTES: Final = 65535
REMEMBERED: Final = 4096  # secrets of our static key and another: as many as a node has peers at most

Cipher = Literal["ChaChaPoly", "AESGCM"]
Digest = Literal["BLAKE2s", "SHA256"]


class Pattern(NamedTuple):
    """Which public keys are known beforehand, and the tokens of each message; the initiator writes the first."""

    initiator_knows_itself: bool
    initiator_knows_responder: bool
    messages: tuple[tuple[str, ...], ...]


# Section 7.5. N, K, X, I: the initiator's static key is absent, known beforehand, sent late, or sent at once.
PATTERNS: Final = {
    "NN": Pattern(False, False, (("e",), ("e", "ee"))),
    "NK": Pattern(False, True, (("e", "es"), ("e", "ee"))),
    "KK": Pattern(True, True, (("e", "es", "ss"), ("e", "ee", "se"))),
    "XK": Pattern(False, True, (("e", "es"), ("e", "ee"), ("s", "se"))),
    "IK": Pattern(False, True, (("e", "es", "s", "ss"), ("e", "ee", "se"))),
    "XX": Pattern(False, False, (("e",), ("e", "ee", "s", "es"), ("s", "se"))),
    "IX": Pattern(False, False, (("e", "s"), ("e", "ee", "se", "s", "es"))),
}


@lru_cache(maxsize=64)
def pattern_named(name: str) -> Pattern:
    """The pattern called `name`, such as `IK` or `IKpsk2`: section 9.4 puts psk0 first, pskN after message N."""
    found = re.fullmatch(r"([A-Z]{2})(?:psk([0-9]))?", name)
    if found is None or found[1] not in PATTERNS:
        raise ValueError(f"'{name}' is no pattern we know")
    pattern = PATTERNS[found[1]]
    if found[2] is None:
        return pattern
    messages = list(pattern.messages)
    after = int(found[2])
    if after == 0:
        messages[0] = ("psk", *messages[0])
    elif after <= len(messages):
        messages[after - 1] = (*messages[after - 1], "psk")
    else:
        raise ValueError(f"'{name}' has no message {after}")
    return pattern._replace(messages=tuple(messages))


# Deriving the public key costs as much as a whole Diffie-Hellman, and a node's static key is always the same. A process
# of the real world has one; a simulation, one a node.
@lru_cache(maxsize=16384)
def _static_pair(private: bytes) -> tuple[X25519PrivateKey, bytes]:
    key = X25519PrivateKey.from_private_bytes(private)
    return key, key.public_key().public_bytes_raw()


def public_key(private: bytes) -> bytes:
    """The X25519 public key (32 bytes) that belongs to a private one (32 bytes)."""
    return _static_pair(private)[1]


def _exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # the shared secret would be all zeros, whatever our private key
        raise BadDatagram("a public key is a point of low order") from None


# Of two static keys the secret is always the same, and two nodes that talk renew their keys every two minutes. Whoever
# could read it here could read the private key as well. WireGuard's implementations keep it too
# (`precomputed_static_static` in those for Linux and in Go).
_exchange_statics = lru_cache(maxsize=REMEMBERED)(_exchange)


def remember(entries: int) -> None:
    """Remember so many secrets of two static keys, for a process in which more nodes than usual live."""
    global _exchange_statics  # noqa: PLW0603
    _exchange_statics = lru_cache(maxsize=entries)(_exchange)


class CipherState:
    """An AEAD key with Noise's nonces: 96 bits, 32 of them zero, then the counter, in each cipher's byte order."""

    __slots__ = ("_aead", "_order")

    def __init__(self, cipher: Cipher, key: bytes) -> None:
        self._aead = AESGCM(key) if cipher == "AESGCM" else ChaCha20Poly1305(key)
        self._order: Literal["big", "little"] = "big" if cipher == "AESGCM" else "little"

    def encrypt(self, counter: int, associated: bytes, plaintext: bytes) -> bytes:
        return self._aead.encrypt(bytes(4) + counter.to_bytes(8, self._order), plaintext, associated)

    def decrypt(self, counter: int, associated: bytes, ciphertext: bytes) -> bytes:
        """Raises BadDatagram when `ciphertext` is not what the other end encrypted under `counter`."""
        try:
            return self._aead.decrypt(bytes(4) + counter.to_bytes(8, self._order), ciphertext, associated)
        except InvalidTag:
            raise BadDatagram("a Noise message does not authenticate") from None


class _SymmetricState(NamedTuple):
    """Section 5.2. A value: each step gives a new state, so that a message refused half-way changes nothing. `key` is
    the cipher's; a state of its own is made only to encrypt, as half of the keys are mixed further before that."""

    cipher: Cipher
    digest: Digest
    chaining_key: bytes
    hash: bytes
    key: bytes | None = None
    counter: int = 0

    @classmethod
    def begin(cls, protocol: str, cipher: Cipher, digest: Digest) -> _SymmetricState:
        name = protocol.encode()
        first = name.ljust(32, b"\0") if len(name) <= 32 else _digest(digest, name)
        return cls(cipher, digest, first, first)

    def mix_hash(self, data: bytes) -> _SymmetricState:
        mixed = _digest(self.digest, self.hash + data)
        return _SymmetricState(self.cipher, self.digest, self.chaining_key, mixed, self.key, self.counter)

    def mix_key(self, material: bytes) -> _SymmetricState:
        chaining_key, key = self.derive(material, 2)
        return _SymmetricState(self.cipher, self.digest, chaining_key, self.hash, key)

    def mix_key_and_hash(self, psk: bytes) -> _SymmetricState:
        chaining_key, addition, key = self.derive(psk, 3)
        return _SymmetricState(self.cipher, self.digest, chaining_key, _digest(self.digest, self.hash + addition), key)

    def encrypt(self, plaintext: bytes) -> tuple[_SymmetricState, bytes]:
        if self.key is None:
            return self.mix_hash(plaintext), plaintext
        sealed = CipherState(self.cipher, self.key).encrypt(self.counter, self.hash, plaintext)
        return self._past(sealed), sealed

    def decrypt(self, sealed: bytes) -> tuple[_SymmetricState, bytes]:
        if self.key is None:
            return self.mix_hash(sealed), sealed
        plaintext = CipherState(self.cipher, self.key).decrypt(self.counter, self.hash, sealed)
        return self._past(sealed), plaintext

    def _past(self, sealed: bytes) -> _SymmetricState:
        """What follows once `sealed` was written or read."""
        mixed = _digest(self.digest, self.hash + sealed)
        return _SymmetricState(self.cipher, self.digest, self.chaining_key, mixed, self.key, self.counter + 1)

    def derive(self, material: bytes, outputs: int) -> list[bytes]:
        """HKDF of section 4.3: `outputs` keys of 32 bytes."""
        inner, outer = _hmac_keys(self.chaining_key)
        secret = _digest(self.digest, outer + _digest(self.digest, inner + material))
        inner, outer = _hmac_keys(secret)
        keys, last = [], b""
        for number in range(1, outputs + 1):
            last = _digest(self.digest, outer + _digest(self.digest, inner + last + bytes((number,))))
            keys.append(last)
        return keys


def _digest(digest: Digest, data: bytes) -> bytes:
    return (hashlib.blake2s(data) if digest == "BLAKE2s" else hashlib.sha256(data)).digest()


def _hmac_keys(key: bytes) -> tuple[bytes, bytes]:
    """RFC 2104, for a key of at most a block, which is of 64 bytes in both of our hashes. OpenSSL's HMAC looks its hash
    up by name every time, which takes five times as long as hashing."""
    block = key.ljust(64, b"\0")
    return block.translate(_INNER), block.translate(_OUTER)


_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class HandshakeState:
    """One end of one handshake (section 5.3). Call `write` and `read` in turns until `complete`, then `split`.

    A message that `read` refuses leaves the state as it was, so a forged answer does not spoil the true one.
    All it holds are values, so a `copy.copy` goes its own way. Calling out of turn is our own mistake and fails an
    assertion.
    """

    __slots__ = ("_ephemeral", "_initiator", "_messages", "_next", "_psk", "_remote", "_static", "_symmetric")

    def __init__(
        self,
        pattern: str,
        initiator: bool,
        prologue: bytes,
        static_private: bytes | None,
        ephemeral_private: bytes | None,
        remote_static: bytes | None = None,
        psk: bytes | None = None,
        cipher: Cipher = "ChaChaPoly",
        digest: Digest = "BLAKE2s",
    ) -> None:
        described = pattern_named(pattern)
        self._initiator = initiator
        self._messages = described.messages
        self._next = 0
        self._static = None if static_private is None else _static_pair(static_private)
        self._ephemeral: tuple[X25519PrivateKey, bytes] | None = None
        if ephemeral_private is not None:
            self.use_ephemeral(ephemeral_private)
        self._remote = _Remote(remote_static)
        assert ("psk" in pattern) == (psk is not None) and (psk is None or len(psk) == KEY_BYTES)
        self._psk = psk
        symmetric = _SymmetricState.begin(f"Noise_{pattern}_25519_{cipher}_{digest}", cipher, digest)
        symmetric = symmetric.mix_hash(prologue)
        if described.initiator_knows_itself:
            symmetric = symmetric.mix_hash(self._public_static(of_initiator=True))
        if described.initiator_knows_responder:
            symmetric = symmetric.mix_hash(self._public_static(of_initiator=False))
        self._symmetric = symmetric

    def _public_static(self, of_initiator: bool) -> bytes:
        if of_initiator == self._initiator:
            assert self._static is not None, "the pattern needs our static key"
            return self._static[1]
        assert self._remote.static is not None, "the pattern needs the other end's static key beforehand"
        return self._remote.static

    def use_ephemeral(self, private: bytes) -> None:
        """A responder needs its ephemeral key (32 bytes, never used before) only to answer, and may not answer."""
        assert self._ephemeral is None, "an ephemeral key is used once"
        key = X25519PrivateKey.from_private_bytes(private)
        self._ephemeral = key, key.public_key().public_bytes_raw()

    @property
    def complete(self) -> bool:
        """Whether every message of the pattern was written or read."""
        return self._next == len(self._messages)

    @property
    def remote_static(self) -> bytes | None:
        """The other end's static public key, once known."""
        return self._remote.static

    @property
    def handshake_hash(self) -> bytes:
        """What both ends share, and nobody else has, once `complete`: section 11.2."""
        return self._symmetric.hash

    def write(self, payload: bytes = b"") -> bytes:
        """The next message. Raises BadDatagram when a key the other end gave us is of low order."""
        symmetric = self._symmetric
        parts = []
        for token in self._tokens(writing=True):
            if token == "e":
                assert self._ephemeral is not None, "an ephemeral key is needed to write"
                parts.append(self._ephemeral[1])
                symmetric = self._mix_ephemeral(symmetric, self._ephemeral[1])
            elif token == "s":
                assert self._static is not None, "the pattern needs our static key"
                symmetric, sealed = symmetric.encrypt(self._static[1])
                parts.append(sealed)
            else:
                symmetric = self._mix(symmetric, token, self._remote)
        symmetric, sealed = symmetric.encrypt(payload)
        parts.append(sealed)
        message = b"".join(parts)
        assert len(message) <= MAX_MESSAGE_BYTES
        self._symmetric = symmetric
        self._next += 1
        return message

    def read(self, message: bytes) -> bytes:
        """The payload of the other end's next message. Raises BadDatagram, and then has changed nothing."""
        if len(message) > MAX_MESSAGE_BYTES:
            raise BadDatagram(f"a Noise message of {len(message)} bytes")
        symmetric, remote, at = self._symmetric, self._remote, 0
        for token in self._tokens(writing=False):
            if token == "e":
                key, at = _take(message, at, KEY_BYTES)
                remote = remote._replace(ephemeral=key)
                symmetric = self._mix_ephemeral(symmetric, key)
            elif token == "s":
                sealed, at = _take(message, at, KEY_BYTES if symmetric.key is None else KEY_BYTES + TAG_BYTES)
                symmetric, key = symmetric.decrypt(sealed)
                remote = remote._replace(static=key)
            else:
                symmetric = self._mix(symmetric, token, remote)
        symmetric, payload = symmetric.decrypt(message[at:])
        self._symmetric, self._remote = symmetric, remote
        self._next += 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """The two transport keys: from initiator to responder, and back."""
        assert self.complete, "the handshake is not over"
        forth, back = self._symmetric.derive(b"", 2)
        return forth, back

    def _tokens(self, writing: bool) -> Iterable[str]:
        assert not self.complete, "the handshake is over"
        assert writing == (self._initiator == (self._next % 2 == 0)), "it is the other end's turn"
        return self._messages[self._next]

    def _mix_ephemeral(self, symmetric: _SymmetricState, public: bytes) -> _SymmetricState:
        symmetric = symmetric.mix_hash(public)
        # Section 9.2: with a pre-shared key, the ephemeral also enters the key, or nonces could repeat.
        return symmetric if self._psk is None else symmetric.mix_key(public)

    def _mix(self, symmetric: _SymmetricState, token: str, remote: _Remote) -> _SymmetricState:
        """A Diffie-Hellman token names the initiator's key first: `es` is its ephemeral with our static, or back."""
        if token == "psk":
            assert self._psk is not None
            return symmetric.mix_key_and_hash(self._psk)
        ours, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        pair = self._ephemeral if ours == "e" else self._static
        public = remote.ephemeral if theirs == "e" else remote.static
        assert pair is not None and public is not None, f"the pattern needs a key for {token}"
        exchange = _exchange_statics if token == "ss" else _exchange
        return symmetric.mix_key(exchange(pair[0], public))


class _Remote(NamedTuple):
    static: bytes | None
    ephemeral: bytes | None = None


def _take(message: bytes, at: int, size: int) -> tuple[bytes, int]:
    if len(message) < at + size:
        raise BadDatagram("a Noise message ends within a key")
    return message[at : at + size], at + size
