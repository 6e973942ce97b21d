"""The handshake of two members: what they learn, and everything that must be refused."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.cookie import (
    MAC_BYTES,
    Admission,
    CookieJar,
    CookieReply,
    Doorkeeper,
    append_macs,
    mac1_key,
)
from dht.errors import BadDatagram, CertificateRefused
from dht.features import ALL_FEATURES, Feature
from dht.handshake import (
    COMPACT_INITIATION_BYTES,
    DUPLICATE_IDENTITY,
    FULL_INITIATION_BYTES,
    INITIATION,
    MAX_CERTIFICATE_BYTES,
    RESPONSE,
    Initiation,
    Payload,
    Received,
    check_mac1,
    peer_member,
)
from dht.host import Endpoint
from dht.identity import Identity
from dht.noise import HandshakeState
from dht.packing import pack
from dht.session import Keypair
from tests.fuzzing import addresses, fuzzed
from tests.identities import START_S, make_authority, make_identities

SEED = 1
NOW = START_S
MACS = 2 * MAC_BYTES
SEEN = Endpoint("2001:db8::1", 65535)


@cache
def members() -> tuple[Identity, Identity, Identity]:
    first, second, third = make_identities(3, SEED)
    return first, second, third


def full(identity: Identity, **changes: object) -> Payload:
    whole = Payload(identity.member.certificate, identity.static_signature, clock=NOW, instance=5)
    return replace(whole, **changes)  # type: ignore[arg-type]


def compact(**changes: object) -> Payload:
    return replace(Payload(clock=NOW, instance=5), **changes)  # type: ignore[arg-type]


class Handshake(NamedTuple):
    initiation: Initiation
    first: bytes
    received: Received
    keypair: Keypair  # the responder's
    second: bytes


def handshake(ours: Payload | None = None, theirs: Payload | None = None, seed: int = SEED) -> Handshake:
    """A handshake up to the response, not yet read by the initiator, from alice (index 7) to bob (index 9)."""
    alice, bob, _ = members()
    rng = Random(seed)
    initiation, first = Initiation.begin(alice, bob.static_public, 7, ours or full(alice), rng, NOW)
    received = Received.open(bob, first)
    keypair, second = received.respond(bob, 9, theirs or full(bob), rng, NOW)
    return Handshake(initiation, first, received, keypair, second)


def with_macs(content: bytes, receiver: Identity) -> bytes:
    """What a hostile member can do: mac1 needs only the network secret."""
    return append_macs(mac1_key(receiver.network.mac_key(), receiver.static_public), content)


def test_both_ends_learn_who_the_other_is_and_share_keys() -> None:
    alice, bob, _ = members()
    done = handshake(full(alice, counter=2**64 - 1, observed=SEEN, member=True), full(bob, instance=2**64 - 1))
    assert done.received.static == alice.static_public
    assert done.received.sender_index == 7
    assert done.received.payload == full(alice, counter=2**64 - 1, observed=SEEN, member=True)
    assert peer_member(bob.network, done.received.static, done.received.payload, NOW) == alice.member

    payload, keypair = done.initiation.finish(done.second, NOW + 1)
    assert payload == full(bob, instance=2**64 - 1)
    assert peer_member(alice.network, bob.static_public, payload, NOW) == bob.member
    assert (keypair.local_index, keypair.remote_index, keypair.initiator, keypair.born_at) == (7, 9, True, NOW + 1)
    theirs = done.keypair
    assert (theirs.local_index, theirs.remote_index, theirs.initiator, theirs.born_at) == (9, 7, False, NOW)
    assert theirs.open(keypair.seal(b"to bob")) == b"to bob"
    assert keypair.open(theirs.seal(b"to alice")) == b"to alice"


@pytest.mark.parametrize(("ours", "theirs"), [(False, False), (False, True), (True, False), (True, True)])
def test_aes_is_used_only_when_both_ends_have_it_in_hardware(ours: bool, theirs: bool) -> None:
    alice, bob, _ = members()
    done = handshake(full(alice, aes=ours), full(bob, aes=theirs))
    _, keypair = done.initiation.finish(done.second, NOW)
    assert keypair.aes is done.keypair.aes is (ours and theirs)
    assert done.keypair.open(keypair.seal(b"x")) == b"x"


def test_a_verdict_reaches_the_initiator() -> None:
    done = handshake(theirs=compact(verdict=DUPLICATE_IDENTITY))
    assert done.initiation.finish(done.second, NOW)[0].verdict == DUPLICATE_IDENTITY


def test_a_full_initiation_has_1200_bytes_whatever_it_says() -> None:
    alice, bob, _ = members()
    longest = Payload(
        bytes(MAX_CERTIFICATE_BYTES), bytes(64), 2**64 - 1, 2**64 - 1, True, 255, SEEN, True, NOW, 2**32 - 1, 65535
    )
    for payload in (full(alice), full(alice, counter=2**64 - 1, observed=SEEN), longest):
        _, first = Initiation.begin(alice, bob.static_public, 7, payload, Random(1), NOW)
        assert len(first) == FULL_INITIATION_BYTES == 1200
        assert Received.open(bob, first).payload == payload


def test_a_certificate_too_long_to_send_is_our_own_mistake() -> None:
    alice, bob, _ = members()
    payload = Payload(bytes(1024), bytes(64))
    with pytest.raises(AssertionError):
        Initiation.begin(alice, bob.static_public, 7, payload, Random(1), NOW)


@pytest.mark.parametrize("asked_in_full", [True, False])
@pytest.mark.parametrize("answered_in_full", [True, False])
def test_a_response_is_never_longer_than_its_initiation(asked_in_full: bool, answered_in_full: bool) -> None:
    alice, bob, _ = members()
    longest = {"instance": 2**64 - 1, "verdict": 255, "observed": SEEN, "counter": 2**64 - 1, "aes": True}
    ours = full(alice) if asked_in_full else compact()
    theirs = full(bob, **longest) if answered_in_full else compact(**longest)
    if answered_in_full and not asked_in_full:
        with pytest.raises(AssertionError, match="never longer"):
            handshake(ours, theirs)
        return
    done = handshake(ours, theirs)
    assert len(done.first) == (FULL_INITIATION_BYTES if asked_in_full else COMPACT_INITIATION_BYTES)
    assert len(done.second) <= len(done.first)
    assert done.initiation.finish(done.second, NOW)[0] == theirs


def test_a_certificate_in_a_short_initiation_is_refused() -> None:
    alice, bob, _ = members()
    payload = full(alice)
    header = bytes((INITIATION, 1, 0, 0)) + bytes(4)
    packed = payload.pack()
    sealed = noise_to(bob).write(header + len(packed).to_bytes(2, "big") + packed)
    with pytest.raises(BadDatagram, match="1200"):
        Received.open(bob, with_macs(header + sealed, bob))


@pytest.mark.parametrize("repair_mac1", [False, True], ids=["by an outsider", "by a member who repairs mac1"])
@pytest.mark.parametrize("payload", ["full", "compact"])
def test_every_flipped_byte_of_an_initiation_is_refused(payload: str, repair_mac1: bool) -> None:
    alice, bob, _ = members()
    first = handshake(full(alice) if payload == "full" else compact(), compact()).first
    for at in range(len(first) - (MACS if repair_mac1 else MAC_BYTES)):
        altered = bytearray(first)
        altered[at] ^= 1 << (at % 8)
        datagram = with_macs(bytes(altered[:-MACS]), bob) if repair_mac1 else bytes(altered)
        with pytest.raises(BadDatagram):
            Received.open(bob, datagram)
    assert Received.open(bob, first).static == alice.static_public


@pytest.mark.parametrize("repair_mac1", [False, True], ids=["by an outsider", "by a member who repairs mac1"])
def test_every_flipped_byte_of_a_response_is_refused_and_the_true_one_then_accepted(repair_mac1: bool) -> None:
    alice, _, _ = members()
    done = handshake()
    for at in range(len(done.second) - (MACS if repair_mac1 else 0)):
        altered = bytearray(done.second)
        altered[at] ^= 1 << (at % 8)
        datagram = with_macs(bytes(altered[:-MACS]), alice) if repair_mac1 else bytes(altered)
        with pytest.raises(BadDatagram):
            done.initiation.finish(datagram, NOW)
    _, keypair = done.initiation.finish(done.second, NOW)
    assert done.keypair.open(keypair.seal(b"x")) == b"x"


def test_every_cut_or_lengthened_message_is_refused() -> None:
    alice, bob, _ = members()
    done = handshake(compact(), compact())
    for length in range(len(done.first)):
        with pytest.raises(BadDatagram):
            Received.open(bob, done.first[:length])
        if length != len(done.first) - MACS:
            with pytest.raises(BadDatagram):
                Received.open(bob, with_macs(done.first[:length], bob))
    for length in range(len(done.second)):
        with pytest.raises(BadDatagram):
            done.initiation.finish(done.second[:length], NOW)
        if length != len(done.second) - MACS:
            with pytest.raises(BadDatagram):
                done.initiation.finish(with_macs(done.second[:length], alice), NOW)
    for more in (1, 1500):
        with pytest.raises(BadDatagram):
            Received.open(bob, done.first + bytes(more))
        with pytest.raises(BadDatagram):
            done.initiation.finish(done.second + bytes(more), NOW)


def test_another_version_is_refused() -> None:
    _, bob, _ = members()
    first = handshake().first
    with pytest.raises(BadDatagram, match="version 2"):
        Received.open(bob, with_macs(bytes((INITIATION, 2)) + first[2:-MACS], bob))


def test_an_initiation_to_somebody_else_is_refused() -> None:
    _, _, carol = members()
    first = handshake().first
    with pytest.raises(BadDatagram, match="mac1"):
        check_mac1(carol, first)
    with pytest.raises(BadDatagram):
        Received.open(carol, first)
    with pytest.raises(BadDatagram):
        Received.open(carol, with_macs(first[:-MACS], carol))


def other_network(*, secret: bool) -> Identity:
    """Bob's keys in a network that differs in its secret, or in its authority."""
    authority = make_authority(SEED if secret else SEED + 1)
    bundle = authority.issue("n1", None, NOW, Random("another"))
    theirs = replace(bundle.network, secret=bytes(32)) if secret else bundle.network
    return Identity(theirs, bundle.certificate, bundle.signing_seed, NOW)


@pytest.mark.parametrize("secret", [True, False], ids=["secret", "authority"])
def test_networks_do_not_understand_each_other(secret: bool) -> None:
    alice, _, _ = members()
    stranger = other_network(secret=secret)
    initiation, first = Initiation.begin(alice, stranger.static_public, 7, full(alice), Random(1), NOW)
    with pytest.raises(BadDatagram, match="mac1"):
        Received.open(stranger, first)
    # Even if somebody who knows both secrets translates mac1 for them.
    translated = with_macs(first[:-MACS], stranger)
    if not secret:
        with pytest.raises(BadDatagram):
            Received.open(stranger, translated)
        return
    _, second = Received.open(stranger, translated).respond(stranger, 9, compact(), Random(1), NOW)
    with pytest.raises(BadDatagram, match="authenticate"):
        initiation.finish(with_macs(second[:-MACS], alice), NOW)


def test_a_second_response_is_refused() -> None:
    _, bob, _ = members()
    done = handshake()
    _, again = Received.open(bob, done.first).respond(bob, 10, full(bob), Random(99), NOW)
    done.initiation.finish(done.second, NOW)
    for response in (done.second, again):
        with pytest.raises(BadDatagram, match="second response"):
            done.initiation.finish(response, NOW)


def test_a_response_to_another_initiation_is_refused() -> None:
    done, other = handshake(), handshake(seed=2)
    with pytest.raises(BadDatagram):
        done.initiation.finish(other.second, NOW)
    header = bytes((RESPONSE, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 8))
    with pytest.raises(BadDatagram, match="another initiation"):
        done.initiation.finish(header + done.second[12:], NOW)
    done.initiation.finish(done.second, NOW)


def test_messages_are_not_taken_for_each_other() -> None:
    alice, bob, _ = members()
    done = handshake()
    with pytest.raises(BadDatagram, match="kind"):
        Received.open(alice, done.second)
    with pytest.raises(BadDatagram, match="kind"):
        done.initiation.finish(done.first, NOW)
    with pytest.raises(BadDatagram):
        Received.open(bob, done.keypair.seal(bytes(300)))


def test_every_handshake_has_keys_of_its_own() -> None:
    done = [handshake(seed=seed) for seed in range(5)]
    assert len({each.first[8:40] for each in done}) == len({each.second[12:44] for each in done}) == 5
    with pytest.raises(BadDatagram):
        done[1].keypair.open(done[0].initiation.finish(done[0].second, NOW)[1].seal(b"x"))


@pytest.mark.parametrize("point", [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")])
def test_a_static_key_of_low_order_is_refused(point: bytes) -> None:
    alice, _, _ = members()
    with pytest.raises(BadDatagram, match="low order"):
        Initiation.begin(alice, point, 7, full(alice), Random(1), NOW)


def test_a_stolen_certificate_proves_nothing() -> None:
    alice, bob, carol = members()
    stolen = replace(full(alice), certificate=bob.member.certificate, static_signature=bob.static_signature)
    for payload in (stolen, replace(stolen, static_signature=alice.static_signature), full(alice)):
        static = carol.static_public if payload.certificate == alice.member.certificate else alice.static_public
        with pytest.raises(CertificateRefused):
            peer_member(alice.network, static, payload, NOW)


def test_a_certificate_must_be_there_valid_and_of_this_network() -> None:
    alice, _, _ = members()
    with pytest.raises(CertificateRefused, match="no certificate"):
        peer_member(alice.network, alice.static_public, compact(), NOW)
    with pytest.raises(CertificateRefused, match="expired"):
        peer_member(alice.network, alice.static_public, full(alice), NOW + 10 * 366 * 86400)
    stranger = make_identities(1, SEED + 1)[0]
    with pytest.raises(CertificateRefused):
        peer_member(alice.network, stranger.static_public, full(stranger), NOW)
    with pytest.raises(CertificateRefused):
        peer_member(alice.network, alice.static_public, replace(full(alice), certificate=bytes(100)), NOW)


def test_a_busy_responder_is_persuaded_by_its_own_cookie() -> None:
    alice, bob, _ = members()
    rng, source = Random(SEED), Endpoint("192.0.2.7", 4000).pack()
    keeper = Doorkeeper(bob.network.mac_key(), bob.static_public, rng)
    jar = CookieJar(alice.network.mac_key())
    while not keeper.needs_cookie(NOW):
        _, first = Initiation.begin(alice, bob.static_public, 7, compact(), rng, NOW)
        assert keeper.admit(first, source, NOW) is Admission.PROCESS

    initiation, first = Initiation.begin(alice, bob.static_public, 8, compact(), rng, NOW)
    assert keeper.admit(first, source, NOW) is Admission.SEND_COOKIE
    reply = keeper.reply(first, source, NOW)
    assert len(reply) < len(first)
    parsed = CookieReply.parse(reply)
    assert parsed.receiver_index == initiation.index == 8
    jar.keep(initiation.peer_static, initiation.mac1, parsed, NOW)

    cookie = jar.cookie(bob.static_public, NOW)
    again, first = Initiation.begin(alice, bob.static_public, 9, compact(), rng, NOW, cookie)
    assert keeper.admit(first, source, NOW) is Admission.PROCESS
    _, second = Received.open(bob, first).respond(bob, 3, compact(), rng, NOW)
    again.finish(second, NOW)


def noise_to(receiver: Identity) -> HandshakeState:
    """Alice's Noise state, with which she can seal anything at all as a payload."""
    alice, _, _ = members()
    network = alice.network
    prologue = b"p2pvpn/1" + network.id
    static, psk = receiver.static_public, network.psk()
    return HandshakeState("IKpsk2", True, prologue, alice.static_private, b"e" * 32, static, psk)


def payloads() -> st.SearchStrategy[Payload]:
    u64 = st.integers(0, 2**64 - 1)
    endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
    compacts = st.builds(
        Payload,
        counter=u64,
        instance=u64,
        aes=st.booleans(),
        verdict=st.integers(0, 255),
        observed=st.none() | endpoints,
        member=st.booleans(),
        clock=st.floats(0, 2.0**48),
        features=st.integers(0, 2**32 - 1),
        datagram_bytes=st.integers(0, 65535),
    )
    certificate, signature = st.binary(min_size=1, max_size=MAX_CERTIFICATE_BYTES), st.binary(min_size=64, max_size=64)
    fulls = st.builds(
        lambda base, cert, sign: replace(base, certificate=cert, static_signature=sign),
        compacts,
        certificate,
        signature,
    )
    return compacts | fulls


def test_a_node_that_never_heard_of_features_has_none_and_one_that_has_more_is_understood() -> None:
    entries = {3: 5, 4: True, 5: 0, 7: False, 8: NOW}
    assert Payload.parse(pack(entries)) == compact(aes=True)
    later = Payload.parse(pack({**entries, 9: Feature.SEGMENTS | 1 << 31, 10: 1452, 11: b"of a version to come"}))
    assert later.features & ALL_FEATURES == Feature.SEGMENTS
    assert later.datagram_bytes == 1452
    for wrong in ({9: -1}, {9: 1 << 32}, {9: True}, {10: 65536}, {10: b""}):
        with pytest.raises(BadDatagram):
            Payload.parse(pack({**entries, **wrong}))


@pytest.mark.parametrize("padding", [bytes(99), bytes(98) + b"\1", b"\1" + bytes(98)])
def test_only_zeros_may_fill_a_payload_up(padding: bytes) -> None:
    _, bob, _ = members()
    header, packed = bytes((INITIATION, 1, 0, 0)) + bytes(4), compact().pack()
    datagram = header + noise_to(bob).write(header + len(packed).to_bytes(2, "big") + packed + padding)
    if any(padding):
        with pytest.raises(BadDatagram, match="zeros"):
            Received.open(bob, with_macs(datagram, bob))
    else:
        assert Received.open(bob, with_macs(datagram, bob)).payload == compact()


@fuzzed()
@given(payloads())
def test_every_payload_survives_packing(payload: Payload) -> None:
    assert Payload.parse(payload.pack()) == payload
    if not payload.certificate:
        assert len(payload.pack()) <= 69


@fuzzed()
@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_refused(packed: bytes) -> None:
    with suppress(BadDatagram):
        Payload.parse(packed)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=70),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
)


@fuzzed()
@given(st.dictionaries(st.integers(0, 10), VALUES, max_size=10))
def test_any_map_is_a_payload_or_refused(
    entries: dict[int, None | bool | int | float | bytes | str | list[int]],
) -> None:
    try:
        payload = Payload.parse(pack(entries))
    except BadDatagram:
        return
    assert Payload.parse(payload.pack()) == payload


@fuzzed()
@given(st.binary(max_size=1300), st.booleans(), st.booleans())
def test_any_bytes_to_a_responder_are_refused(body: bytes, with_header: bool, with_mac1: bool) -> None:
    _, bob, _ = members()
    datagram = bytes((INITIATION, 1, 0, 0)) + body if with_header else body
    with pytest.raises(BadDatagram):
        Received.open(bob, with_macs(datagram, bob) if with_mac1 else datagram)


@fuzzed()
@given(st.binary(max_size=1100), st.booleans(), st.booleans())
def test_any_bytes_to_an_initiator_are_refused(body: bytes, with_header: bool, with_mac1: bool) -> None:
    alice, bob, _ = members()
    initiation, _ = Initiation.begin(alice, bob.static_public, 7, compact(), Random(1), NOW)
    datagram = bytes((RESPONSE, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 7)) + body if with_header else body
    with pytest.raises(BadDatagram):
        initiation.finish(with_macs(datagram, alice) if with_mac1 else datagram, NOW)


@fuzzed()
@given(st.binary(min_size=110, max_size=300), st.booleans(), st.booleans())
def test_whatever_a_hostile_member_seals_is_refused_or_a_payload(body: bytes, framed: bool, zeros: bool) -> None:
    _, bob, _ = members()
    header = bytes((INITIATION, 1, 0, 0)) + bytes(4)
    if framed:
        body = header + (len(body) // 3).to_bytes(2, "big") + (body[: len(body) // 3] if zeros else body)
        body = body.ljust(120, b"\0")
    with pytest.raises(BadDatagram):
        Received.open(bob, with_macs(header + noise_to(bob).write(body), bob))
