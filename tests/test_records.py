"""What makes a record its owner's, and what anybody refuses."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from dht.identity import Identity
from dht.ids import RING, key_of
from dht.packing import pack
from dht.records import (
    CLOCK_TOLERANCE_S,
    MAX_LIFETIME_S,
    MAX_NAME_CHARS,
    MAX_RECORD_BYTES,
    MAX_SEQUENCE,
    MAX_VALUE_BYTES,
    REPLICAS,
    Record,
    address_name,
    host_name,
    node_name,
    replica_points,
)
from tests.fuzzing import fuzzed
from tests.identities import START_S, make_identities, make_network

NOW = START_S + 60
LATER = int(NOW) + 3600
NETWORK = make_network(1)
ALICE, BOB = make_identities(2, 1)


def signed_by_hand(identity: Identity, body: bytes) -> bytes:
    """A record whose signature holds, whatever its body says."""
    certificate = identity.member.certificate
    content = len(body).to_bytes(2, "big") + body + len(certificate).to_bytes(2, "big") + certificate
    return content + identity.sign("record", content)


def fields(**changes: Any) -> dict[int, Any]:
    """A good body of Alice's with some fields changed; None leaves a field out."""
    numbers = {"name": 0, "sequence": 1, "expires_at": 2, "exclusive": 3, "value": 4}
    body: dict[str, Any] = {"name": "printer", "sequence": 7, "expires_at": LATER, "exclusive": False, "value": b"v"}
    body |= changes
    return {numbers[name]: value for name, value in body.items() if value is not None}


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_signed_record_is_read_as_it_was_meant(exclusive: bool) -> None:
    signed = Record.sign(ALICE, "printer", b"value", 7, LATER, exclusive)
    read = Record.parse(NETWORK, signed.raw, NOW)
    assert read == signed
    assert (read.name, read.value, read.sequence, read.expires_at) == ("printer", b"value", 7, LATER)
    assert read.exclusive is exclusive
    assert read.owner.id == ALICE.member.id
    assert read.key == key_of("printer")
    assert Record.parse(NETWORK, memoryview(signed.raw), NOW) == signed


@given(
    name=st.text(min_size=1, max_size=MAX_NAME_CHARS).filter(
        lambda name: name.isprintable() and not name.startswith(("ip:", "node:", "name:"))
    ),
    value=st.binary(max_size=800),
    sequence=st.integers(0, MAX_SEQUENCE),
    lifetime_s=st.integers(1, MAX_LIFETIME_S),
    exclusive=st.booleans(),
)
@fuzzed()
def test_any_lawful_record_survives_the_wire(
    name: str, value: bytes, sequence: int, lifetime_s: int, exclusive: bool
) -> None:
    signed = Record.sign(ALICE, name, value, sequence, int(NOW) + lifetime_s, exclusive)
    assert len(signed.raw) <= MAX_RECORD_BYTES
    assert Record.parse(NETWORK, signed.raw, NOW) == signed


def test_a_record_dies_when_it_says() -> None:
    raw = Record.sign(ALICE, "printer", b"", 1, LATER).raw
    Record.parse(NETWORK, raw, LATER - 0.001)
    with pytest.raises(BadDatagram, match="expired"):
        Record.parse(NETWORK, raw, LATER)
    with pytest.raises(BadDatagram, match="expired"):
        Record.parse(NETWORK, raw, LATER + 1e9)


def test_a_record_for_too_long_is_refused() -> None:
    latest = int(NOW) + MAX_LIFETIME_S + CLOCK_TOLERANCE_S
    Record.parse(NETWORK, Record.sign(ALICE, "printer", b"", 1, latest).raw, NOW)
    with pytest.raises(BadDatagram, match="longer than"):
        Record.parse(NETWORK, Record.sign(ALICE, "printer", b"", 1, latest + 1).raw, NOW)
    with pytest.raises(BadDatagram, match="longer than"):
        Record.parse(NETWORK, Record.sign(ALICE, "printer", b"", 1, 1 << 53).raw, NOW)


def test_a_record_ends_with_its_owners_certificate() -> None:
    end = ALICE.member.not_after
    raw = Record.sign(ALICE, "printer", b"", 1, int(end) + 3600).raw
    Record.parse(NETWORK, raw, end - 1)
    with pytest.raises(BadDatagram, match="expired"):
        Record.parse(NETWORK, raw, end + 1)


def test_only_the_holder_of_an_address_publishes_it() -> None:
    for address in (ALICE.member.address4, ALICE.member.address6):
        name = address_name(address)
        assert Record.parse(NETWORK, Record.sign(ALICE, name, b"", 1, LATER).raw, NOW).name == name
        with pytest.raises(ValueError, match=r"would be refused.*holds no such address"):
            Record.sign(BOB, name, b"", 1, LATER)
        with pytest.raises(BadDatagram, match="holds no such address"):
            Record.parse(NETWORK, signed_by_hand(BOB, pack(fields(name=name))), NOW)


def test_only_a_node_publishes_its_own_descriptor() -> None:
    name = node_name(ALICE.member.id)
    assert Record.parse(NETWORK, Record.sign(ALICE, name, b"", 1, LATER).raw, NOW).name == name
    with pytest.raises(BadDatagram, match="may not publish"):
        Record.parse(NETWORK, signed_by_hand(BOB, pack(fields(name=name))), NOW)


def test_only_the_node_of_that_name_publishes_it() -> None:
    name = host_name(ALICE.member.name)
    assert Record.parse(NETWORK, Record.sign(ALICE, name, b"", 1, LATER).raw, NOW).name == name
    with pytest.raises(ValueError, match=r"would be refused.*its certificate says another name"):
        Record.sign(BOB, name, b"", 1, LATER)
    with pytest.raises(BadDatagram, match="its certificate says another name"):
        Record.parse(NETWORK, signed_by_hand(BOB, pack(fields(name=name))), NOW)


def test_a_name_that_no_node_has_can_not_be_squatted() -> None:
    for name in ("name:", "name:printer", f"name:{ALICE.member.name}.", f"name:{ALICE.member.name} "):
        with pytest.raises(BadDatagram, match="may not publish"):
            Record.parse(NETWORK, signed_by_hand(ALICE, pack(fields(name=name))), NOW)


def in_dotted_quad(address: IPv6Address) -> str:
    """The same address with its last 32 bits as IPv4 text, which RFC 4291 allows."""
    groups = address.exploded.split(":")
    return ":".join(groups[:6]) + f":{IPv4Address(int(address) & 0xFFFFFFFF)}"


def other_spellings() -> Iterator[str]:
    member = ALICE.member
    yield f"ip:{in_dotted_quad(member.address6)}"
    yield f"ip:{str(member.address6).upper()}"
    yield f"ip:{member.address6}%eth0"
    yield f"ip:::ffff:{member.address4}"
    yield f"ip:{member.address4}/32"
    yield f"ip: {member.address4}"
    yield f"ip:{int(member.address4)}"
    yield f"ip:0{member.address4}"
    yield "ip:"
    yield "ip:0.0.0.0"
    yield "ip:255.255.255.255"
    yield f"node:{member.id:X}"
    yield f"node:{member.id:x}0"
    yield f"node:0x{member.id:x}"
    yield f"name:{member.name.upper()}"
    yield "node:"


@pytest.mark.parametrize("name", list(other_spellings()))
def test_another_spelling_of_ones_own_name_is_refused(name: str) -> None:
    with pytest.raises(BadDatagram):
        Record.parse(NETWORK, signed_by_hand(ALICE, pack(fields(name=name))), NOW)


def test_no_other_encoding_of_a_record_carries_its_signature() -> None:
    signed = Record.sign(ALICE, "printer", b"value", 7, LATER)
    body, rest = bytes(signed.body), signed.raw[2 + len(signed.body) :]
    entries = msgpack.unpackb(body, strict_map_key=False)
    packer = msgpack.Packer(use_bin_type=True)
    backwards = packer.pack_map_header(len(entries)) + b"".join(
        packer.pack(key) + packer.pack(entries[key]) for key in reversed(entries)
    )
    long_integer = body.replace(b"\x01\x07", b"\x01\xcc\x07")
    doubled = bytes((body[0] + 1,)) + body[1:] + b"\x04" + packer.pack(b"other")
    extended = pack(entries | {99: "new"})
    for other in (backwards, long_integer, doubled, extended, body + b"\x00"):
        assert other != body
        with pytest.raises(BadDatagram, match="did not sign"):
            Record.parse(NETWORK, len(other).to_bytes(2, "big") + other + rest, NOW)


def test_an_owner_cannot_sign_a_second_encoding_either() -> None:
    body = pack(fields())
    for other in (body.replace(b"\x01\x07", b"\x01\xcc\x07"), body + b"\x00", b"\xde\x00\x05" + body[1:]):
        assert other != body
        with pytest.raises(BadDatagram, match=r"shortest|follow"):
            Record.parse(NETWORK, signed_by_hand(ALICE, other), NOW)


def test_a_field_of_a_later_version_is_kept_and_signed() -> None:
    raw = signed_by_hand(ALICE, pack(fields() | {99: "new"}))
    read = Record.parse(NETWORK, raw, NOW)
    assert read.raw == raw
    assert read.body != Record.sign(ALICE, "printer", b"v", 7, LATER).body


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"name": None}, "lacks field 0"),
        ({"name": ""}, "no name"),
        ({"name": "a" * (MAX_NAME_CHARS + 1)}, "field 0"),
        ({"name": "two\nlines"}, "field 0"),
        ({"name": b"octets"}, "field 0"),
        ({"sequence": -1}, "field 1"),
        ({"sequence": True}, "field 1"),
        ({"sequence": 1.0}, "field 1"),
        ({"expires_at": float(LATER)}, "field 2"),
        ({"expires_at": (1 << 53) + 1}, "field 2"),
        ({"exclusive": 1}, "field 3"),
        ({"exclusive": None}, "lacks field 3"),
        ({"value": bytes(MAX_VALUE_BYTES + 1)}, "field 4"),
        ({"value": "text"}, "field 4"),
    ],
)
def test_a_well_signed_record_that_breaks_a_rule_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(BadDatagram, match=rule):
        Record.parse(NETWORK, signed_by_hand(ALICE, pack(fields(**changes))), NOW)


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x90", b"\xc0", b"\x80", b"\x91" * 8, b"\xdf\xff\xff\xff\xff"])
def test_a_well_signed_body_that_is_no_record_is_refused(body: bytes) -> None:
    with pytest.raises(BadDatagram):
        Record.parse(NETWORK, signed_by_hand(ALICE, body), NOW)


def test_a_record_above_its_size_is_refused() -> None:
    largest = Record.sign(ALICE, "a" * MAX_NAME_CHARS, bytes(MAX_VALUE_BYTES), MAX_SEQUENCE, LATER, True)
    room = MAX_RECORD_BYTES - len(largest.raw)
    padded = fields(name="a" * MAX_NAME_CHARS, value=bytes(MAX_VALUE_BYTES), sequence=MAX_SEQUENCE)
    # The later field costs its key and a header of three bytes.
    Record.parse(NETWORK, signed_by_hand(ALICE, pack(padded | {5: bytes(room - 4)})), NOW)
    with pytest.raises(BadDatagram, match=f"more than {MAX_RECORD_BYTES}"):
        Record.parse(NETWORK, signed_by_hand(ALICE, pack(padded | {5: bytes(room - 3)})), NOW)
    with pytest.raises(BadDatagram, match=f"more than {MAX_RECORD_BYTES}"):
        Record.parse(NETWORK, bytes(1 << 16), NOW)


def test_an_owner_hears_at_once_that_nobody_would_take_its_record() -> None:
    with pytest.raises(ValueError, match="field 4"):
        Record.sign(ALICE, "printer", bytes(MAX_VALUE_BYTES + 1), 1, LATER)
    with pytest.raises(ValueError, match="field 0"):
        Record.sign(ALICE, "a" * (MAX_NAME_CHARS + 1), b"", 1, LATER)
    with pytest.raises(ValueError, match="no name"):
        Record.sign(ALICE, "", b"", 1, LATER)
    with pytest.raises(ValueError, match="field 1"):
        Record.sign(ALICE, "printer", b"", -1, LATER)


def test_a_certificate_cannot_be_swapped() -> None:
    content = Record.sign(ALICE, "printer", b"", 1, LATER)
    body = bytes(content.body)
    for other in (BOB.member.certificate, b"", bytes(1025), make_identities(1, 2)[0].member.certificate):
        swapped = len(body).to_bytes(2, "big") + body + len(other).to_bytes(2, "big") + other + content.raw[-64:]
        with pytest.raises(BadDatagram):
            Record.parse(NETWORK, swapped, NOW)


def test_a_record_of_another_network_is_refused() -> None:
    raw = Record.sign(ALICE, "printer", b"", 1, LATER).raw
    with pytest.raises(BadDatagram, match="another authority"):
        Record.parse(make_network(2), raw, NOW)


def test_a_signature_for_another_purpose_is_no_record() -> None:
    raw = signed_by_hand(ALICE, pack(fields()))
    with pytest.raises(BadDatagram, match="did not sign"):
        Record.parse(NETWORK, raw[:-64] + ALICE.sign("something else", raw[:-64]), NOW)


def test_every_single_changed_byte_is_noticed() -> None:
    raw = Record.sign(ALICE, "printer", b"value", 7, LATER).raw
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(BadDatagram):
            Record.parse(NETWORK, bytes(damaged), NOW)


def test_every_truncation_is_noticed() -> None:
    raw = Record.sign(ALICE, "printer", b"value", 7, LATER).raw
    for size in range(len(raw)):
        with pytest.raises(BadDatagram):
            Record.parse(NETWORK, raw[:size], NOW)
    with pytest.raises(BadDatagram):
        Record.parse(NETWORK, raw + b"\x00", NOW)


@given(st.binary(max_size=MAX_RECORD_BYTES + 10))
@fuzzed()
def test_any_bytes_raise_only_bad_datagram(raw: bytes) -> None:
    with pytest.raises(BadDatagram):
        Record.parse(NETWORK, raw, NOW)


@given(
    st.dictionaries(st.integers(0, 5), st.one_of(st.integers(0, 9), st.text(max_size=9), st.binary(), st.booleans()))
)
@fuzzed(weight=0.5)
def test_any_well_signed_body_raises_only_bad_datagram(body: Any) -> None:
    try:
        Record.parse(NETWORK, signed_by_hand(ALICE, pack(body)), NOW)
    except BadDatagram:
        return
    pytest.fail("nothing drawn here is a record alive now")


def test_replicas_are_equally_spaced() -> None:
    key = key_of("printer")
    points = replica_points(key)
    assert points[0] == key and len(set(points)) == REPLICAS
    assert {(point - key) % (RING // REPLICAS) for point in points} == {0}
    assert all(0 <= point < RING for point in points)
    assert replica_points(RING - 1, 1) == (RING - 1,)
