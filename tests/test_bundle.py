"""A bundle survives as text; a spoiled one is refused in one line that names the field."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import example, given
from hypothesis import strategies as st

from ipop.authority import YEAR_S
from ipop.bundle import Bundle, profile_text
from ipop.errors import SetupError
from tests.fuzzing import fuzzed
from tests.identities import START_S, make_authority

SEED = 14
AUTHORITY = make_authority(SEED)
BUNDLE = AUTHORITY.issue("alice", None, START_S, Random(1))
BOB = AUTHORITY.issue("bob", None, START_S, Random(2))
STRANGER = make_authority(SEED + 1).issue("alice", None, START_S, Random(3))
TEXT = BUNDLE.to_text()


def fields_of(bundle: Bundle) -> dict[str, Any]:
    fields = json.loads(bundle.to_text())
    assert isinstance(fields, dict)
    return fields


def spoil(*path: str, value: object) -> str:
    fields = fields_of(BUNDLE)
    inner = fields
    for step in path[:-1]:
        inner = inner[step]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(fields)


def refusal(text: str) -> str:
    with pytest.raises(SetupError) as refused:
        Bundle.from_text(text, "alice.bundle")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_bundle_survives_as_text() -> None:
    again = Bundle.from_text(TEXT)
    assert again == BUNDLE
    assert again.to_text() == TEXT
    assert again.identity(START_S).member == BUNDLE.member


def test_the_pem_texts_are_what_openssl_reads() -> None:
    fields = fields_of(BUNDLE)
    certificate = x509.load_pem_x509_certificate(fields["certificate"].encode())
    key = load_pem_private_key(fields["private_key"].encode(), None)
    assert key.public_key() == certificate.public_key()
    root = x509.load_pem_x509_certificate(fields["network"]["authority"].encode())
    certificate.verify_directly_issued_by(root)


def test_fields_of_later_versions_are_left_alone() -> None:
    assert Bundle.from_text(spoil("groups", value=["a"])) == BUNDLE


def test_a_bundle_out_of_its_time_says_what_to_do() -> None:
    with pytest.raises(SetupError, match=r"expired on .*p2pvpn issue alice --ca test\.ca --out FILE$"):
        BUNDLE.identity(START_S + 2 * YEAR_S)
    with pytest.raises(SetupError, match="not valid before .* is a clock wrong"):
        BUNDLE.identity(START_S - YEAR_S)
    # It can still be read, to be renewed.
    assert Bundle.from_text(TEXT).member.name == "alice"


CERTIFICATE = fields_of(BUNDLE)["certificate"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty: copy it again"),
        (" \n", "the file is empty: copy it again"),
        ("{", "the file is damaged or cut short: copy it again"),
        (TEXT[:30], "the file is damaged or cut short: copy it again"),
        (TEXT.replace('"name"', "name", 1), "the file is damaged or cut short: copy it again"),
        ("hello", "not a 'p2pvpn bundle': not readable as JSON"),
        ('{"some": "thing",', "not a 'p2pvpn bundle': not readable as JSON"),
        ("[]", "it has no field 'format'"),
        ("{}", "it has no field 'format'"),
        ("[" * 100_000, "not readable as JSON (too deep)"),
        ('{"format": NaN}', "NaN is not a JSON number"),
        ('{"format": "a", "format": "b"}', "a field is there twice"),
        (TEXT[:-20], "the file is damaged or cut short: copy it again"),
        (spoil("format", value="p2pvpn authority"), "not a 'p2pvpn bundle' but a 'p2pvpn authority'"),
        (spoil("format", value="\x1b[2J\n"), "but a '"),
        (spoil("version", value=None), "field 'version': missing"),
        (spoil("version", value=2), "written by a newer p2pvpn (format version 2): update p2pvpn here"),
        (spoil("version", value=True), "field 'version': not a whole number"),
        (spoil("version", value="1"), "field 'version': not a whole number"),
        (spoil("name", value="bob"), "field 'name': the certificate is of 'alice'"),
        (spoil("name", value=None), "field 'name': missing"),
        (spoil("address", value="10.77.0.9"), "field 'address': the certificate says 10.77.0.1"),
        (spoil("certificate", value=None), "field 'certificate': missing"),
        (spoil("certificate", value=7), "field 'certificate': not a text"),
        (spoil("certificate", value=CERTIFICATE.replace("M", "?", 1)), "field 'certificate': not a PEM text"),
        (spoil("certificate", value=CERTIFICATE.replace("M", "", 1)), "field 'certificate': a damaged PEM text"),
        (spoil("certificate", value=CERTIFICATE.replace("CERT", "CRT")), "not a PEM text of a CERTIFICATE"),
        (spoil("certificate", value=fields_of(BOB)["certificate"]), "field 'name': the certificate is of 'bob'"),
        (spoil("certificate", value=fields_of(STRANGER)["certificate"]), "issued by another authority"),
        (spoil("certificate", value=fields_of(BUNDLE)["network"]["authority"]), "an authority's, not a node's"),
        (spoil("private_key", value=fields_of(BOB)["private_key"]), "not the key which the certificate is for"),
        (spoil("private_key", value=CERTIFICATE), "field 'private_key': not a PEM text of a PRIVATE KEY"),
        (spoil("private_key", value=CERTIFICATE.replace("CERTIFICATE", "PRIVATE KEY")), "not an Ed25519 private key"),
        (spoil("network", value=None), "field 'network': missing"),
        (spoil("network", value="x"), "field 'network': not an object"),
        (spoil("network", "name", value="HOME"), "field 'network.name': 'HOME' is no network name"),
        (spoil("network", "subnet", value="10.77.0.1/16"), "field 'network.subnet': not an IPv4 network"),
        (spoil("network", "subnet", value="0.0.0.0/0"), "field 'network.subnet': the subnet 0.0.0.0/0 has a prefix"),
        (spoil("network", "subnet", value="10.99.0.0/16"), "outside the network's 10.99.0.0/16"),
        (spoil("network", "secret", value="0" * 63), "field 'network.secret': not 64 hex digits"),
        (spoil("network", "authority", value=CERTIFICATE), "field 'network.authority': the authority's certificate is"),
        (
            spoil("network", "authority", value=fields_of(STRANGER)["network"]["authority"]),
            "field 'certificate': the certificate was issued by another authority",
        ),
    ],
)
def test_a_spoiled_bundle_is_refused_and_its_field_named(text: str, reason: str) -> None:
    message = refusal(text)
    assert message.startswith("alice.bundle: ")
    assert reason in message


def test_a_refusal_never_shows_a_secret() -> None:
    secret, key = BUNDLE.network.secret.hex(), fields_of(BUNDLE)["private_key"].splitlines()[1]
    for text in (spoil("network", "secret", value=secret + "0"), spoil("private_key", value=key), TEXT[:-20]):
        message = refusal(text)
        assert secret not in message and key not in message
    assert secret not in repr(BUNDLE) and repr(BUNDLE.signing_seed) not in repr(BUNDLE)


def test_the_public_profile_holds_no_secret() -> None:
    profile = json.loads(profile_text(BUNDLE.network))
    assert profile == {
        "format": "p2pvpn network",
        "version": 1,
        "name": "test",
        "subnet": "10.77.0.0/16",
        "authority": fields_of(BUNDLE)["network"]["authority"],
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(
    [(name,) for name in fields_of(BUNDLE)] + [("network", name) for name in fields_of(BUNDLE)["network"]]
)


@fuzzed()
@given(st.text(max_size=200))
@example("\x00")
@example('{"format": "p2pvpn bundle", "version": ' + "9" * 5000 + "}")
@example('{"format": "\\ud800"}')
def test_no_text_makes_anything_but_a_setup_error(text: str) -> None:
    refusal(text)


@fuzzed()
@given(places, json_values)
def test_no_field_makes_anything_but_a_setup_error(place: tuple[str, ...], value: object) -> None:
    try:
        bundle = Bundle.from_text(spoil(*place, value=value))
    except SetupError as error:
        assert "\n" not in str(error)
    else:
        # Another secret, or another name for the same network, is for the handshake to find out.
        assert bundle.certificate == BUNDLE.certificate


@fuzzed()
@given(st.integers(0, len(TEXT) - 1), st.characters(), st.booleans())
def test_no_damage_makes_anything_but_a_setup_error(at: int, character: str, inserted: bool) -> None:
    try:
        bundle = Bundle.from_text(TEXT[:at] + character + TEXT[at + (not inserted) :])
    except SetupError as error:
        assert "\n" not in str(error)
    else:
        assert bundle.certificate == BUNDLE.certificate
