"""A node's bundle: its key, its certificate and what it must know of its network, in one secret text.

The certificates and the key are PEM inside JSON, so that `openssl x509` and `openssl pkey` read them too. Pure:
`ipop.authority_files` puts bundles on disk, and this module reads no clock and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dht.certificate import SECRET_BYTES, Member, Network, prove_certificate
from dht.errors import CertificateRefused
from dht.identity import Identity
from dht.suite import NOISE, Suite
from ipop.document import Document, pem_text, seed_text, write
from ipop.errors import SetupError

BUNDLE_FORMAT = "p2pvpn bundle"
PROFILE_FORMAT = "p2pvpn network"
SHORTEST_PREFIX, LONGEST_PREFIX = 8, 30
UNUSABLE_SUBNETS = tuple(
    IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `issue` gives and `up` needs. The certificate is proven to be of this network and this key."""

    network: Network
    certificate: bytes  # DER
    signing_seed: bytes = field(repr=False)

    @property
    def member(self) -> Member:
        """What the certificate says, whether or not it is valid now."""
        return prove_certificate(self.network, self.certificate)

    def identity(self, now: float, suite: Suite = NOISE) -> Identity:
        """The node's identity at time `now`; a SetupError when the certificate isn't valid then."""
        try:
            return Identity(self.network, self.certificate, self.signing_seed, now, suite)
        except CertificateRefused as refused:
            renewal = f"p2pvpn issue {self.member.name} --ca {self.network.name}.ca --out FILE"
            raise SetupError(f"{refused}; if the clock is right, renew it where the authority is: {renewal}") from None

    def to_text(self) -> str:
        member = self.member
        return write(
            BUNDLE_FORMAT,
            {
                "name": member.name,
                "address": str(member.address4),
                "network": network_fields(self.network),
                "certificate": pem_text("CERTIFICATE", self.certificate),
                "private_key": seed_text(self.signing_seed),
            },
        )

    @classmethod
    def from_text(cls, text: str, where: str = "bundle") -> Bundle:
        """The inverse of `to_text`. Every fault is a SetupError which starts with `where`, the file's name."""
        document = Document.parse(text, where, BUNDLE_FORMAT)
        network = network_from(document.document("network"))
        certificate = document.pem("certificate", "CERTIFICATE")
        try:
            member = prove_certificate(network, certificate)
        except CertificateRefused as refused:
            document.refuse("certificate", str(refused))
        # For people who read the file: they must not be misled about whose it is.
        if document.text("name") != member.name:
            document.refuse("name", f"the certificate is of '{member.name}'")
        if document.text("address") != str(member.address4):
            document.refuse("address", f"the certificate says {member.address4}")
        seed = document.seed("private_key")
        if Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() != member.public_key:
            document.refuse("private_key", "not the key which the certificate is for")
        return cls(network, certificate, seed)


def check_subnet(subnet: IPv4Network) -> None:
    """Raises SetupError for a subnet whose addresses can't be given to nodes."""
    if not SHORTEST_PREFIX <= subnet.prefixlen <= LONGEST_PREFIX:
        raise SetupError(
            f"the subnet {subnet} has a prefix of {subnet.prefixlen}: choose one from /{SHORTEST_PREFIX} to"
            f" /{LONGEST_PREFIX}, such as 10.77.0.0/16"
        )
    for unusable in UNUSABLE_SUBNETS:
        if subnet.overlaps(unusable):
            raise SetupError(f"the subnet {subnet} is in {unusable}, which hosts can't use: choose a private one")


def profile_text(network: Network) -> str:
    """What anybody may know of a network: no secret, no key."""
    return write(PROFILE_FORMAT, _public_fields(network))


def network_fields(network: Network) -> dict[str, object]:
    """A network as its members know it, secret included."""
    return {**_public_fields(network), "secret": network.secret.hex()}


def network_from(document: Document) -> Network:
    """The inverse of `network_fields`."""
    try:
        subnet = IPv4Network(document.text("subnet"))
    except ValueError:
        document.refuse("subnet", "not an IPv4 network such as 10.77.0.0/16")
    try:
        check_subnet(subnet)
    except SetupError as error:
        document.refuse("subnet", str(error))
    authority = document.pem("authority", "CERTIFICATE")
    secret = document.octets("secret", SECRET_BYTES)
    name = document.text("name")
    try:
        return Network(name, authority, secret, subnet)
    except ValueError as error:
        document.refuse("name" if "network name" in str(error) else "authority", str(error))


def _public_fields(network: Network) -> dict[str, object]:
    return {
        "name": network.name,
        "subnet": str(network.subnet),
        "authority": pem_text("CERTIFICATE", network.authority),
    }
