"""Owner-signed records: what the ring stores under a name, and what anybody can check about it.

On the wire: length of body (2) | body | length of certificate (2) | certificate | signature (64). The body is a
packed map; the signature covers every byte before it as it stands, so no re-encoding of a record passes for it.
Replicas need not be trusted: they can withhold a record, never alter or invent one. Names `ip:<address>` belong
to the member whose certificate holds the address, `node:<id>` to the member with that id, `name:<node name>` to the
member of that name, `subring:<group>` to the members whose certificates name the group, `subring:~<hash>` to those for
whom a group's secret vouches (`dht.vouchers`); all others are anybody's. Never stores or sends anything. The idea of
signed, numbered records is BEP 44's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from dht.certificate import MAX_CERTIFICATE_BYTES, Member, Network, prove_certificate, read_certificate
from dht.errors import BadDatagram
from dht.grants import GROUP_NAME
from dht.identity import Identity, check_signature
from dht.ids import RING, key_of
from dht.packing import Fields, pack
from dht.vouchers import check_voucher

MAX_RECORD_BYTES: Final = 2048
MAX_NAME_CHARS: Final = 128
MAX_VALUE_BYTES: Final = 1024
MAX_SEQUENCE: Final = (1 << 64) - 1
MAX_LIFETIME_S: Final = 3 * 3600
CLOCK_TOLERANCE_S: Final = 600  # An owner whose clock is this far ahead of ours may still ask for the full lifetime.
REPLICAS: Final = 4

_PURPOSE = "record"
_SIGNATURE_BYTES = 64
# Every replica of one lookup sends the same bytes; each is proven once. At most 2 MiB of raw records.
_PROVEN_RECORDS = 1024

_HIDDEN_GROUP = re.compile("~[0-9a-f]{40}")

_NAME, _SEQUENCE, _EXPIRES_AT, _EXCLUSIVE, _VALUE = range(5)


def replica_points(key: int, replicas: int = REPLICAS) -> tuple[int, ...]:
    """Where the records of `key` live: `replicas` equally spaced places on the ring, the key itself first."""
    return tuple((key + copy * RING // replicas) % RING for copy in range(replicas))


def address_name(address: IPv4Address | IPv6Address) -> str:
    """The name under which the holder of a virtual address publishes itself."""
    return f"ip:{address}"


def node_name(node_id: int) -> str:
    """The name under which a node publishes where it can be reached."""
    return f"node:{node_id:040x}"


def host_name(name: str) -> str:
    """The name under which the node called `name` in its certificate publishes itself."""
    return f"name:{name}"


def group_entry_name(group: str | None, digest: bytes = b"") -> str:
    """The name under which a group's members publish themselves; `digest` stands for a group that strangers are not to
    know by name."""
    return f"subring:~{digest.hex()}" if group is None else f"subring:{group}"


def is_group_entry(name: str) -> bool:
    """Whether members of a group publish themselves under this name."""
    return name.startswith("subring:")


@dataclass(frozen=True, slots=True)
class Record:
    """A value under a name, signed by its owner. Made by `sign` and `parse` alone, so always proven."""

    name: str
    owner: Member
    sequence: int
    expires_at: int  # seconds since the Unix epoch
    exclusive: bool  # no other owner may have a record under this name
    value: bytes
    raw: bytes = field(repr=False)
    key: int = field(repr=False)

    @property
    def body(self) -> memoryview:
        """The bytes that say everything but who signed: equal bodies of one owner are the same record, though a
        renewed certificate may have come with one of them."""
        return memoryview(self.raw)[2 : 2 + int.from_bytes(self.raw[:2], "big")]

    @classmethod
    def sign(
        cls, identity: Identity, name: str, value: bytes, sequence: int, expires_at: int, exclusive: bool = False
    ) -> Record:
        """A record of our own. Raises ValueError when no other node would take it."""
        body = pack({_NAME: name, _SEQUENCE: sequence, _EXPIRES_AT: expires_at, _EXCLUSIVE: exclusive, _VALUE: value})
        certificate = identity.member.certificate
        content = len(body).to_bytes(2, "big") + body + len(certificate).to_bytes(2, "big") + certificate
        raw = content + identity.sign(_PURPOSE, content)
        try:
            return _prove(identity.network, raw)
        except BadDatagram as refusal:
            raise ValueError(f"the record '{name}' would be refused: {refusal}") from None

    @classmethod
    def parse(cls, network: Network, raw: bytes | memoryview, now: float) -> Record:
        """The record in `raw`, proven to be its owner's and alive at `now`. Raises BadDatagram."""
        record = _prove(network, bytes(raw))
        if record.expires_at <= now:
            raise BadDatagram(f"the record expired {now - record.expires_at:.0f} s ago")
        if record.expires_at > now + MAX_LIFETIME_S + CLOCK_TOLERANCE_S:
            raise BadDatagram(f"the record would live {record.expires_at - now:.0f} s, longer than {MAX_LIFETIME_S}")
        read_certificate(network, record.owner.certificate, now)  # its validity ends too
        return record


@lru_cache(maxsize=_PROVEN_RECORDS)
def _prove(network: Network, raw: bytes) -> Record:
    """As `Record.parse`, whatever the time. Refusals raise, and so are not remembered."""
    if len(raw) > MAX_RECORD_BYTES:
        raise BadDatagram(f"a record of {len(raw)} bytes, more than {MAX_RECORD_BYTES}")
    body, at = _chunk(raw, 0)
    certificate, at = _chunk(raw, at)
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise BadDatagram(f"a record's certificate has {len(certificate)} bytes, more than {MAX_CERTIFICATE_BYTES}")
    if len(raw) - at != _SIGNATURE_BYTES:
        raise BadDatagram(f"a record ends in {len(raw) - at} bytes, not in a signature of {_SIGNATURE_BYTES}")
    owner = prove_certificate(network, certificate)
    check_signature(owner, network, _PURPOSE, raw[:at], raw[at:])
    fields = Fields.parse(body, "record", max_bytes=MAX_RECORD_BYTES)
    name = fields.text(_NAME, MAX_NAME_CHARS)
    value = fields.octets(_VALUE, 0, MAX_VALUE_BYTES)
    _check_name(network, name, owner, value)
    return Record(
        name=name,
        owner=owner,
        sequence=fields.integer(_SEQUENCE, 0, MAX_SEQUENCE),
        expires_at=fields.integer(_EXPIRES_AT, 0, 1 << 53),
        exclusive=fields.flag(_EXCLUSIVE),
        value=value,
        raw=raw,
        key=key_of(name),
    )


def _chunk(raw: bytes, at: int) -> tuple[bytes, int]:
    """The bytes behind the length at `at`, and where they end."""
    start = at + 2
    end = start + int.from_bytes(raw[at:start], "big")
    if start > len(raw) or end > len(raw):
        raise BadDatagram("a record is cut short")
    return raw[start:end], end


def _check_name(network: Network, name: str, owner: Member, value: bytes) -> None:
    if not name:
        raise BadDatagram("a record has no name")
    if name.startswith("node:") and name != node_name(owner.id):
        raise BadDatagram(f"'{owner.name}' may not publish '{name}': it is another node, or not an id")
    if name.startswith("name:") and name != host_name(owner.name):
        raise BadDatagram(f"'{owner.name}' may not publish '{name}': its certificate says another name")
    if is_group_entry(name):
        group = name.removeprefix("subring:")
        if _HIDDEN_GROUP.fullmatch(group):
            check_voucher(network.id, bytes.fromhex(group[1:]), owner.id, value)
        elif not GROUP_NAME.fullmatch(group) or owner.granted(group) is None:
            raise BadDatagram(f"'{owner.name}' may not publish '{name}': its certificate names no such group")
    if name.startswith("ip:"):
        try:
            address = ip_address(name.removeprefix("ip:"))
        except ValueError:
            raise BadDatagram(f"'{name}' names no address") from None
        # One spelling only: `ip:FD00::1` and `ip:fd00::1` are different keys, and nobody looks for the first.
        if name != address_name(address) or not owner.holds(address):
            raise BadDatagram(f"'{owner.name}' may not publish '{name}': its certificate holds no such address")
