"""A node's identity holds only with its own key, and a signature only for what it was made for."""

from __future__ import annotations

from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram, CertificateRefused
from dht.identity import STATIC_KEY_PURPOSE, Identity, check_signature
from ipop.authority import YEAR_S
from tests.fuzzing import fuzzed
from tests.identities import START_S, make_authority, make_identities, make_network

SEED = 12
NETWORK = make_network(SEED)
ALICE, BOB = make_identities(2, SEED)


def test_the_same_seed_makes_the_same_identities() -> None:
    again = make_identities(2, SEED)
    assert [identity.member for identity in again] == [ALICE.member, BOB.member]
    assert again[0].static_private == ALICE.static_private
    assert make_identities(1, SEED + 1)[0].member.id != ALICE.member.id
    assert ALICE.network == NETWORK


def test_an_identity_has_a_static_key_that_it_signed() -> None:
    public = X25519PrivateKey.from_private_bytes(ALICE.static_private).public_key().public_bytes_raw()
    assert ALICE.static_public == public != BOB.static_public
    check_signature(ALICE.member, NETWORK, STATIC_KEY_PURPOSE, ALICE.static_public, ALICE.static_signature)
    with pytest.raises(BadDatagram, match="did not sign this static key"):
        check_signature(BOB.member, NETWORK, STATIC_KEY_PURPOSE, ALICE.static_public, ALICE.static_signature)


def test_a_certificate_without_its_key_is_no_identity() -> None:
    bundle = make_authority(SEED).issue("n0", None, START_S, Random(SEED))
    with pytest.raises(CertificateRefused, match="'n0' is for another private key"):
        Identity(bundle.network, bundle.certificate, bytes(32), START_S)


@pytest.mark.parametrize("now", [START_S - YEAR_S, START_S + 2 * YEAR_S])
def test_an_identity_out_of_its_time_is_refused(now: float) -> None:
    bundle = make_authority(SEED).issue("n0", None, START_S, Random(SEED))
    with pytest.raises(CertificateRefused, match="not valid before|expired on"):
        Identity(bundle.network, bundle.certificate, bundle.signing_seed, now)


def test_a_signature_holds_for_one_purpose_one_network_one_content_one_signer() -> None:
    signature = ALICE.sign("record", b"content")
    check_signature(ALICE.member, NETWORK, "record", b"content", signature)
    for member, network, purpose, content, signed in [
        (BOB.member, NETWORK, "record", b"content", signature),
        (ALICE.member, make_network(SEED + 1), "record", b"content", signature),
        (ALICE.member, NETWORK, "static key", b"content", signature),
        (ALICE.member, NETWORK, "record", b"Content", signature),
        (ALICE.member, NETWORK, "record", b"content", signature[:-1]),
        (ALICE.member, NETWORK, "record", b"content", signature + b"\0"),
        (ALICE.member, NETWORK, "record", b"content", b""),
    ]:
        with pytest.raises(BadDatagram):
            check_signature(member, network, purpose, content, signed)


@fuzzed()
@given(st.binary(max_size=80))
def test_no_made_up_signature_is_accepted(signature: bytes) -> None:
    with pytest.raises(BadDatagram):
        check_signature(ALICE.member, NETWORK, "record", b"content", signature)


def test_a_purpose_can_not_run_into_the_content() -> None:
    with pytest.raises(AssertionError):
        ALICE.sign("record\0", b"content")


def test_an_identity_never_prints_its_keys() -> None:
    assert repr(ALICE) == f"Identity('n0', {ALICE.member.id >> 128:08x}, network 'test')"
