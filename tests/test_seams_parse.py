"""Endpoints and contacts as strangers send them: refused with BadDatagram, or read to exactly what was sent."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.contact import MAX_ENDPOINTS, STATIC_BYTES, Contact
from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.ids import ID_BYTES, RING
from tests.fuzzing import addresses, fuzzed, is_somebodys

CONTACT_BYTES = ID_BYTES + STATIC_BYTES

endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
contacts = st.builds(
    Contact,
    st.integers(0, RING - 1),
    st.binary(min_size=STATIC_BYTES, max_size=STATIC_BYTES),
    st.lists(endpoints, max_size=MAX_ENDPOINTS).map(tuple),
)


@given(endpoints)
@fuzzed()
def test_an_endpoint_comes_back_from_bytes_and_from_text(endpoint: Endpoint) -> None:
    assert Endpoint.parse(endpoint.pack()) == endpoint
    assert Endpoint.from_text(str(endpoint)) == endpoint


@given(st.binary(max_size=24))
@fuzzed()
def test_any_bytes_are_an_endpoint_or_refused(packed: bytes) -> None:
    try:
        endpoint = Endpoint.parse(packed)
    except BadDatagram:
        return
    assert endpoint.pack() == packed
    assert endpoint.address == str(ipaddress.ip_address(endpoint.address)), "the text is canonical"


@given(st.binary(min_size=6, max_size=6) | st.binary(min_size=18, max_size=18))
@fuzzed()
def test_any_bytes_of_the_right_length_are_an_endpoint_unless_the_port_is_0(packed: bytes) -> None:
    if packed[-2:] == b"\x00\x00":
        with pytest.raises(BadDatagram, match="port 0"):
            Endpoint.parse(packed)
    elif is_somebodys(ipaddress.ip_address(packed[:-2])):
        assert Endpoint.parse(packed).pack() == packed
    else:
        with pytest.raises(BadDatagram):
            Endpoint.parse(packed)


@pytest.mark.parametrize("size", [size for size in range(40) if size not in (6, 18)])
def test_an_endpoint_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(BadDatagram, match=f"not {size}"):
        Endpoint.parse(b"\x01" * size)


@pytest.mark.parametrize("packed", [bytes(4) + bytes(2), bytes(16) + bytes(2), b"\xff" * 4 + bytes(2)])
def test_port_0_is_refused(packed: bytes) -> None:
    with pytest.raises(BadDatagram, match="port 0"):
        Endpoint.parse(packed)


@given(st.text(max_size=60))
@fuzzed()
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    try:
        endpoint = Endpoint.from_text(text)
    except ValueError:
        return
    assert Endpoint.from_text(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text", ["", ":", "192.0.2.1", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1:+80"]
)
def test_a_text_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="PORT"):
        Endpoint.from_text(text)


@pytest.mark.parametrize("text", ["host:80", "[192.0.2:80", "1.2.3:80", "[]:80", "192.0.2.1 :80", "192.0.2.01:80"])
def test_a_text_without_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Endpoint.from_text(text)


@given(contacts)
@fuzzed()
def test_a_contact_comes_back(contact: Contact) -> None:
    assert Contact.parse(contact.pack()) == contact


@given(st.binary(max_size=CONTACT_BYTES + 8 * 19))
@fuzzed()
def test_any_bytes_are_a_contact_or_refused(packed: bytes) -> None:
    try:
        contact = Contact.parse(packed)
    except BadDatagram:
        return
    assert contact.pack() == packed


@given(contacts, st.data())
@fuzzed()
def test_a_damaged_contact_is_refused_or_reads_as_it_stands(contact: Contact, data: st.DataObject) -> None:
    packed = bytearray(contact.pack())
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(packed[: data.draw(st.integers(0, len(packed)))])
    try:
        read = Contact.parse(damaged)
    except BadDatagram:
        return
    assert read.pack() == damaged
    assert len(read.endpoints) <= MAX_ENDPOINTS


def test_a_contact_with_too_many_endpoints_is_refused() -> None:
    one = bytes((6,)) + Endpoint("192.0.2.1", 7000).pack()
    assert len(Contact.parse(bytes(CONTACT_BYTES) + one * MAX_ENDPOINTS).endpoints) == MAX_ENDPOINTS
    with pytest.raises(BadDatagram, match="endpoints"):
        Contact.parse(bytes(CONTACT_BYTES) + one * (MAX_ENDPOINTS + 1))
    with pytest.raises(BadDatagram, match="endpoints"):
        Contact.parse(bytes(CONTACT_BYTES) + one * 9000)  # as large as UDP allows


@pytest.mark.parametrize("size", range(CONTACT_BYTES))
def test_a_contact_cut_short_is_refused(size: int) -> None:
    with pytest.raises(BadDatagram, match=f"not {size}"):
        Contact.parse(bytes(size))


@pytest.mark.parametrize(
    "tail", [b"\x00", b"\x06", b"\x06" + bytes(5), b"\x12" + bytes(17), b"\xff" * 256, b"\x07" * 8]
)
def test_a_contact_with_half_an_endpoint_is_refused(tail: bytes) -> None:
    with pytest.raises(BadDatagram):
        Contact.parse(bytes(CONTACT_BYTES) + tail)


def test_an_ipv6_endpoint_cut_short_is_not_read_as_ipv4() -> None:
    packed = Contact(1, bytes(STATIC_BYTES), (Endpoint("64:ff9b:1::1", 7000),)).pack()
    with pytest.raises(BadDatagram):
        Contact.parse(packed[: CONTACT_BYTES + 1 + 6])
