"""A node's own identity, and signatures by members.

Every signature names its purpose and its network, so that one made for one use is worth nothing in another.
The node's Ed25519 key never signs X.509, and the X25519 key of the handshake is derived from it and signed by
it. This module never sends or stores a key.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2s

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dht.certificate import KEY_BYTES, SIGNATURE_BYTES, Member, Network, read_certificate
from dht.errors import BadDatagram, CertificateRefused
from dht.ids import short
from dht.suite import NOISE, Suite

STATIC_KEY_PURPOSE = "static key"


class Identity:
    """Who this node is: its membership and the keys that prove it.

    Raises CertificateRefused when the certificate doesn't prove membership now, or isn't for this key.
    """

    __slots__ = ("_signing_key", "member", "network", "static_private", "static_public", "static_signature", "suite")

    def __init__(
        self, network: Network, certificate: bytes, signing_seed: bytes, now: float, suite: Suite = NOISE
    ) -> None:
        self.network, self.suite = network, suite
        self.member: Member = read_certificate(network, certificate, now)
        self._signing_key = Ed25519PrivateKey.from_private_bytes(signing_seed)
        if self._signing_key.public_key().public_bytes_raw() != self.member.public_key:
            raise CertificateRefused(f"the certificate of '{self.member.name}' is for another private key")
        # Derived, so that a bundle holds one secret and a restarted node keeps its static key.
        self.static_private = blake2s(b"p2pvpn/1 static", key=signing_seed, digest_size=KEY_BYTES).digest()
        self.static_public = X25519PrivateKey.from_private_bytes(self.static_private).public_key().public_bytes_raw()
        self.static_signature = self.sign(STATIC_KEY_PURPOSE, self.static_public)

    def __repr__(self) -> str:
        return f"Identity({self.member.name!r}, {short(self.member.id)}, network {self.network.name!r})"

    def secret(self, purpose: str) -> bytes:
        """32 bytes that are the same in every run, and that nobody can make without this node's key."""
        return blake2s(b"p2pvpn/1 secret " + purpose.encode(), key=self.static_private).digest()

    def sign(self, purpose: str, content: bytes) -> bytes:
        """This node's signature, 64 bytes, of `content` for one purpose in this network."""
        return self._signing_key.sign(_signed_text(self.network, purpose, content))


def check_signature(member: Member, network: Network, purpose: str, content: bytes, signature: bytes) -> None:
    """Raises BadDatagram unless `member` signed `content` for this purpose in this network."""
    if len(signature) != SIGNATURE_BYTES:
        raise BadDatagram(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    try:
        _verify(member.public_key, _signed_text(network, purpose, content), signature)
    except InvalidSignature:
        raise BadDatagram(f"'{member.name}' did not sign this {purpose}") from None


# Every full handshake brings the same signature of the same static key. What is refused raises, and so isn't
# remembered: only members fill this.
@lru_cache(maxsize=4096)
def _verify(public_key: bytes, text: bytes, signature: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text)


def _signed_text(network: Network, purpose: str, content: bytes) -> bytes:
    # The zero byte ends the purpose and the network's id has a fixed length: no two triples give one text.
    assert "\0" not in purpose
    return b"p2pvpn/1 " + purpose.encode() + b"\0" + network.id + content
