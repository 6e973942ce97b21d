"""Who may publish under a name that hides a group: whoever the group's secret vouches for. Pure.

    name:    subring:~ and, in hexadecimal, 20 bytes of the digest of a public key that follows from the group's secret
    value:   public key (32) | signature (64) | whatever

The signature is the group's, over the network and the owner of the record. So whoever stores records can tell those of
the group's members from those of others who found the name, and refuses these: else a few of them, with newer records
than the members', would crowd the members' out. It says nothing of which group it is, nor who else is in it.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dht.errors import BadDatagram
from dht.ids import id_bytes

KEY_BYTES: Final = 32
DIGEST_BYTES: Final = 20
VOUCHER_BYTES: Final = KEY_BYTES + 64


class Voucher:
    """The key pair of one group's secret. `seed`: 32 bytes that follow from the secret."""

    def __init__(self, network_id: bytes, seed: bytes) -> None:
        self._network_id = network_id
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._private.public_key().public_bytes_raw()
        self.digest = _digest(self._public)

    def vouch(self, owner_id: int) -> bytes:
        """What stands in front of the value of a record of this owner: VOUCHER_BYTES."""
        return self._public + self._private.sign(_text(self._network_id, owner_id))


def check_voucher(network_id: bytes, digest: bytes, owner_id: int, value: bytes) -> None:
    """Raises BadDatagram unless the group whose name says `digest` vouches for the owner of a record of this value."""
    public, signature = value[:KEY_BYTES], value[KEY_BYTES:VOUCHER_BYTES]
    if len(value) < VOUCHER_BYTES or _digest(public) != digest:
        raise BadDatagram("a record under a group's hidden name has no voucher of that group")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _text(network_id, owner_id))
    except (InvalidSignature, ValueError):
        raise BadDatagram("a record under a group's hidden name is not vouched for by the group") from None


def _digest(public: bytes) -> bytes:
    return blake2s(b"p2pvpn/1 hidden group\0" + public).digest()[:DIGEST_BYTES]


def _text(network_id: bytes, owner_id: int) -> bytes:
    return b"p2pvpn/1 group entry\0" + network_id + id_bytes(owner_id)
