"""Every certificate that must be refused is, each for its own reason; a good one says who its member is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from dht.certificate import (
    MAX_CERTIFICATE_BYTES,
    NODE_USAGE,
    Network,
    address6_for,
    network_id,
    prove_certificate,
    read_certificate,
)
from dht.errors import CertificateRefused
from ipop.authority import create_authority
from tests.fuzzing import fuzzed
from tests.identities import START_S, SUBNET, make_authority, make_identities, make_network

SEED = 11
NETWORK = make_network(SEED)
AUTHORITY_KEY = make_authority(SEED)._key
NODE_KEY = Ed25519PrivateKey.from_private_bytes(Random("node").randbytes(32))
GOOD = make_identities(1, SEED)[0].member
NODE_ID = GOOD.id
ADDRESS6 = address6_for(NETWORK.prefix6, NODE_ID)
URI = x509.UniformResourceIdentifier(f"urn:p2pvpn:node:{NODE_ID:040x}")
IP4 = x509.IPAddress(IPv4Address("10.77.0.1"))
IP6 = x509.IPAddress(ADDRESS6)
SIGNS = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
AGREES = x509.KeyUsage(False, False, False, False, True, False, False, False, False)


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@dataclass(frozen=True)
class Draft:
    """A certificate which the authority might have signed. As it stands, a good one."""

    subject: x509.Name = field(default_factory=lambda: common_name("n0"))
    names: tuple[x509.GeneralName, ...] = (URI, IP4, IP6)
    usages: tuple[x509.ObjectIdentifier, ...] = (NODE_USAGE,)
    key_usage: x509.KeyUsage = SIGNS
    ca: bool = False
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    not_before_s: float = START_S
    not_after_s: float = START_S + 1000

    def sign(self, key: Ed25519PrivateKey = AUTHORITY_KEY, issuer: str = "test") -> bytes:
        return self.builder(issuer).public_key(NODE_KEY.public_key()).sign(key, None).public_bytes(Encoding.DER)

    def builder(self, issuer: str = "test") -> x509.CertificateBuilder:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(common_name(issuer))
            .serial_number(77)
            .not_valid_before(datetime.fromtimestamp(self.not_before_s, UTC))
            .not_valid_after(datetime.fromtimestamp(self.not_after_s, UTC))
            .add_extension(x509.BasicConstraints(self.ca, None), critical=True)
            .add_extension(self.key_usage, critical=True)
        )
        if self.usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(self.usages), critical=True)
        if self.names:
            builder = builder.add_extension(x509.SubjectAlternativeName(self.names), critical=False)
        for extension, critical in self.more:
            builder = builder.add_extension(extension, critical)
        return builder


def sequence(content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((0x30, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x30, 0x80 + len(length))) + length + content


def signed_part(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).tbs_certificate_bytes


def envelope(signed: bytes, key: Ed25519PrivateKey = AUTHORITY_KEY) -> bytes:
    """Any bytes, as the authority would sign them."""
    return sequence(signed + bytes.fromhex("300506032b6570034100") + key.sign(signed))


def refusal(der: bytes, now: float = START_S, network: Network = NETWORK) -> str:
    with pytest.raises(CertificateRefused) as refused:
        read_certificate(network, der, now)
    return str(refused.value)


def test_a_certificate_says_who_its_member_is() -> None:
    member = read_certificate(NETWORK, Draft().sign(), START_S)
    assert member.id == NODE_ID
    assert member.name == "n0"
    assert member.address4 == IPv4Address("10.77.0.1")
    assert member.address6 == ADDRESS6
    assert member.public_key == NODE_KEY.public_key().public_bytes_raw()
    assert (member.not_before, member.not_after, member.serial) == (START_S, START_S + 1000, 77)
    assert member.holds(IPv4Address("10.77.0.1")) and member.holds(ADDRESS6)
    assert not member.holds(IPv4Address("10.77.0.2")) and not member.holds(ADDRESS6 + 1)


def test_the_ipv6_address_follows_from_the_networks_and_the_nodes_id() -> None:
    prefix = IPv6Network(b"\xfd" + NETWORK.id[:5] + bytes(10)).supernet(new_prefix=48)
    assert NETWORK.prefix6 == prefix
    assert GOOD.address6 in prefix
    assert GOOD.address6.packed[6:] == GOOD.id.to_bytes(20, "big")[:10]


def test_issued_certificates_fit_in_a_handshake() -> None:
    authority = create_authority("n" * 32, IPv4Network(SUBNET), START_S, Random(SEED))
    bundle = authority.issue("n" * 63, IPv4Address("10.77.255.254"), START_S, Random(SEED))
    assert len(bundle.certificate) < 520
    assert bundle.member.name == "n" * 63


def test_a_certificate_is_valid_from_its_first_second_to_its_last() -> None:
    der = Draft().sign()
    for now in (START_S, START_S + 1000):
        assert read_certificate(NETWORK, der, now).name == "n0"
    # The proof is remembered, yet time is looked at every time.
    assert "is not valid before 2027-01-15 08:00:00 UTC" in refusal(der, START_S - 1)
    assert "expired on 2027-01-15 08:16:40 UTC" in refusal(der, START_S + 1001)


def other_network() -> Network:
    return make_network(SEED + 1)


def self_signed() -> bytes:
    return Draft().sign(NODE_KEY)


def with_another_key() -> bytes:
    key = generate_private_key(SECP256R1())
    return Draft().builder().public_key(key.public_key()).sign(AUTHORITY_KEY, None).public_bytes(Encoding.DER)


def signed_with_ecdsa() -> bytes:
    key = generate_private_key(SECP256R1())
    return Draft().builder().public_key(NODE_KEY.public_key()).sign(key, SHA256()).public_bytes(Encoding.DER)


def without_extensions() -> bytes:
    builder = x509.CertificateBuilder().subject_name(common_name("n0")).issuer_name(common_name("test"))
    builder = builder.serial_number(1).public_key(NODE_KEY.public_key())
    builder = builder.not_valid_before(datetime.fromtimestamp(START_S, UTC))
    builder = builder.not_valid_after(datetime.fromtimestamp(START_S + 1, UTC))
    return builder.sign(AUTHORITY_KEY, None).public_bytes(Encoding.DER)


def altered() -> bytes:
    der = GOOD.certificate
    return der.replace(IPv4Address("10.77.0.1").packed, IPv4Address("10.77.0.9").packed)


def altered_signature() -> bytes:
    return GOOD.certificate[:-1] + bytes((GOOD.certificate[-1] ^ 1,))


def malleated_signature() -> bytes:
    """S + L in place of S: a second signature of the same content, for verifiers that don't check S < L."""
    order = (1 << 252) + 27742317777372353535851937790883648493
    der = GOOD.certificate
    return der[:-32] + (int.from_bytes(der[-32:], "little") + order).to_bytes(32, "little")


def names(*chosen: x509.GeneralName) -> bytes:
    return Draft(names=chosen).sign()


def address4(text: str) -> x509.IPAddress:
    return x509.IPAddress(IPv4Address(text))


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def usage(*usages: x509.ObjectIdentifier) -> bytes:
    return Draft(usages=usages).sign()


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
REFUSED: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "a SEQUENCE is missing"),
    (lambda: bytes(MAX_CERTIFICATE_BYTES + 1), "has 1025 bytes, more than 1024"),
    (lambda: GOOD.certificate + b"\0", "1 bytes follow it"),
    (lambda: GOOD.certificate[:-1], "is cut short"),
    (lambda: b"\x30\x83\x00" + GOOD.certificate[2:], "a length is not in its shortest form"),
    (lambda: b"\x30\x80" + GOOD.certificate[4:] + b"\0\0", "a length is not in its shortest form"),
    (lambda: b"\x30\x81\x7f" + bytes(127), "a length is not in its shortest form"),
    (lambda: b"\x31" + GOOD.certificate[1:], "a SEQUENCE is missing"),
    (signed_with_ecdsa, "is not signed with Ed25519 in canonical DER"),
    (lambda: make_identities(1, SEED + 1)[0].member.certificate, "was issued by another authority"),
    (self_signed, "was issued by another authority"),
    (altered, "was altered or forged"),
    (altered_signature, "was altered or forged"),
    (malleated_signature, "was altered or forged"),
    (lambda: NETWORK.authority, "is an authority's, not a node's"),
    (Draft(ca=True).sign, "is an authority's, not a node's"),
    (Draft(key_usage=AGREES).sign, "is for another usage: its key may not sign"),
    (lambda: usage(), "is for another usage than being a node (it names: none)"),
    (lambda: usage(ExtendedKeyUsageOID.SERVER_AUTH), "(it names: 1.3.6.1.5.5.7.3.1)"),
    (lambda: usage(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), "(it names: any)"),
    (lambda: usage(NODE_USAGE, ExtendedKeyUsageOID.SERVER_AUTH), "(it names: node, 1.3.6.1.5.5.7.3.1)"),
    (without_extensions, "is for another usage than being a node (it names: none)"),
    (Draft(more=((UNKNOWN, True),)).sign, "has a critical extension unknown here, 1.2.3.4"),
    (lambda: names(), "names no id and no addresses"),
    (lambda: names(IP4, IP6), "names 0 node ids, not one"),
    (lambda: names(URI, URI, IP4, IP6), "names 2 node ids, not one"),
    (lambda: names(uri("urn:p2pvpn:node:12"), IP4, IP6), "names no node id: 'urn:p2pvpn:node:12'"),
    (lambda: names(uri(URI.value.upper()), IP4, IP6), "names no node id: 'URN:P2PVPN:NODE:"),
    (lambda: names(uri(URI.value + "\n"), IP4, IP6), "names no node id"),
    (lambda: names(URI, IP6), "names 0 IPv4 and 1 IPv6 addresses"),
    (lambda: names(URI, IP4), "names 1 IPv4 and 0 IPv6 addresses"),
    (lambda: names(URI, IP4, IP4, IP6), "names 2 IPv4 and 1 IPv6 addresses"),
    (lambda: names(URI, IP4, IP6, x509.DNSName("n0")), "a name of a kind unknown here, DNSName"),
    (lambda: names(URI, x509.IPAddress(IPv4Network("10.77.0.0/24")), IP6), "a name of a kind unknown here, IPAddress"),
    (lambda: names(URI, address4("10.78.0.1"), IP6), "gives the address 10.78.0.1, outside the network's 10.77.0.0/16"),
    (lambda: names(URI, address4("10.77.0.0"), IP6), "gives 10.77.0.0, the network or broadcast address"),
    (lambda: names(URI, address4("10.77.255.255"), IP6), "gives 10.77.255.255, the network or broadcast address"),
    (lambda: names(URI, IP4, x509.IPAddress(ADDRESS6 + 1)), "which doesn't follow from the node's id"),
    (lambda: names(URI, IP4, x509.IPAddress(IPv6Address("2001:db8::1"))), "which doesn't follow from the node's id"),
    (Draft(subject=x509.Name([])).sign, "doesn't have one common name"),
    (Draft(subject=common_name("Alice")).sign, "names the node 'Alice', which is not a node name"),
    (Draft(subject=common_name("10.77.0.5")).sign, "names the node '10.77.0.5', which is not a node name"),
    (Draft(subject=common_name("n0\n")).sign, "names the node 'n0\\n', which is not a node name"),
    (with_another_key, "holds a key that is not Ed25519"),
    (lambda: envelope(sequence(b"")), "is signed but malformed"),
]


@pytest.mark.parametrize(("der", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_a_certificate_is_refused_with_its_reason(der: Callable[[], bytes], reason: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # Of the library that makes the bad certificate.
        made = der()
    text = refusal(made)
    assert text.startswith("the certificate ")
    assert reason in text
    assert "\n" not in text


def test_the_same_certificate_is_refused_again_and_never_remembered_as_good() -> None:
    for _ in range(3):
        assert "altered or forged" in refusal(altered())


def test_a_certificate_is_proven_anew_in_every_network() -> None:
    """The memory of proven certificates must not carry membership from one network into another."""
    assert prove_certificate(NETWORK, GOOD.certificate) == GOOD
    assert "another authority" in refusal(GOOD.certificate, network=other_network())
    # Nor from one subnet into another, though the authority is the same.
    narrower = replace(NETWORK, subnet=IPv4Network("10.77.128.0/17"))
    assert narrower.id == NETWORK.id
    assert "outside the network's 10.77.128.0/17" in refusal(GOOD.certificate, network=narrower)


def test_a_later_versions_fields_are_no_reason_to_refuse() -> None:
    assert read_certificate(NETWORK, Draft(more=((UNKNOWN, False),)).sign(), START_S).id == NODE_ID


def test_a_period_that_ends_before_it_begins_is_refused() -> None:
    signed = signed_part(Draft().sign())
    begins, ends = (datetime.fromtimestamp(START_S + at, UTC).strftime("%y%m%d%H%M%SZ").encode() for at in (0, 1000))
    assert begins in signed and ends in signed
    backwards = signed.replace(begins, b"X").replace(ends, begins).replace(b"X", ends)
    assert "ends before it begins" in refusal(envelope(backwards))


def test_a_network_is_known_by_its_authoritys_key() -> None:
    key = AUTHORITY_KEY.public_key().public_bytes_raw()
    assert NETWORK.authority_key == key
    assert NETWORK.id == network_id(key) and len(NETWORK.id) == 16
    assert len({NETWORK.psk(), NETWORK.mac_key(), NETWORK.secret}) == 3
    assert {len(NETWORK.psk()), len(NETWORK.mac_key())} == {32}


def test_a_networks_secret_is_never_printed() -> None:
    assert "secret" not in repr(NETWORK)
    assert repr(NETWORK.secret) not in repr(NETWORK)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"name": "Home"}, "no network name"),
        ({"name": ""}, "no network name"),
        ({"name": "-a"}, "no network name"),
        ({"name": "a" * 33}, "no network name"),
        ({"secret": b"short"}, "has 32 bytes, not 5"),
        ({"authority": b"\x30\x00"}, "malformed"),
        ({"authority": GOOD.certificate}, "is a node's"),
    ],
)
def test_a_network_of_parts_that_do_not_fit_is_an_error(changed: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(NETWORK, **changed)  # type: ignore[arg-type]


@fuzzed()
@given(st.binary(max_size=MAX_CERTIFICATE_BYTES + 8))
@example(b"\x30\x00")
@example(b"\x30\x82\xff\xff")
def test_garbage_is_refused_and_nothing_else_escapes(garbage: bytes) -> None:
    refusal(garbage)


edits = st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(["set", "insert", "delete"]), st.integers(0, 255)))


def edited(octets: bytes, chosen: list[tuple[int, str, int]]) -> bytes:
    content = bytearray(octets)
    for place, what, value in chosen:
        at = place % (len(content) or 1)
        match what:
            case "insert":
                content.insert(at, value)
            case "delete":
                del content[at : at + 1]
            case _:
                content[at : at + 1] = bytes((value,))
    return bytes(content)


@fuzzed()
@given(edits)
def test_an_edited_certificate_is_refused_and_nothing_else_escapes(chosen: list[tuple[int, str, int]]) -> None:
    der = edited(GOOD.certificate, chosen)
    if der == GOOD.certificate:
        assert prove_certificate(NETWORK, der) == GOOD
    else:
        refusal(der)


@fuzzed()
@given(st.one_of(edits.map(lambda chosen: edited(signed_part(GOOD.certificate), chosen)), st.binary(max_size=600)))
def test_whatever_the_authority_signed_is_read_or_refused(signed: bytes) -> None:
    """Past the signature check: even an authority that signs nonsense brings down no node."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The library warns of certificates that are bad in ways of their own.
        try:
            member = read_certificate(NETWORK, envelope(sequence_or(signed)), START_S)
        except CertificateRefused as refused:
            assert "\n" not in str(refused)
        else:
            assert member.address4 in NETWORK.subnet
            assert member.address6 == address6_for(NETWORK.prefix6, member.id)


def sequence_or(signed: bytes) -> bytes:
    """The content under a right outermost length, so that edits reach the parser behind the envelope."""
    return sequence(signed[4:]) if signed[:1] == b"\x30" else sequence(signed)
