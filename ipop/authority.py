"""The authority of a network: it makes the network, and issues its nodes' certificates from one ledger.

The ledger remembers every name ever issued with its id and address, so that a renewal keeps both and no address
is given twice. It remembers the groups that each node's certificate names, and each group's epoch: `rekey` begins a
new one, and from then on only certificates issued since count. Private keys of nodes are made here, put in the bundle,
and forgotten. Pure: the caller gives time and randomness and keeps the text (`ipop.authority_files`); this module opens
no file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from dht.certificate import (
    NETWORK_NAME,
    NODE_NAME,
    NODE_URI_PREFIX,
    NODE_USAGE,
    Network,
    address6_for,
    network_id,
)
from dht.grants import GROUP_NAME, GROUPS_EXTENSION, MAX_EPOCH, Grant, pack_grants
from dht.groups.notice import EpochNotice
from dht.host import Rng
from dht.ids import BITS, ID_BYTES, id_bytes
from ipop.bundle import Bundle, check_subnet, network_fields, network_from
from ipop.document import SEED_BYTES, Document, seed_text, write
from ipop.errors import SetupError
from ipop.wording import shown

AUTHORITY_FORMAT = "p2pvpn authority"
AUTHORITY_SERIAL = 1  # Of its own certificate; nodes' follow.
YEAR_S = 365 * 86_400.0
_LIKE_AN_ID = re.compile(rf"[0-9a-f]{{{2 * ID_BYTES}}}")  # Commands take a name or an id, and must know which.
BACKDATED_S = 2 * 86_400.0  # A new node's clock may be wrong by a day and a time zone.
LONGEST_LIFETIME_S = 50 * YEAR_S
# RFC 5280 4.1.2.5: no end. A network's authority can't be renewed: another key is another network.
NO_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What the authority has given to one name."""

    id: int
    address: IPv4Address
    serial: int  # of the newest certificate
    not_after: int  # of the newest certificate
    groups: tuple[str, ...] = ()  # that the newest certificate names


def create_authority(name: str, subnet: IPv4Network, now: float, rng: Rng) -> Authority:
    """A new network with its authority. Raises SetupError for a name or subnet that can't be used."""
    if not NETWORK_NAME.fullmatch(name):
        raise SetupError(
            f"'{shown(name)}' can't be a network's name: use up to 32 of a-z, 0-9 and '-',"
            " starting with a letter or digit"
        )
    check_subnet(subnet)
    secret = rng.randbytes(32)
    seed = rng.randbytes(SEED_BYTES)
    return Authority(
        Network(name, _authority_certificate(name, seed, now), secret, subnet), seed, {}, AUTHORITY_SERIAL + 1
    )


class Authority:
    """A network's signing key and ledger. `issue` changes the ledger: save `to_text` before giving the bundle away."""

    def __init__(
        self,
        network: Network,
        signing_seed: bytes,
        ledger: Mapping[str, LedgerEntry],
        next_serial: int,
        epochs: Mapping[str, int] | None = None,
    ) -> None:
        self.network = network
        self._seed = signing_seed
        self._key = Ed25519PrivateKey.from_private_bytes(signing_seed)
        self._ledger = dict(ledger)
        self._next_serial = next_serial
        self._epochs = dict(epochs or {})  # of the groups that were ever rekeyed; of others it is 0
        self._name_of = {entry.address: name for name, entry in self._ledger.items()}
        self._ids_taken = {_top_bits(entry.id) for entry in self._ledger.values()}
        # No address below this offset is free, as none is ever given back; `--address` may take later ones.
        self._lowest_offset = 1

    def __repr__(self) -> str:
        return f"Authority({self.network.name!r}, {len(self._ledger)} nodes)"

    @property
    def ledger(self) -> Mapping[str, LedgerEntry]:
        """Every name ever issued."""
        return self._ledger

    def issue(
        self,
        name: str,
        address: IPv4Address | None,
        now: float,
        rng: Rng,
        lifetime_s: float = YEAR_S,
        groups: Collection[str] | None = None,
    ) -> Bundle:
        """A new key and certificate for `name`, which keeps its id, its address and (`groups` None) its groups if it
        has them. Raises SetupError."""
        check_node_name(name)
        if not 1 <= lifetime_s <= LONGEST_LIFETIME_S:
            raise SetupError(f"a certificate can't live {lifetime_s:.0f} s: choose 1 s to {LONGEST_LIFETIME_S:.0f} s")
        known = self._ledger.get(name)
        if groups is None:
            groups = () if known is None else known.groups
        extension = self._grants(groups)
        if known is None:
            given = self._free_address() if address is None else self._check_address(address)
            node_id = self._free_id(rng)
        else:
            given, node_id = known.address, known.id
            if address is not None and address != given:
                raise SetupError(
                    f"'{name}' already has the address {given} and keeps it: leave --address out or choose another name"
                )
        seed = rng.randbytes(SEED_BYTES)
        not_after = int(now + lifetime_s)
        key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
        certificate = self._certificate(name, node_id, given, key, self._next_serial, int(now), not_after, extension)
        self._ledger[name] = LedgerEntry(node_id, given, self._next_serial, not_after, tuple(sorted(set(groups))))
        self._name_of[given] = name
        self._ids_taken.add(_top_bits(node_id))
        self._next_serial += 1
        return Bundle(self.network, certificate, seed)

    def rekey(self, group: str, now: float) -> EpochNotice:
        """Begin a new epoch of a group: certificates issued before no longer make a member of it, once its members have
        the notice. Changes the ledger. Raises SetupError."""
        check_group_name(group)
        epoch = self._epochs.get(group, 0) + 1
        if epoch > MAX_EPOCH:
            raise SetupError(f"the group '{group}' has had all its epochs: choose another name")
        self._epochs[group] = epoch
        return EpochNotice.sign(self.network, self._key.sign, group, epoch, int(now))

    def members_of(self, group: str) -> list[str]:
        """The nodes whose newest certificate names the group."""
        return [name for name, entry in self._ledger.items() if group in entry.groups]

    def to_text(self) -> str:
        """Everything, the private key and the network secret included."""
        nodes = {
            name: {
                "id": id_bytes(entry.id).hex(),
                "address": str(entry.address),
                "serial": entry.serial,
                "not_after": entry.not_after,
                **({"groups": list(entry.groups)} if entry.groups else {}),
            }
            for name, entry in self._ledger.items()
        }
        return write(
            AUTHORITY_FORMAT,
            {
                "network": network_fields(self.network),
                "private_key": seed_text(self._seed),
                "next_serial": self._next_serial,
                "nodes": nodes,
                **({"group_epochs": self._epochs} if self._epochs else {}),
            },
        )

    @classmethod
    def from_text(cls, text: str, where: str = "authority") -> Authority:
        """The inverse of `to_text`. Every fault is a SetupError which starts with `where`, the file's name."""
        document = Document.parse(text, where, AUTHORITY_FORMAT)
        network = network_from(document.document("network"))
        seed = document.seed("private_key")
        if Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() != network.authority_key:
            document.refuse("private_key", "not the key of the authority's certificate")
        next_serial = document.integer("next_serial", AUTHORITY_SERIAL + 1, 1 << 62)
        ledger = _ledger_from(document.document("nodes"), network.subnet, next_serial)
        return cls(network, seed, ledger, next_serial, _epochs_from(document))

    def _grants(self, groups: Collection[str]) -> bytes | None:
        """The certificate's extension that names these groups, each in its present epoch."""
        for group in groups:
            check_group_name(group)
        if not groups:
            return None
        try:
            return pack_grants(Grant(group, self._epochs.get(group, 0)) for group in groups)
        except ValueError as error:
            raise SetupError(f"{error}: use fewer, or a group secret") from None

    def _free_address(self) -> IPv4Address:
        subnet = self.network.subnet
        for offset in range(self._lowest_offset, subnet.num_addresses - 1):
            address = subnet.network_address + offset
            if address not in self._name_of:
                self._lowest_offset = offset
                return address
        raise SetupError(
            f"every address of {subnet} is given to a node: make a network with a larger subnet (p2pvpn init)"
        )

    def _check_address(self, address: IPv4Address) -> IPv4Address:
        subnet = self.network.subnet
        if address not in subnet:
            raise SetupError(f"the address {address} is outside the network's subnet {subnet}: choose one inside")
        if address in (subnet.network_address, subnet.broadcast_address):
            raise SetupError(f"{address} is the network or broadcast address of {subnet}: choose another")
        if address in self._name_of:
            raise SetupError(
                f"the address {address} belongs to '{self._name_of[address]}': choose another or leave --address out"
            )
        return address

    def _free_id(self, rng: Rng) -> int:
        while True:
            node_id = rng.getrandbits(BITS)
            # The IPv6 address follows from the top bits; all zeros there would be the routers' anycast address.
            if _top_bits(node_id) and _top_bits(node_id) not in self._ids_taken:
                return node_id

    def _certificate(
        self,
        name: str,
        node_id: int,
        address: IPv4Address,
        key: Ed25519PublicKey,
        serial: int,
        now: int,
        not_after: int,
        groups: bytes | None,
    ) -> bytes:
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(NODE_URI_PREFIX + id_bytes(node_id).hex()),
            x509.IPAddress(address),
            x509.IPAddress(address6_for(self.network.prefix6, node_id)),
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(_common_name(name))
            .issuer_name(_common_name(self.network.name))
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(_utc(now - BACKDATED_S))
            .not_valid_after(_utc(not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([NODE_USAGE]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier(self.network.id, None, None), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        if groups is not None:
            builder = builder.add_extension(x509.UnrecognizedExtension(GROUPS_EXTENSION, groups), critical=False)
        return builder.sign(self._key, None).public_bytes(Encoding.DER)


def check_node_name(name: str) -> None:
    """Raises SetupError for a name that a node can't have."""
    if not NODE_NAME.fullmatch(name):
        raise SetupError(
            f"'{shown(name)}' can't be a node's name: use up to 63 of a-z, 0-9 and '-',"
            " starting and ending with a letter or digit"
        )
    if _LIKE_AN_ID.fullmatch(name):
        raise SetupError(f"'{name}' can't be a node's name: 40 hex digits are how a node's id is written")


def check_group_name(name: str) -> None:
    """Raises SetupError for a name that a group can't have."""
    if not GROUP_NAME.fullmatch(name):
        raise SetupError(
            f"'{shown(name)}' can't be a group's name: use up to 32 of a-z, 0-9 and '-',"
            " starting with a letter or digit"
        )


def subnet_from_text(text: str) -> IPv4Network:
    """A subnet as a user writes it. Raises SetupError."""
    try:
        subnet = IPv4Network(text, strict=False)
    except ValueError:
        raise SetupError(f"'{shown(text)}' is not an IPv4 subnet: write it as 10.77.0.0/16") from None
    address = text.partition("/")[0]
    if address != str(subnet.network_address):
        raise SetupError(f"'{shown(text)}' has bits set after its prefix: did you mean {subnet}?")
    check_subnet(subnet)
    return subnet


def address_from_text(text: str) -> IPv4Address:
    """A virtual address as a user writes it. Raises SetupError."""
    try:
        address = ip_address(text)
    except ValueError:
        raise SetupError(f"'{shown(text)}' is not an IPv4 address: write it as 10.77.0.1") from None
    if not isinstance(address, IPv4Address):
        raise SetupError(f"{address} is an IPv6 address, which follows from a node's id: choose an IPv4 address")
    return address


def _ledger_from(nodes: Document, subnet: IPv4Network, next_serial: int) -> dict[str, LedgerEntry]:
    ledger: dict[str, LedgerEntry] = {}
    owner_of_address: dict[IPv4Address, str] = {}
    owner_of_id: dict[int, str] = {}
    for name in nodes.names:
        if not NODE_NAME.fullmatch(name):
            nodes.refuse(name, "not a node's name")
        fields = nodes.document(name)
        node_id = int.from_bytes(fields.octets("id", ID_BYTES), "big")
        try:
            address = IPv4Address(fields.text("address"))
        except ValueError:
            fields.refuse("address", "not an IPv4 address")
        if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
            fields.refuse("address", f"{address} is not a host's address of {subnet}")
        if address in owner_of_address:
            fields.refuse("address", f"'{owner_of_address[address]}' has {address} too")
        if _top_bits(node_id) in owner_of_id:
            fields.refuse("id", f"'{owner_of_id[_top_bits(node_id)]}' has this id too")
        owner_of_address[address] = owner_of_id[_top_bits(node_id)] = name
        serial = fields.integer("serial", AUTHORITY_SERIAL + 1, next_serial - 1)
        groups = tuple(fields.texts("groups")) if "groups" in fields.names else ()
        for group in groups:
            if not GROUP_NAME.fullmatch(group):
                fields.refuse("groups", f"'{shown(group)}' is not a group's name")
        ledger[name] = LedgerEntry(node_id, address, serial, fields.integer("not_after", 0, 1 << 40), groups)
    return ledger


def _epochs_from(document: Document) -> dict[str, int]:
    if "group_epochs" not in document.names:
        return {}
    epochs = document.document("group_epochs")
    for group in epochs.names:
        if not GROUP_NAME.fullmatch(group):
            epochs.refuse(group, "not a group's name")
    return {group: epochs.integer(group, 0, MAX_EPOCH) for group in epochs.names}


def _authority_certificate(name: str, seed: bytes, now: float) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_common_name(name))
        .public_key(key.public_key())
        .serial_number(AUTHORITY_SERIAL)
        .not_valid_before(_utc(now - BACKDATED_S))
        .not_valid_after(NO_END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(network_id(key.public_key().public_bytes_raw())), critical=False)
    )
    return builder.sign(key, None).public_bytes(Encoding.DER)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _top_bits(node_id: int) -> int:
    """The bits of an id from which the IPv6 address follows. Unique in a network, like the address."""
    return node_id >> (BITS - 80)
