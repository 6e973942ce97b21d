"""What members of one network say to each other on a link, and nobody else can read or make. Pure: no clock, no I/O.

    nonce (12) | sealed {kind, flags, sequence (8), token (12), id or contact, zeros}      always 220 bytes

Sealed under a key derived from the network secret. To whoever lacks it all datagrams are noise of one length: no
header, no identity, nothing that tells question from answer. The nonce is random; one network's members together
would have to send for millennia, at the rate that `shortcuts.lan` allows, before two are likely to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2s
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from dht.certificate import Network
from dht.contact import Contact
from dht.errors import BadDatagram
from dht.ids import ID_BYTES, id_bytes

NONCE_BYTES: Final = 12
TOKEN_BYTES: Final = 12
PLAINTEXT_BYTES: Final = 192
DATAGRAM_BYTES: Final = NONCE_BYTES + PLAINTEXT_BYTES + 16

_QUESTION: Final = 1
_ANSWER: Final = 2
_SEEKING: Final = 1
_HEAD: Final = Struct(f">BBQ{TOKEN_BYTES}sB")  # kind, flags, sequence, token, length of what follows


@dataclass(frozen=True, slots=True)
class LanQuestion:
    """Who else is here? `sequence` grows with every question of a member; `token` is 12 random bytes that an answer
    repeats. `seeking`: the asker is new here, and answers are wanted also from those who gave one before."""

    id: int
    sequence: int
    token: bytes
    seeking: bool


@dataclass(frozen=True, slots=True)
class LanAnswer:
    """I am: the answer to the question with this `token`. `sequence` is that of the answerer's own last question.
    The contact is a hint, as all are."""

    sequence: int
    token: bytes
    contact: Contact


class LanCipher:
    """Seals and opens the datagrams of one network."""

    __slots__ = ("_cipher",)

    def __init__(self, network: Network) -> None:
        self._cipher = ChaCha20Poly1305(blake2s(b"p2pvpn/1 lan\0", key=network.mac_key()).digest())

    def seal(self, message: LanQuestion | LanAnswer, nonce: bytes) -> bytes:
        """The datagram that says `message`. `nonce` is 12 random bytes."""
        if isinstance(message, LanQuestion):
            kind, flags, sequence, rest = _QUESTION, _SEEKING * message.seeking, message.sequence, id_bytes(message.id)
        else:
            kind, flags, sequence, rest = _ANSWER, 0, message.sequence, message.contact.pack()
        plaintext = _HEAD.pack(kind, flags, sequence, message.token, len(rest)) + rest
        return nonce + self._cipher.encrypt(nonce, plaintext.ljust(PLAINTEXT_BYTES, b"\0"), None)

    def open(self, datagram: bytes) -> LanQuestion | LanAnswer:
        """The inverse of `seal`. Raises BadDatagram."""
        if len(datagram) != DATAGRAM_BYTES:
            raise BadDatagram(f"not {DATAGRAM_BYTES} bytes: somebody else's")
        try:
            plaintext = self._cipher.decrypt(datagram[:NONCE_BYTES], datagram[NONCE_BYTES:], None)
        except InvalidTag:
            raise BadDatagram("from outside the network") from None
        kind, flags, sequence, token, length = _HEAD.unpack_from(plaintext)
        rest = plaintext[_HEAD.size : _HEAD.size + length]
        match kind:
            case 1 if length == ID_BYTES:
                return LanQuestion(int.from_bytes(rest, "big"), sequence, token, bool(flags & _SEEKING))
            case 2 if length == len(rest):
                return LanAnswer(sequence, token, Contact.parse(rest))
        raise BadDatagram(f"a message on the link of kind {kind} and {length} bytes")
