"""What `dht.packing` accepts, what it refuses, and what an attacker can make it spend."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from enum import IntEnum
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from dht.packing import MAX_DEPTH, MAX_ITEMS, MAX_TEXT_BYTES, Fields, Value, pack, unpack
from tests.fuzzing import fuzzed

KIB64 = 1 << 16

integers = st.integers(-(1 << 63), (1 << 64) - 1)
keys = st.one_of(integers, st.text(max_size=20))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=300),
    st.text(max_size=60),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(keys, inner, max_size=20)),
    max_leaves=25,
)


def nested_deeper_than(value: object, depth: int) -> bool:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (depth == 0 or any(nested_deeper_than(element, depth - 1) for element in inner))


@given(values)
@fuzzed()
def test_what_we_pack_comes_back_the_same(value: Any) -> None:
    if nested_deeper_than(value, MAX_DEPTH):
        with pytest.raises(BadDatagram):
            unpack(pack(value))
    else:
        assert repr(unpack(pack(value), max_bytes=KIB64)) == repr(in_canonical_order(value))


def in_canonical_order(value: Any) -> Any:
    if isinstance(value, dict):
        ordered = sorted(value, key=lambda key: (isinstance(key, str), key))
        return {key: in_canonical_order(value[key]) for key in ordered}
    return [in_canonical_order(element) for element in value] if isinstance(value, list) else value


@given(values)
@fuzzed()
def test_the_library_reads_what_we_pack(value: Any) -> None:
    assert msgpack.unpackb(pack(value), strict_map_key=False) == value


@given(st.one_of(st.binary(max_size=200), st.lists(values, max_size=3).map(msgpack.packb)))
@fuzzed()
def test_any_bytes_are_refused_or_have_exactly_one_encoding(data: bytes) -> None:
    try:
        value = unpack(data)
    except BadDatagram:
        return
    assert pack(value) == data


@given(values, st.data())
@fuzzed()
def test_a_damaged_message_is_refused_or_has_exactly_one_encoding(value: Any, data: st.DataObject) -> None:
    packed = bytearray(pack(value))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(packed[: data.draw(st.integers(0, len(packed)))])
    try:
        read = unpack(damaged)
    except BadDatagram:
        return
    assert pack(read) == damaged


@given(values, st.integers(0, 1 << 16))
@fuzzed()
def test_a_truncated_message_is_refused(value: Any, cut: int) -> None:
    packed = pack(value)
    with pytest.raises(BadDatagram):
        unpack(packed[: cut % len(packed)])


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "ends early"),
        (b"\x00\x00", "follow"),
        (b"\xc1", "kind 0xc1"),
        (b"\xd4\x01\x02", "kind 0xd4"),  # fixext 1
        (b"\xc7\x00\x01", "kind 0xc7"),  # ext 8
        (b"\xd6\xff\x00\x00\x00\x00", "kind 0xd6"),  # a timestamp
        (b"\xca\x00\x00\x00\x00", "kind 0xca"),  # float 32: the same number in another encoding
        (b"\xdb\xff\xff\xff\xff", "kind 0xdb"),  # text of 4 GiB
        (b"\xdd\xff\xff\xff\xff", "kind 0xdd"),  # array of 4 G elements
        (b"\xdf\xff\xff\xff\xff", "kind 0xdf"),  # map of 4 G entries
        (b"\xc6\xff\xff\xff\xff", "ends within octets"),
        (b"\xdc\xff\xff", "more than 512 items"),
        (b"\xde\xff\xff", "more than 512 items"),
        (b"\xc5\xff", "ends within a length"),
        (b"\xcd\x01", "ends within an integer"),
        (b"\xcb\x00", "ends within a float"),
        (b"\xa3ab", "ends within a text"),
        (b"\xa2\xc3\x28", "not UTF-8"),
        (b"\xa3\xed\xa0\x80", "not UTF-8"),  # half of a surrogate pair
        (b"\xcb\x7f\xf8" + bytes(6), "not finite"),
        (b"\xcb\x7f\xf0" + bytes(6), "not finite"),
        (b"\xcc\x7f", "shortest"),
        (b"\xcf" + bytes(8), "shortest"),
        (b"\xd0\x01", "shortest"),
        (b"\xd0\xff", "shortest"),
        (b"\xc5\x00\x01a", "shortest"),
        (b"\xd9\x01a", "shortest"),
        (b"\xdc\x00\x01\x00", "shortest"),
        (b"\xde\x00\x01\x00\x00", "shortest"),
        (b"\x82\x01\x00\x01\x00", "repeat"),
        (b"\x82\xa1a\x00\xa1a\x00", "repeat"),
        (b"\x82\x02\x00\x01\x00", "not in order"),
        (b"\x82\xa1a\x00\x01\x00", "not in order"),
        (b"\x81\xc0\x00", "neither an integer nor a text"),
        (b"\x81\xc3\x00", "neither an integer nor a text"),
        (b"\x81\xc4\x01a\x00", "neither an integer nor a text"),
        (b"\x81\x90\x00", "map key is a container"),
        (b"\x91" * MAX_DEPTH + b"\x90", "nested deeper"),
    ],
)
def test_each_rule_is_named_when_broken(data: bytes, rule: str) -> None:
    with pytest.raises(BadDatagram, match=rule):
        unpack(data)


def test_limits_are_exact() -> None:
    assert len(list_of(unpack(pack([0] * (MAX_ITEMS - 1))))) == MAX_ITEMS - 1
    with pytest.raises(BadDatagram, match="items"):
        unpack(pack([0] * MAX_ITEMS))
    unpack(b"\x91" * (MAX_DEPTH - 1) + b"\x90")
    unpack(pack("a" * MAX_TEXT_BYTES))
    with pytest.raises(BadDatagram, match="text"):
        unpack(pack(["a" * MAX_TEXT_BYTES, "b"]))
    unpack(bytes(1), max_bytes=1)
    with pytest.raises(BadDatagram, match="more than 8192"):
        unpack(pack(bytes(8192)))
    assert unpack(memoryview(pack({1: b"x"}))) == {1: b"x"}


def list_of(value: Value) -> list[Value]:
    assert isinstance(value, list)
    return value


@pytest.mark.parametrize("ours", [{1, 2}, 1 << 64, float("nan"), {True: 1}, {b"k": 1}, [object()], {1.5: 1}])
def test_our_own_mistakes_are_not_a_peers(ours: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        pack(ours)
    assert unpack(pack([1])) == [1], "the packer must survive a value it refused"


def test_enumerated_integers_and_tuples_pack_as_what_they_stand_for() -> None:
    class Colour(IntEnum):
        RED = 1

    by_colour: dict[int, tuple[int, int]] = {Colour.RED: (Colour.RED, 2)}
    assert pack(by_colour) == pack({1: [1, 2]})


def bombs() -> dict[str, bytes]:
    """Messages of 64 KiB built to cost the reader as much as possible."""
    shapes = {
        "empty maps": b"\x80",
        "empty arrays": b"\x90",
        "maps of one": b"\x81\x00\x00",
        "wide integers": b"\xcf" + bytes([255]) * 8,
        "floats": b"\xcb\x3f\xf0" + bytes(6),
        "deep arrays": b"\x91" * (MAX_DEPTH - 2) + b"\x90",
        "deep maps": b"\x81\x00" * (MAX_DEPTH - 2) + b"\x80",
        "empty octets": b"\xc4\x00",
        "a wide character before many narrow ones": b"\xd9\xff\xf0\x9f\x98\x80" + b"a" * 251,
        "octets": b"\xc5\x01\x00" + bytes(256),
    }
    made = {}
    for name, shape in shapes.items():
        for count in (MAX_ITEMS // 8, MAX_ITEMS // 3, MAX_ITEMS - 2, min(KIB64 // len(shape), 0xFFFE)):
            body = b"\xdc" + (count + 1).to_bytes(2, "big") + shape * count
            filler = KIB64 - len(body) - 3
            if filler >= KIB64 // 2:  # as many objects as allowed, then one long string of octets
                made[f"{count} {name}, then octets"] = body + b"\xc5" + filler.to_bytes(2, "big") + bytes(filler)
            made[f"{count} {name}"] = body[:KIB64].ljust(KIB64, b"\x00")
    for start in (b"\x91", b"\x81\x00", b"\xdc\xff\xff", b"\xde\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xa1a", b"\x9f"):
        made[f"only {start.hex()}"] = (start * KIB64)[:KIB64]
    texts = b"".join(b"\xda\x02\x00\xf0\x9f\x98\x80" + b"a" * 508 for _ in range(7))
    made["texts up to the limit"] = b"\x98" + texts + b"\xc5\xee\x00" + bytes(0xEE00)
    made["one long text"] = b"\xda\xff\xfd\xf0\x9f\x98\x80" + b"a" * (0xFFFD - 4)
    made["forged text length"] = b"\xda\x10\x00" + "\N{GRINNING FACE}".encode() * 1000
    made["one long string of octets"] = b"\xc5" + (KIB64 - 3).to_bytes(2, "big") + bytes(KIB64 - 3)
    return made


def peak_bytes(data: bytes) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value = None
        with suppress(BadDatagram):
            value = unpack(data, max_bytes=KIB64)
        peak = tracemalloc.get_traced_memory()[1] - before
        del value
        return peak
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", sorted(bombs()))
def test_no_bomb_of_64_kib_costs_more_than_four_times_its_size(name: str) -> None:
    data = bombs()[name]
    assert peak_bytes(data) <= 4 * KIB64


def test_the_bombs_that_are_accepted_are_among_those_measured() -> None:
    accepted = []
    for name, data in bombs().items():
        try:
            unpack(data, max_bytes=KIB64)
        except BadDatagram:
            continue
        accepted.append(name)
    assert len(accepted) >= 10, "a bomb refused at its first byte would prove little"


SHAPES = (b"\x80", b"\x90", b"\x91\x90", b"\x81\x00\x80", b"\xc4\x00", b"\xa0", b"\xcf" + b"\xff" * 8)


@given(st.lists(st.sampled_from(SHAPES), min_size=16, max_size=MAX_ITEMS))
@fuzzed(weight=0.1)
def test_no_drawn_bomb_costs_more_than_four_times_64_kib(parts: list[bytes]) -> None:
    body = b"\xdc" + (len(parts) + 1).to_bytes(2, "big") + b"".join(parts)
    filler = KIB64 - len(body) - 3
    data = body + b"\xc5" + filler.to_bytes(2, "big") + bytes(filler)
    assert len(data) == KIB64
    assert peak_bytes(data) <= 4 * KIB64


def sample() -> Fields:
    packed = pack({1: 7, 2: b"abc", 3: "name", 4: True, 5: [b"x", b"yz"], 6: 1.5, 7: {1: 2}, 8: None, 99: "newer"})
    return Fields.parse(packed, "sample")


def test_fields_are_read_by_kind() -> None:
    fields = sample()
    assert fields.integer(1, 0, 7) == 7
    assert fields.octets(2, 3, 3) == b"abc"
    assert fields.text(3, 4) == "name"
    assert fields.flag(4) is True
    assert fields.octets_list(5, 2, 2) == [b"x", b"yz"]
    assert fields.number(6, 1.5, 2.0) == 1.5
    assert fields.fields(7).integer(1, 0, 9) == 2
    assert 1 in fields and 50 not in fields


def test_an_absent_field_takes_its_default() -> None:
    fields = sample()
    assert fields.integer(50, 0, 7, default=-1) == -1
    assert fields.octets(50, 3, 3, default=b"") == b""
    assert fields.text(50, 4, default="") == ""
    assert fields.flag(50, default=False) is False
    assert fields.octets_list(50, 2, 2, default=()) == []
    assert fields.number(50, 1.5, 2.0, default=0.0) == 0.0


def test_a_refused_field_is_named() -> None:
    fields = sample()
    with pytest.raises(BadDatagram, match="sample lacks field 50"):
        fields.integer(50, 0, 7)
    with pytest.raises(BadDatagram, match="sample field 1 is not an integer from 0 to 6"):
        fields.integer(1, 0, 6)
    with pytest.raises(BadDatagram, match="sample field 4"):
        fields.integer(4, 0, 7)  # True is no integer here
    with pytest.raises(BadDatagram, match="sample field 8"):
        fields.integer(8, 0, 7, default=3)  # an explicit nothing is not an absent field
    with pytest.raises(BadDatagram, match="sample field 1"):
        fields.flag(1)
    with pytest.raises(BadDatagram, match="sample field 2"):
        fields.octets(2, 4, 9)
    with pytest.raises(BadDatagram, match="sample field 3"):
        fields.octets(3, 0, 9)
    with pytest.raises(BadDatagram, match="sample field 3"):
        fields.text(3, 3)
    with pytest.raises(BadDatagram, match="sample field 5"):
        fields.octets_list(5, 1, 2)
    with pytest.raises(BadDatagram, match="sample field 5"):
        fields.octets_list(5, 2, 1)
    with pytest.raises(BadDatagram, match="sample field 1"):
        fields.number(1, 0.0, 9.0)
    with pytest.raises(BadDatagram, match="sample field 1 is not a map"):
        fields.fields(1)
    with pytest.raises(BadDatagram, match="a sample is not a map"):
        Fields.parse(pack([1]), "sample")


@pytest.mark.parametrize("hostile", ["a\nb", "\x1b[2J", "a\x00", "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe"])
def test_a_text_that_would_disturb_a_terminal_is_refused(hostile: str) -> None:
    with pytest.raises(BadDatagram, match="printable"):
        Fields.parse(pack({1: hostile})).text(1, 100)


@given(st.dictionaries(st.integers(0, 8), scalars, max_size=8))
@fuzzed()
def test_reading_any_map_raises_only_bad_datagram(value: Any) -> None:
    fields = Fields.parse(pack(value))
    for read in (
        lambda: fields.integer(0, 0, 9),
        lambda: fields.octets(1, 0, 9),
        lambda: fields.text(2, 9),
        lambda: fields.flag(3),
        lambda: fields.octets_list(4, 9, 9),
        lambda: fields.number(5, 0.0, 1.0),
        lambda: fields.fields(6),
    ):
        with suppress(BadDatagram):
            read()
