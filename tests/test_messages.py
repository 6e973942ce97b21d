"""Control messages: every type comes back as it was sent, and whatever else comes is refused in one way."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from dht import messages
from dht.contact import MAX_ENDPOINTS, STATIC_BYTES, Contact
from dht.coordinate import Coordinate
from dht.errors import BadDatagram
from dht.fragments import MAX_MESSAGE_BYTES
from dht.host import Endpoint
from dht.ids import ID_BYTES, RING
from dht.messages import (
    FIRST_APPLICATION_CODE,
    MAX_CONTACT_BYTES,
    MAX_CONTACTS,
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    ConnectToMe,
    DuplicateIdentity,
    Fetch,
    Fetched,
    FetchFor,
    Find,
    FindFor,
    Found,
    Kind,
    Lapse,
    Leave,
    Message,
    Neighbors,
    NeighborsRequest,
    NoSession,
    Ping,
    Pong,
    Store,
    Stored,
    StoreFor,
    Suspect,
    TunnelAccepted,
    TunnelClosed,
    TunnelGranted,
    TunnelOffer,
    TunnelRefused,
    TunnelRequest,
    Unchanged,
    Unreachable,
    pack_control,
    split_control,
)
from dht.packing import Fields, pack
from tests.fuzzing import addresses, fuzzed

HEADER_BYTES = 11

TYPES: list[type[Message]] = [
    member
    for member in vars(messages).values()
    if inspect.isclass(member) and issubclass(member, Message) and hasattr(member, "CODE")
]

ids = st.integers(0, RING - 1)
hops = st.integers(0, 255)
labels = st.integers(0, (1 << 32) - 1)
endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
contacts = st.builds(
    Contact,
    ids,
    st.binary(min_size=STATIC_BYTES, max_size=STATIC_BYTES),
    st.lists(endpoints, max_size=MAX_ENDPOINTS).map(tuple),
)
some_contacts = st.lists(contacts, max_size=MAX_CONTACTS).map(tuple)
# As they come off the wire: rounded.
coordinates = st.none() | st.builds(
    lambda x_ms, height_ms, error: Coordinate.parse(Coordinate(x_ms, -x_ms, height_ms, error).pack()),
    st.floats(-5000.0, 5000.0),
    st.floats(0.0, 5000.0),
    st.floats(0.0, 1.0),
)
records = st.binary(min_size=1, max_size=50) | st.just(bytes(MAX_RECORD_BYTES))

MESSAGES: dict[type[Message], SearchStrategy[Message]] = {
    Ping: st.builds(Ping, st.booleans(), coordinates),
    TunnelRequest: st.builds(TunnelRequest, contacts, st.booleans()),
    TunnelGranted: st.builds(TunnelGranted, labels),
    TunnelRefused: st.builds(TunnelRefused, hops),
    TunnelOffer: st.builds(TunnelOffer, ids, labels),
    TunnelAccepted: st.just(TunnelAccepted()),
    TunnelClosed: st.builds(TunnelClosed, labels),
    Pong: st.builds(Pong, st.booleans(), st.none() | endpoints, hops, coordinates),
    Find: st.builds(Find, ids),
    FindFor: st.builds(FindFor, ids),
    Found: st.builds(Found, some_contacts, hops),
    NeighborsRequest: st.builds(NeighborsRequest, st.binary(max_size=8)),
    Neighbors: st.builds(Neighbors, st.booleans(), contacts, some_contacts, some_contacts),
    Unchanged: st.builds(Unchanged),
    ConnectToMe: st.builds(ConnectToMe, contacts),
    Leave: st.builds(Leave, st.booleans()),
    Lapse: st.builds(Lapse),
    Suspect: st.builds(Suspect, ids),
    Unreachable: st.builds(Unreachable, ids, st.binary(min_size=8, max_size=8)),
    NoSession: st.builds(NoSession, st.integers(0, (1 << 32) - 1)),
    DuplicateIdentity: st.builds(DuplicateIdentity, st.none() | endpoints),
    Store: st.builds(Store, ids, records, st.booleans()),
    Stored: st.builds(Stored, st.integers(0, 255), st.integers(0, (1 << 64) - 1)),
    StoreFor: st.builds(StoreFor, ids, records, st.booleans()),
    Fetch: st.builds(Fetch, ids),
    FetchFor: st.builds(FetchFor, ids, ids),
    Fetched: st.builds(Fetched, st.lists(records, max_size=MAX_RECORDS).map(tuple), hops),
}


def read(message_type: type[Message], body: bytes) -> Message:
    return message_type.read(Fields.parse(body, message_type.__name__))


def test_every_message_of_the_ring_is_tested_here() -> None:
    assert set(TYPES) == set(MESSAGES), "a new message needs a line in MESSAGES, here"


def test_codes_are_different_and_leave_room_for_applications() -> None:
    codes = [message_type.CODE for message_type in TYPES]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < FIRST_APPLICATION_CODE for code in codes)


@pytest.mark.parametrize("message_type", TYPES, ids=lambda message_type: message_type.__name__)
def test_a_message_comes_back_as_it_was_sent(message_type: type[Message]) -> None:
    @given(MESSAGES[message_type], st.sampled_from(Kind), st.integers(0, (1 << 64) - 1))
    @fuzzed(weight=0.3)
    def comes_back(message: Message, kind: Kind, transaction: int) -> None:
        packed = pack_control(message, kind, transaction)
        control = split_control(packed)
        assert (control.code, control.kind, control.transaction) == (message_type.CODE, kind, transaction)
        again = read(message_type, control.body)
        assert again == message
        assert type(again) is message_type
        # With the byte before it that says "control", and an envelope around it.
        assert len(packed) + 64 < MAX_MESSAGE_BYTES

    comes_back()


@given(st.binary(max_size=40))
@fuzzed()
def test_any_bytes_are_a_control_message_or_refused(packed: bytes) -> None:
    try:
        control = split_control(packed)
    except BadDatagram:
        assert len(packed) < HEADER_BYTES or packed[2] > 2
        return
    assert control.body == packed[HEADER_BYTES:]
    assert control.code == int.from_bytes(packed[:2], "big")


@pytest.mark.parametrize("kind", range(3, 256))
def test_a_kind_that_is_none_is_refused(kind: int) -> None:
    with pytest.raises(BadDatagram, match=f"of kind {kind}"):
        split_control(b"\x00\x01" + bytes((kind,)) + bytes(8))


# Near misses: the right kinds of values, in the wrong places, lengths and numbers.
packed_contacts = contacts.map(Contact.pack)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.integers(0, (1 << 64) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=10),
    st.binary(max_size=30),
    st.sampled_from([bytes(ID_BYTES), bytes(ID_BYTES + STATIC_BYTES), bytes(MAX_CONTACT_BYTES + 1)]),
    endpoints.map(Endpoint.pack),
    packed_contacts,
    packed_contacts.map(lambda packed: packed[:-1]),
    st.lists(packed_contacts | st.binary(max_size=60) | st.integers(0, 9), max_size=MAX_CONTACTS + 2),
    st.lists(st.just(bytes(10)), max_size=MAX_RECORDS + 2),
    st.dictionaries(st.integers(0, 3), st.binary(max_size=5), max_size=2),
)
bodies = st.one_of(
    st.dictionaries(st.integers(0, 4), values, max_size=5).map(pack),
    values.map(pack),
    st.binary(max_size=60),
)


@given(st.sampled_from(TYPES), bodies)
@fuzzed(weight=5)
def test_any_body_is_a_message_or_refused(message_type: type[Message], body: bytes) -> None:
    try:
        message = read(message_type, body)
    except BadDatagram:
        return
    # What was taken is sent on by some handlers, so it must be fit for that.
    again = pack(message.fields())
    assert read(message_type, again) == message


@pytest.mark.parametrize("message_type", TYPES, ids=lambda message_type: message_type.__name__)
def test_one_field_exchanged_makes_another_message_or_none(message_type: type[Message]) -> None:
    @given(MESSAGES[message_type], st.integers(0, 4), values)
    @fuzzed(weight=0.5)
    def is_read_or_refused(message: Message, key: int, value: Any) -> None:
        with suppress(BadDatagram):
            read(message_type, pack(message.fields() | {key: value}))
        with suppress(BadDatagram):
            read(message_type, pack({other: each for other, each in message.fields().items() if other != key}))

    is_read_or_refused()


@pytest.mark.parametrize("message_type", TYPES, ids=lambda message_type: message_type.__name__)
def test_a_field_of_a_later_version_is_ignored(message_type: type[Message]) -> None:
    @given(MESSAGES[message_type])
    @fuzzed(weight=0.05)
    def is_ignored(message: Message) -> None:
        assert read(message_type, pack(message.fields() | {99: "new"})) == message

    is_ignored()


def test_what_is_too_much_is_refused_by_the_reader_and_left_out_by_the_writer() -> None:
    contact = Contact(1, bytes(STATIC_BYTES), ())
    many = tuple(Contact(number, bytes(STATIC_BYTES), ()) for number in range(MAX_CONTACTS + 5))
    found = read(Found, pack(Found(many, 1).fields()))
    assert found == Found(many[:MAX_CONTACTS], 1)
    with pytest.raises(BadDatagram, match=f"at most {MAX_CONTACTS}"):
        read(Found, pack({0: [contact.pack()] * (MAX_CONTACTS + 1), 1: 1}))
    fetched = read(Fetched, pack(Fetched((b"r",) * (MAX_RECORDS + 1), 1).fields()))
    assert fetched == Fetched((b"r",) * MAX_RECORDS, 1)
    with pytest.raises(BadDatagram, match=f"at most {MAX_RECORDS}"):
        read(Fetched, pack({0: [b"r"] * (MAX_RECORDS + 1), 1: 1}))
    with pytest.raises(BadDatagram, match="field 1"):
        read(Store, pack({0: bytes(ID_BYTES), 1: bytes(MAX_RECORD_BYTES + 1), 2: False}))
