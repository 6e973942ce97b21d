"""Membership of a network: what a network is, and what a node's certificate proves about it.

A certificate is X.509 v3, signed with Ed25519 by the network's authority. It binds the node's Ed25519 key to
its name, to the 160-bit id which the authority drew for it (members can't choose their place on the ring), to
its virtual addresses, and to groups (`dht.grants`). A certificate comes from strangers, so its signature is checked
first, over bytes cut out of a fixed canonical envelope: no ASN.1 parser ever sees bytes which the authority didn't
sign. What it did sign must then fit this profile exactly, or is refused with a reason that a person understands.

Ed25519 signatures are not unique in every library. That doesn't matter here: nothing is known by its
certificate's bytes or hash; a member is its id, and the signed part is the same whatever the signature.

This module never issues certificates, reads no clock and no file. Sources: RFC 5280 (profile), RFC 8410 and
RFC 8032 (Ed25519), RFC 4193 (the fd00::/8 prefix); X.667 for the usage's object identifier.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2s
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from dht.errors import CertificateRefused
from dht.grants import GROUPS_EXTENSION, Grant, read_grants
from dht.ids import BITS, ID_BYTES

MAX_CERTIFICATE_BYTES = 1024  # Ours are below 520; the rest is room for later fields.
NETWORK_ID_BYTES = 16
SECRET_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64

NETWORK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # A DNS label, so never mistaken for an address.

# The one usage of our certificates: UUID d78e882f-81ab-4de1-bd2c-38a59713788c under the arc 2.25, which anybody
# may use without registering. A certificate which the same authority made for TLS, say, is no membership.
NODE_USAGE = x509.ObjectIdentifier("2.25.286524087419229253363646917619465025676")
NODE_URI_PREFIX = "urn:p2pvpn:node:"
_NODE_URI = re.compile(NODE_URI_PREFIX + r"([0-9a-f]{40})")

# A node's own members and those it meets; a miss costs one signature check and one parse, about 0.2 ms.
_PROVEN_CERTIFICATES = 4096
_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}


def network_id(authority_key: bytes) -> bytes:
    """A network is known by its authority's key: 16 bytes, the BLAKE2s of the Ed25519 public key."""
    return blake2s(authority_key, digest_size=NETWORK_ID_BYTES).digest()


def network_prefix6(identifier: bytes) -> IPv6Network:
    """The network's own /48 of RFC 4193: fd, then the first 40 bits of its id."""
    return IPv6Network((b"\xfd" + identifier[:5] + bytes(10), 48))


def address6_for(prefix6: IPv6Network, node_id: int) -> IPv6Address:
    """The address which follows from a node's id: the /48, then the id's top 80 bits."""
    return IPv6Address(int(prefix6.network_address) | node_id >> (BITS - 80))


@dataclass(frozen=True, slots=True)
class Network:
    """What every member knows of its network. Raises ValueError for parts that don't fit together."""

    name: str
    authority: bytes = field(repr=False)  # DER of the authority's self-signed certificate
    secret: bytes = field(repr=False)
    subnet: IPv4Network
    authority_key: bytes = field(init=False, repr=False, compare=False)
    id: bytes = field(init=False, repr=False, compare=False)
    prefix6: IPv6Network = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not NETWORK_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no network name: up to 32 of a-z, 0-9 and '-', not starting with '-'")
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a network secret has {SECRET_BYTES} bytes, not {len(self.secret)}")
        key = _authority_key(self.authority)
        object.__setattr__(self, "authority_key", key)
        object.__setattr__(self, "id", network_id(key))
        object.__setattr__(self, "prefix6", network_prefix6(self.id))

    def __hash__(self) -> int:
        return hash(self.id)

    def psk(self) -> bytes:
        """The handshake's pre-shared key: 32 bytes derived from the secret."""
        return blake2s(b"p2pvpn/1 psk", key=self.secret).digest()

    def mac_key(self) -> bytes:
        """The key that marks first datagrams as coming from someone with the secret: 32 bytes."""
        return blake2s(b"p2pvpn/1 mac", key=self.secret).digest()


@dataclass(frozen=True, slots=True)
class Member:
    """What a proven certificate says of its holder. Made by `read_certificate` alone."""

    id: int
    name: str
    address4: IPv4Address
    address6: IPv6Address
    public_key: bytes  # Ed25519
    certificate: bytes = field(repr=False)
    not_before: float
    not_after: float
    serial: int
    grants: tuple[Grant, ...] = ()

    def __hash__(self) -> int:
        return hash(self.certificate)

    def holds(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether `address` is one of the member's own virtual addresses."""
        return address == self.address4 or address == self.address6

    def granted(self, group: str) -> int | None:
        """Up to which epoch the member's certificate names it for this group; None when it doesn't."""
        return next((grant.epoch for grant in self.grants if grant.group == group), None)


def read_certificate(network: Network, der: bytes, now: float) -> Member:
    """The member whom `der` proves at time `now`. Raises CertificateRefused with the reason."""
    member = prove_certificate(network, der)
    if now < member.not_before:
        raise CertificateRefused(
            f"the certificate of '{member.name}' is not valid before {utc_text(member.not_before)},"
            f" and it is {utc_text(now)} here: is a clock wrong?"
        )
    if now > member.not_after:
        raise CertificateRefused(
            f"the certificate of '{member.name}' expired on {utc_text(member.not_after)},"
            f" and it is {utc_text(now)} here"
        )
    return member


def prove_certificate(network: Network, der: bytes) -> Member:
    """As `read_certificate`, whatever the time. Refusals aren't remembered, so garbage can't fill the memory."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        _refuse(f"has {len(der)} bytes, more than {MAX_CERTIFICATE_BYTES}")
    return _prove(network, der)


def utc_text(seconds: float) -> str:
    """A time as people read it."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M:%S} UTC"


@lru_cache(maxsize=_PROVEN_CERTIFICATES)
def _prove(network: Network, der: bytes) -> Member:
    signed, signature = _open_envelope(der)
    try:
        Ed25519PublicKey.from_public_bytes(network.authority_key).verify(signature, signed)
    except InvalidSignature:
        # Only words the reason: every certificate of ours names its authority's key by the network's id.
        if network.id in signed:
            _refuse("doesn't carry its authority's signature: it was altered or forged")
        _refuse("was issued by another authority, not by this network's")
    try:
        return _read_signed(network, der)
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise CertificateRefused(f"the certificate is signed but malformed: {error}") from None


def _open_envelope(der: bytes) -> tuple[bytes, bytes]:
    """The signed part and the signature of a canonical Ed25519 certificate; any other encoding is refused.

    Certificate ::= SEQUENCE { signed SEQUENCE, algorithm SEQUENCE { Ed25519 }, signature BIT STRING }
    """
    start, end = _sequence(der, 0)
    if end != len(der):
        _refuse(f"is not canonical DER: {len(der) - end} bytes follow it")
    _, signed_end = _sequence(der, start)
    tail = der[signed_end:]
    if not tail.startswith(_ED25519_TAIL) or len(tail) != len(_ED25519_TAIL) + SIGNATURE_BYTES:
        _refuse("is not signed with Ed25519 in canonical DER")
    return der[start:signed_end], tail[len(_ED25519_TAIL) :]


# AlgorithmIdentifier { 1.3.101.112 } without parameters (RFC 8410), then a BIT STRING of 64 whole bytes.
_ED25519_TAIL = bytes.fromhex("300506032b6570" + "034100")


def _sequence(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the SEQUENCE at `at` starts and ends. Only the shortest form of its length will do."""
    header = der[at : at + 4]
    if len(header) < 4 or header[0] != 0x30:
        _refuse("is not canonical DER: a SEQUENCE is missing")
    if header[1] < 0x80:
        start, size = at + 2, header[1]
    elif header[1] == 0x81 and header[2] >= 0x80:
        start, size = at + 3, header[2]
    elif header[1] == 0x82 and header[2] > 0:
        start, size = at + 4, int.from_bytes(header[2:], "big")
    else:
        _refuse("is not canonical DER: a length is not in its shortest form")
    if start + size > len(der):
        _refuse("is cut short")
    return start, start + size


def _read_signed(network: Network, der: bytes) -> Member:
    """Everything below was signed by the authority, yet must fit the profile: it may have signed other things."""
    certificate = x509.load_der_x509_certificate(der)
    if certificate.version != x509.Version.v3:
        _refuse(f"is X.509 {certificate.version.name}, not v3")
    extensions = {extension.oid: extension for extension in certificate.extensions}
    for extension in extensions.values():
        # RFC 5280 4.2. Later versions may add fields, and mark those critical without which old nodes would err.
        if extension.critical and extension.oid not in _UNDERSTOOD:
            _refuse(f"has a critical extension unknown here, {extension.oid.dotted_string}")
    _check_usage({oid: extension.value for oid, extension in extensions.items()})
    node_id, address4, address6 = _names(extensions.get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME))
    if address4 not in network.subnet:
        _refuse(f"gives the address {address4}, outside the network's {network.subnet}")
    if address4 in (network.subnet.network_address, network.subnet.broadcast_address):
        _refuse(f"gives {address4}, the network or broadcast address of {network.subnet}")
    if address6 != address6_for(network.prefix6, node_id):
        _refuse(f"gives the address {address6}, which doesn't follow from the node's id")
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        _refuse("holds a key that is not Ed25519")
    not_before = certificate.not_valid_before_utc.timestamp()
    not_after = certificate.not_valid_after_utc.timestamp()
    if not_before > not_after:
        _refuse("ends before it begins")
    if certificate.serial_number <= 0:
        _refuse("has no positive serial number")
    return Member(
        id=node_id,
        name=_common_name(certificate.subject),
        address4=address4,
        address6=address6,
        public_key=key.public_bytes_raw(),
        certificate=der,
        not_before=not_before,
        not_after=not_after,
        serial=certificate.serial_number,
        grants=_grants(extensions.get(GROUPS_EXTENSION)),
    )


def _grants(extension: x509.Extension[x509.ExtensionType] | None) -> tuple[Grant, ...]:
    if extension is None:
        return ()
    assert isinstance(extension.value, x509.UnrecognizedExtension)  # the library knows nothing of ours
    return read_grants(extension.value.value)


def _check_usage(extensions: dict[x509.ObjectIdentifier, x509.ExtensionType]) -> None:
    constraints = extensions.get(ExtensionOID.BASIC_CONSTRAINTS)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        _refuse("is an authority's, not a node's")
    usage = extensions.get(ExtensionOID.KEY_USAGE)
    if isinstance(usage, x509.KeyUsage) and not usage.digital_signature:
        _refuse("is for another usage: its key may not sign")
    purposes = extensions.get(ExtensionOID.EXTENDED_KEY_USAGE)
    # Exactly ours: not "any usage", and not a second one, through which it would be good elsewhere too.
    if not isinstance(purposes, x509.ExtendedKeyUsage) or list(purposes) != [NODE_USAGE]:
        named = (
            ", ".join(_usage_name(oid) for oid in purposes) if isinstance(purposes, x509.ExtendedKeyUsage) else "none"
        )
        _refuse(f"is for another usage than being a node (it names: {named})")


def _usage_name(oid: x509.ObjectIdentifier) -> str:
    if oid == ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE:
        return "any"
    return "node" if oid == NODE_USAGE else oid.dotted_string


def _names(
    extension: x509.Extension[x509.ExtensionType] | None,
) -> tuple[int, IPv4Address, IPv6Address]:
    """The id and the two addresses: exactly one of each, and nothing else."""
    if extension is None or not isinstance(extension.value, x509.SubjectAlternativeName):
        _refuse("names no id and no addresses")
    uris: list[str] = []
    addresses4: list[IPv4Address] = []
    addresses6: list[IPv6Address] = []
    for name in extension.value:
        if isinstance(name, x509.UniformResourceIdentifier):
            uris.append(name.value)
        elif isinstance(name, x509.IPAddress) and isinstance(name.value, IPv4Address):
            addresses4.append(name.value)
        elif isinstance(name, x509.IPAddress) and isinstance(name.value, IPv6Address):
            addresses6.append(name.value)
        else:
            _refuse(f"holds a name of a kind unknown here, {type(name).__name__}")
    if len(uris) != 1:
        _refuse(f"names {len(uris)} node ids, not one")
    if len(addresses4) != 1 or len(addresses6) != 1:
        _refuse(f"names {len(addresses4)} IPv4 and {len(addresses6)} IPv6 addresses, not one of each")
    uri = _NODE_URI.fullmatch(uris[0])
    if uri is None:
        _refuse(f"names no node id: {uris[0][:80]!r} is not '{NODE_URI_PREFIX}' and {2 * ID_BYTES} hex digits")
    return int(uri[1], 16), addresses4[0], addresses6[0]


def _common_name(subject: x509.Name) -> str:
    attributes = list(subject)
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        _refuse("doesn't have one common name, and only that, as its subject")
    name = attributes[0].value
    if not isinstance(name, str) or not NODE_NAME.fullmatch(name):
        _refuse(f"names the node {name[:80]!r}, which is not a node name")
    return name


def _authority_key(der: bytes) -> bytes:
    """The Ed25519 key of an authority's self-signed certificate. Raises ValueError: it comes from our own files."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise ValueError(f"the authority's certificate is malformed: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("the authority's key is not Ed25519")
    if not constraints.ca:
        raise ValueError("the authority's certificate is a node's: it may not issue others")
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes)
    except InvalidSignature:
        raise ValueError("the authority's certificate doesn't carry its own signature") from None
    return key.public_bytes_raw()


def _refuse(reason: str) -> NoReturn:
    raise CertificateRefused(f"the certificate {reason}")
