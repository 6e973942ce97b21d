"""The question to a bootstrap: answered to members only, once each, and never at greater length than it was asked."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import hello
from dht.contact import MAX_ENDPOINTS, Contact
from dht.errors import BadDatagram, CertificateRefused
from dht.hello import NONCE_BYTES, PURPOSE, REPLY, REQUEST, REQUEST_BYTES
from dht.host import Endpoint
from dht.identity import Identity
from dht.packing import Packable, pack
from tests.fuzzing import fuzzed
from tests.identities import START_S, make_identities, make_network

NOW = START_S + 60
NETWORK = make_network(1)
ALICE, BOB = make_identities(2, 1)
STRANGER = make_identities(1, 2)[0]
NONCE = Random(1).randbytes(NONCE_BYTES)
REQUEST_OF_ALICE = hello.ask(ALICE, 7, NONCE)
LARGEST_CONTACT = Contact(
    BOB.member.id,
    BOB.static_public,
    tuple(Endpoint(f"2001:db8::{number}", 7077) for number in range(1, MAX_ENDPOINTS + 1)),
)


def test_a_request_says_who_asks_and_counts() -> None:
    member, counter = hello.read_request(NETWORK, REQUEST_OF_ALICE, NOW)
    assert (member, counter) == (ALICE.member, 7)
    assert hello.nonce_of(REQUEST_OF_ALICE) == NONCE


@pytest.mark.parametrize("counter", [0, 1, 127, 128, 1 << 32, (1 << 64) - 1])
def test_every_request_is_as_long_as_it_should_be(counter: int) -> None:
    request = hello.ask(ALICE, counter, NONCE)
    assert abs(len(request) - REQUEST_BYTES) <= 4
    assert hello.read_request(NETWORK, request, NOW)[1] == counter


def test_an_answer_finds_back_and_is_never_longer_than_its_question() -> None:
    for contact in (LARGEST_CONTACT, Contact(BOB.member.id, BOB.static_public, ())):
        answer = hello.answer(NETWORK, REQUEST_OF_ALICE, contact)
        assert hello.nonce_of(answer) == NONCE
        assert hello.read_reply(NETWORK, answer) == contact
        assert len(answer) < len(REQUEST_OF_ALICE) / 2


def test_nobody_outside_the_network_reads_or_asks_anything() -> None:
    with pytest.raises(BadDatagram, match="from outside the network"):
        hello.read_request(NETWORK, hello.ask(STRANGER, 7, NONCE), NOW)
    with pytest.raises(BadDatagram, match="from outside the network"):
        hello.read_request(STRANGER.network, REQUEST_OF_ALICE, NOW)
    answer = hello.answer(NETWORK, REQUEST_OF_ALICE, LARGEST_CONTACT)
    with pytest.raises(BadDatagram, match="from outside the network"):
        hello.read_reply(STRANGER.network, answer)
    assert ALICE.member.certificate not in REQUEST_OF_ALICE
    assert LARGEST_CONTACT.static not in answer


def test_a_request_is_no_answer_and_an_answer_no_request() -> None:
    answer = hello.answer(NETWORK, REQUEST_OF_ALICE, LARGEST_CONTACT)
    for read, wrong, first_byte in (
        (lambda datagram: hello.read_reply(NETWORK, datagram), REQUEST_OF_ALICE, REPLY),
        (lambda datagram: hello.read_request(NETWORK, datagram, NOW), answer, REQUEST),
    ):
        with pytest.raises(BadDatagram, match="not a hello"):
            read(wrong)
        with pytest.raises(BadDatagram, match="from outside"):
            read(bytes((first_byte,)) + wrong[1:])


def test_every_changed_byte_and_every_truncation_is_noticed() -> None:
    for at in range(len(REQUEST_OF_ALICE)):
        damaged = bytearray(REQUEST_OF_ALICE)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(BadDatagram):
            hello.read_request(NETWORK, bytes(damaged), NOW)
        with pytest.raises(BadDatagram):
            hello.read_request(NETWORK, REQUEST_OF_ALICE[:at], NOW)
    with pytest.raises(BadDatagram):
        hello.read_request(NETWORK, REQUEST_OF_ALICE + b"\x00", NOW)


def test_whoever_asks_must_hold_a_certificate_of_now() -> None:
    with pytest.raises(CertificateRefused, match="expired"):
        hello.read_request(NETWORK, REQUEST_OF_ALICE, ALICE.member.not_after + 1)
    with pytest.raises(CertificateRefused):
        hello.read_request(NETWORK, REQUEST_OF_ALICE, ALICE.member.not_before - 1)


def sealed(plaintext: bytes, nonce: bytes = NONCE) -> bytes:
    """What anybody who knows the network secret can send."""
    return hello._seal(NETWORK, REQUEST, nonce, plaintext)


def entries(identity: Identity = ALICE, nonce: bytes = NONCE, counter: int = 7) -> dict[int, Packable]:
    signature = identity.sign(PURPOSE, nonce + counter.to_bytes(8, "big"))
    return {0: identity.member.certificate, 1: counter, 2: signature}


def test_a_member_cannot_ask_in_the_name_of_another() -> None:
    hello.read_request(NETWORK, sealed(pack(entries())), NOW)
    forged = entries() | {2: entries(BOB)[2]}
    replayed = entries(nonce=bytes(NONCE_BYTES))
    renumbered = entries() | {1: 8}
    other_purpose = entries() | {2: ALICE.sign("record", NONCE + (7).to_bytes(8, "big"))}
    for wrong in (forged, replayed, renumbered, other_purpose):
        with pytest.raises(BadDatagram, match="did not sign"):
            hello.read_request(NETWORK, sealed(pack(wrong)), NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {0: b""},
        {0: b"certificate"},
        {0: bytes(801)},
        {0: "text"},
        {1: -1},
        {1: True},
        {1: 7.0},
        {2: b""},
        {2: bytes(63)},
        {2: bytes(65)},
        {2: None},
    ],
)
def test_a_field_that_breaks_a_rule_is_refused(changes: dict[int, Packable]) -> None:
    with pytest.raises(BadDatagram):
        hello.read_request(NETWORK, sealed(pack(entries() | changes)), NOW)
    for missing in changes:
        rest = {key: value for key, value in entries().items() if key != missing}
        with pytest.raises(BadDatagram, match=f"field {missing}"):
            hello.read_request(NETWORK, sealed(pack(rest)), NOW)


def test_a_field_of_a_later_version_is_ignored() -> None:
    assert hello.read_request(NETWORK, sealed(pack(entries() | {9: "new"})), NOW)[0] == ALICE.member


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: bytes((REQUEST, 0, 0, 0)) + rest))
@fuzzed()
def test_any_bytes_are_refused(datagram: bytes) -> None:
    with pytest.raises(BadDatagram):
        hello.read_request(NETWORK, datagram, NOW)
    with pytest.raises(BadDatagram):
        hello.read_reply(NETWORK, bytes((REPLY,)) + datagram[1:])


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 1 << 63) | st.binary(max_size=70) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.integers(0, 3), children, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=100) | st.dictionaries(st.integers(0, 3), values, max_size=4).map(pack) | values.map(pack))
@fuzzed()
def test_anything_that_a_member_seals_raises_only_bad_datagram(plaintext: bytes) -> None:
    with pytest.raises(BadDatagram):
        hello.read_request(NETWORK, sealed(plaintext), NOW)
    with suppress(BadDatagram):  # it may be a lawful contact
        hello.read_reply(NETWORK, hello._seal(NETWORK, REPLY, NONCE, plaintext))


@given(st.dictionaries(st.sampled_from([0, 1, 2]), values, max_size=2))
@fuzzed()
def test_a_good_request_with_fields_exchanged_raises_only_bad_datagram(changes: dict[int, Packable]) -> None:
    changed = entries() | changes
    if changed == entries():
        return
    with pytest.raises(BadDatagram):
        hello.read_request(NETWORK, sealed(pack(changed)), NOW)
