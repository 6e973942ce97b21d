"""What makes a member of a group, and what follows from it: tags on the wire, proofs, names in the DHT, seals.

| | opened by a secret | named in certificates |
|---|---|---|
| proof | a MAC over both ends' ids and static keys, the prover first | none: the session proved the certificate |
| tag, name in the DHT | follow from the secret: a stranger can't tell which group it is | follow from the name |
| what its DHT entries say | sealed under the secret | in the clear, with the newest notice |
| who may publish them | whoever the secret vouches for (`dht.vouchers`) | whoever's certificate names the group |
| taking a right away | a new secret with a higher epoch | a notice with a higher epoch (`dht.groups.notice`) |

A proof travels inside a session, so nobody else sees it; ids and static keys tie it to the two ends of that session,
and their order to its direction, so it is worth nothing anywhere else: neither sent back nor passed on, nor in another
network or epoch. Pure, but for `raise_to`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2s
from hmac import compare_digest
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from dht.certificate import Network
from dht.contact import Contact
from dht.errors import BadDatagram
from dht.grants import GROUP_NAME, MAX_EPOCH
from dht.host import Rng
from dht.identity import Identity
from dht.ids import id_bytes
from dht.peer import Peer
from dht.records import Record, group_entry_name
from dht.vouchers import VOUCHER_BYTES, Voucher

TAG_BYTES: Final = 8
SECRET_BYTES: Final = 32
PROOF_BYTES: Final = 32
MAX_PROOF_BYTES: Final = PROOF_BYTES
_NONCE_BYTES: Final = 12
_LENGTH_BYTES: Final = 2  # of a contact, in front of it
_SECRET_TEXT: Final = re.compile(r"p2pvpn group secret (0|[1-9][0-9]{0,9}) ([0-9a-f]{64})\n?")


@dataclass(frozen=True, slots=True)
class GroupSecret:
    """32 secret bytes that open a group, and their epoch: of two secrets of a group, the one with the higher epoch
    counts. Raises ValueError."""

    secret: bytes = field(repr=False)
    epoch: int = 0

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a group secret has {SECRET_BYTES} bytes, not {len(self.secret)}")
        if not 0 <= self.epoch <= MAX_EPOCH:
            raise ValueError(f"a group secret's epoch is from 0 to {MAX_EPOCH}")

    @classmethod
    def new(cls, rng: Rng, after: GroupSecret | None = None) -> GroupSecret:
        """A fresh secret, which takes the place of `after`."""
        return cls(rng.randbytes(SECRET_BYTES), 0 if after is None else after.epoch + 1)

    @classmethod
    def open_to_all(cls, network: Network, purpose: str) -> GroupSecret:
        """For groups that every member of the network may join: it follows from the network's own secret."""
        return cls(blake2s(b"p2pvpn/1 open group\0" + purpose.encode(), key=network.secret).digest())

    def to_text(self) -> str:
        """One line, as kept in files."""
        return f"p2pvpn group secret {self.epoch} {self.secret.hex()}\n"

    @classmethod
    def from_text(cls, text: str) -> GroupSecret:
        """The inverse of `to_text`. Raises ValueError."""
        found = _SECRET_TEXT.fullmatch(text)
        if found is None:
            raise ValueError("this is no group secret: expected one line, 'p2pvpn group secret EPOCH HEX'")
        return cls(bytes.fromhex(found[2]), int(found[1]))


class Right(Protocol):
    """Why this node, and others, are members of one group."""

    @property
    def name(self) -> str: ...

    @property
    def epoch(self) -> int: ...

    @property
    def tag(self) -> bytes:
        """By what messages of the group are told from others': TAG_BYTES."""

    @property
    def entry_name(self) -> str:
        """The DHT name under which members find each other."""

    @property
    def holds(self) -> bool:
        """Whether this node itself still has the right."""

    def proof(self, to: Peer) -> bytes:
        """What shows `to` that this node is a member."""

    def accepts(self, peer: Peer, proof: bytes) -> bool:
        """Whether `peer` is a member, going by its proof."""

    def still(self, peer: Peer) -> bool:
        """Whether a peer that was accepted is a member yet."""

    def entry(self, contact: Contact, notice: bytes, rng: Rng) -> bytes:
        """The value of this node's entry in the DHT, with the newest notice that it knows, packed."""

    def no_entry(self, node_id: int) -> bytes:
        """What this node leaves in place of its entry when it withdraws that."""

    def read_entry(self, record: Record) -> Contact | None:
        """Whom an entry names; None when its owner is no member, as far as the entry shows."""

    def read_notice(self, record: Record) -> bytes:
        """The notice that comes with an entry, not proven; empty when there is none."""


class SecretRight:
    """For a group that is opened by a secret."""

    holds = True

    def __init__(self, identity: Identity, name: str, secret: GroupSecret) -> None:
        check_group_name(name)
        self.name, self.epoch, self.secret = name, secret.epoch, secret
        self._identity = identity
        scope = identity.network.id + secret.epoch.to_bytes(4, "big") + name.encode()
        self._key = blake2s(b"p2pvpn/1 group\0" + scope, key=secret.secret).digest()
        self.tag = self._derived(b"tag")[:TAG_BYTES]
        self._voucher = Voucher(identity.network.id, self._derived(b"voucher"))
        self.entry_name = group_entry_name(None, self._voucher.digest)
        self._aead = ChaCha20Poly1305(self._derived(b"seal"))

    def _derived(self, purpose: bytes) -> bytes:
        return blake2s(purpose, key=self._key).digest()

    def proof(self, to: Peer) -> bytes:
        own = self._identity
        return self._proof(own.member.id, own.static_public, to.id, to.static)

    def accepts(self, peer: Peer, proof: bytes) -> bool:
        own = self._identity
        return compare_digest(proof, self._proof(peer.id, peer.static, own.member.id, own.static_public))

    def _proof(self, prover: int, prover_static: bytes, verifier: int, verifier_static: bytes) -> bytes:
        text = b"proof" + id_bytes(prover) + prover_static + id_bytes(verifier) + verifier_static
        return self._derived(text)

    def still(self, peer: Peer) -> bool:
        return True  # a new secret is a new right

    def entry(self, contact: Contact, notice: bytes, rng: Rng) -> bytes:
        nonce = rng.randbytes(_NONCE_BYTES)
        sealed = self._aead.encrypt(nonce, contact.pack(), id_bytes(contact.id))
        return self._voucher.vouch(contact.id) + nonce + sealed

    def no_entry(self, node_id: int) -> bytes:
        return self._voucher.vouch(node_id)

    def read_entry(self, record: Record) -> Contact | None:
        value = record.value[VOUCHER_BYTES:]
        nonce, sealed = value[:_NONCE_BYTES], value[_NONCE_BYTES:]
        try:
            # With its owner's id, as a member may publish here a copy of another's entry.
            packed = self._aead.decrypt(nonce, sealed, id_bytes(record.owner.id))
        except (InvalidTag, ValueError):  # ValueError: cut short
            return None
        return _contact(packed, record)

    def read_notice(self, record: Record) -> bytes:
        return b""


class CertificateRight:
    """For a group that certificates name."""

    def __init__(self, identity: Identity, name: str, epoch: int = 0) -> None:
        check_group_name(name)
        self.name, self.epoch = name, epoch
        self._identity = identity
        self.tag = blake2s(b"p2pvpn/1 group tag\0" + name.encode(), key=identity.network.id).digest()[:TAG_BYTES]
        self.entry_name = group_entry_name(name)

    def raise_to(self, epoch: int) -> bool:
        """A notice says that grants below `epoch` are void; whether that is news."""
        news = epoch > self.epoch
        self.epoch = max(epoch, self.epoch)
        return news

    @property
    def holds(self) -> bool:
        return self._counts(self._identity.member.granted(self.name))

    def proof(self, to: Peer) -> bytes:
        return b""

    def accepts(self, peer: Peer, proof: bytes) -> bool:
        return self.still(peer)

    def still(self, peer: Peer) -> bool:
        return self._counts(peer.member.granted(self.name))

    def _counts(self, granted: int | None) -> bool:
        return granted is not None and granted >= self.epoch

    def entry(self, contact: Contact, notice: bytes, rng: Rng) -> bytes:
        packed = contact.pack()
        return len(packed).to_bytes(_LENGTH_BYTES, "big") + packed + notice

    def no_entry(self, node_id: int) -> bytes:
        return b""

    def read_entry(self, record: Record) -> Contact | None:
        packed = record.value[_LENGTH_BYTES : self._notice_at(record)]
        return _contact(packed, record) if self._counts(record.owner.granted(self.name)) else None

    def read_notice(self, record: Record) -> bytes:
        return record.value[self._notice_at(record) :]

    @staticmethod
    def _notice_at(record: Record) -> int:
        return _LENGTH_BYTES + int.from_bytes(record.value[:_LENGTH_BYTES], "big")


def check_group_name(name: str) -> None:
    """Raises ValueError for what can't be a group's name."""
    if not GROUP_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no group name: up to 32 of a-z, 0-9 and '-', not starting with '-'")


def _contact(packed: bytes, record: Record) -> Contact | None:
    try:
        contact = Contact.parse(packed)
    except BadDatagram:
        return None
    return contact if contact.id == record.owner.id else None
