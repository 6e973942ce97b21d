"""The authority's word that a group's members were decided anew: grants of lower epochs count no more.

On the wire: a packed map {group, epoch, issued} | the authority's Ed25519 signature (64). Any member may pass a notice
on, as nobody can alter it. The signed text begins with words that no certificate begins with. Never sends anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dht.certificate import SIGNATURE_BYTES, Network
from dht.errors import BadDatagram
from dht.grants import GROUP_NAME, MAX_EPOCH
from dht.packing import Fields, pack

MAX_NOTICE_BYTES: Final = 160
_GROUP, _EPOCH, _ISSUED = range(3)


@dataclass(frozen=True, slots=True)
class EpochNotice:
    """From `epoch` on, only members whose certificates grant it, or a later one, belong to `group`. Made by `sign` and
    `parse` alone, so always proven. `issued`: seconds since the Unix epoch."""

    group: str
    epoch: int
    issued: int
    raw: bytes = field(repr=False)

    @classmethod
    def sign(cls, network: Network, sign: Callable[[bytes], bytes], group: str, epoch: int, issued: int) -> EpochNotice:
        """A new notice; `sign(text)` is the authority's signature of a text."""
        body = pack({_GROUP: group, _EPOCH: epoch, _ISSUED: issued})
        return cls.parse(network, body + sign(_signed_text(network, body)))

    @classmethod
    def parse(cls, network: Network, raw: bytes) -> EpochNotice:
        """The notice in `raw`. Raises BadDatagram."""
        group, epoch, issued = _read(raw)
        body, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(network.authority_key).verify(signature, _signed_text(network, body))
        except InvalidSignature:
            raise BadDatagram("a notice without this network's authority's signature") from None
        return cls(group, epoch, issued, raw)

    @staticmethod
    def claimed(raw: bytes) -> tuple[str, int]:
        """Group and epoch as `raw` has them, which costs no check of a signature and proves nothing. Raises
        BadDatagram."""
        group, epoch, _ = _read(raw)
        return group, epoch


def _read(raw: bytes) -> tuple[str, int, int]:
    if not SIGNATURE_BYTES < len(raw) <= MAX_NOTICE_BYTES:
        raise BadDatagram(f"a notice of {len(raw)} bytes")
    fields = Fields.parse(raw[:-SIGNATURE_BYTES], "notice")
    group = fields.text(_GROUP, 32)
    if not GROUP_NAME.fullmatch(group):
        raise BadDatagram("a notice names no group")
    return group, fields.integer(_EPOCH, 0, MAX_EPOCH), fields.integer(_ISSUED, 0, 1 << 53)


def _signed_text(network: Network, body: bytes) -> bytes:
    return b"p2pvpn/1 group epoch\0" + network.id + body
