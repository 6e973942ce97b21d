"""Bounded msgpack: the one encoding of every control message, record and state file.

`unpack` accepts exactly what `pack` can produce (shortest lengths, sorted unique keys, no extension types), so
a value has one encoding, and `pack(unpack(x)) == x` for everything accepted. The decoder is written out here
because the msgpack library builds its objects before anybody can count them (65 kB of empty maps become
4.7 MB; duplicate keys pass): ours knows every length before it allocates. Never on the per-packet data path,
never raises anything but `BadDatagram` for foreign bytes.
Source: the msgpack specification, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from struct import Struct
from typing import Final, TypeAlias

from msgpack import Packer

from dht.errors import BadDatagram

MAX_BYTES: Final = 8192
MAX_DEPTH: Final = 6  # containers within containers, the outermost included
MAX_ITEMS: Final = 512  # every key, value and element of the whole message
MAX_TEXT_BYTES: Final = 4096  # of all texts together: one wide character makes Python spend 4 bytes on each other

Value: TypeAlias = None | bool | int | float | bytes | str | list["Value"] | dict[int | str, "Value"]
# What `pack` takes is wider than what `unpack` gives: tuples, and maps of one kind of key (Mapping is invariant
# in its key, hence two more of them).
_Maps: TypeAlias = Mapping[int, "Packable"] | Mapping[str, "Packable"] | Mapping[int | str, "Packable"]
Packable: TypeAlias = None | bool | int | float | bytes | str | Sequence["Packable"] | _Maps

_FLOAT = Struct(">d")
# First byte of an integer -> its width in bytes, the smallest and the largest value that needs this width.
_INTEGERS = {
    0xCC: (1, 0x80, 0xFF),
    0xCD: (2, 0x100, 0xFFFF),
    0xCE: (4, 0x10000, 0xFFFFFFFF),
    0xCF: (8, 0x100000000, (1 << 64) - 1),
    0xD0: (1, -0x80, -0x21),
    0xD1: (2, -0x8000, -0x81),
    0xD2: (4, -0x80000000, -0x8001),
    0xD3: (8, -(1 << 63), -0x80000001),
}
# First byte of octets, text, an array or a map -> the width of its length, and the smallest length that needs
# this width. Longer widths than these would break MAX_ITEMS or MAX_TEXT_BYTES anyway.
_LENGTHS = {
    0xC4: (1, 0),
    0xC5: (2, 0x100),
    0xC6: (4, 0x10000),
    0xD9: (1, 32),
    0xDA: (2, 0x100),
    0xDC: (2, 16),
    0xDE: (2, 16),
}
_PLAIN = frozenset((int, bytes, bool, str))  # what needs no look inside
_INTEGER = frozenset((int,))
_packer = Packer(use_bin_type=True, autoreset=True)


def pack(value: Packable) -> bytes:
    """The one encoding of `value`: maps sorted by key, integers before texts. Whatever `unpack` would refuse by
    its kind (sets, 65-bit integers) is our own mistake and raises TypeError, ValueError or OverflowError."""
    packed: bytes = _packer.pack(_in_order(value))
    return packed


def _in_order(value: object) -> object:
    kind = type(value)
    if kind in _PLAIN:  # nearly everything
        return value
    if kind is list or kind is tuple:
        assert isinstance(value, (list, tuple))
        if _PLAIN.issuperset(map(type, value)):
            return value
    if isinstance(value, (dict, Mapping)):
        plain = _INTEGER.issuperset(map(type, value))
        return {key: _in_order(value[key]) for key in sorted(value, key=None if plain else _key_order)}
    if isinstance(value, (list, tuple)):
        return [_in_order(element) for element in value]
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{value} has no place in a message")
    return value


def _key_order(key: object) -> tuple[bool, object]:
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        raise TypeError(f"a map key is an integer or a text, not {key!r}")
    return isinstance(key, str), key


def unpack(data: bytes | memoryview, *, max_bytes: int = MAX_BYTES) -> Value:
    """The value that `data` encodes, whole. Raises BadDatagram."""
    if len(data) > max_bytes:
        raise BadDatagram(f"a message of {len(data)} bytes, more than {max_bytes}")
    value, end = _Reader(bytes(data)).value(0, MAX_DEPTH)
    if end != len(data):
        raise BadDatagram(f"{len(data) - end} bytes follow the message")
    return value


class _Reader:
    """Decodes one message. Every length is checked against what is left before anything is allocated for it."""

    __slots__ = ("_data", "_items_left", "_text_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._items_left = MAX_ITEMS - 1
        self._text_left = MAX_TEXT_BYTES

    def value(self, at: int, depth: int) -> tuple[Value, int]:
        """The value that begins at `at`, and where it ends. `depth` more containers may open."""
        data = self._data
        if at >= len(data):
            raise BadDatagram("the message ends early")
        first = data[at]
        at += 1
        if first < 0x80:
            return first, at
        if first == 0xC4:  # by far the commonest: ids, keys, endpoints
            return self._octets(self._length(first, at), at + 1)
        if first >= 0xE0:
            return first - 0x100, at
        if first < 0x90:
            return self._map(first & 0x0F, at, depth)
        if first < 0xA0:
            return self._array(first & 0x0F, at, depth)
        if first < 0xC0:
            return self._text(first & 0x1F, at)
        if first in _INTEGERS:
            return self._integer(first, at)
        if first in _LENGTHS:
            length = self._length(first, at)
            at += _LENGTHS[first][0]
            if first < 0xD9:
                return self._octets(length, at)
            if first < 0xDC:
                return self._text(length, at)
            return self._array(length, at, depth) if first == 0xDC else self._map(length, at, depth)
        if first == 0xC2 or first == 0xC3:
            return first == 0xC3, at
        if first == 0xC0:
            return None, at
        if first == 0xCB:
            return self._float(at)
        raise BadDatagram(f"kind {first:#04x} is not allowed in a message")

    def _integer(self, first: int, at: int) -> tuple[int, int]:
        width, low, high = _INTEGERS[first]
        end = at + width
        if end > len(self._data):
            raise BadDatagram("the message ends within an integer")
        number = int.from_bytes(self._data[at:end], "big", signed=first >= 0xD0)
        if not low <= number <= high:
            raise BadDatagram("an integer is not in its shortest form")
        return number, end

    def _float(self, at: int) -> tuple[float, int]:
        if at + 8 > len(self._data):
            raise BadDatagram("the message ends within a float")
        number: float = _FLOAT.unpack_from(self._data, at)[0]
        if not isfinite(number):
            raise BadDatagram("a float is not finite")
        return number, at + 8

    def _length(self, first: int, at: int) -> int:
        width, low = _LENGTHS[first]
        if at + width > len(self._data):
            raise BadDatagram("the message ends within a length")
        length = int.from_bytes(self._data[at : at + width], "big")
        if length < low:
            raise BadDatagram("a length is not in its shortest form")
        return length

    def _octets(self, length: int, at: int) -> tuple[bytes, int]:
        end = at + length
        if end > len(self._data):
            raise BadDatagram("the message ends within octets")
        return self._data[at:end], end

    def _text(self, length: int, at: int) -> tuple[str, int]:
        end = at + length
        if end > len(self._data):
            raise BadDatagram("the message ends within a text")
        self._text_left -= length
        if self._text_left < 0:
            raise BadDatagram(f"more than {MAX_TEXT_BYTES} bytes of text")
        try:
            return self._data[at:end].decode(), end
        except UnicodeDecodeError:
            raise BadDatagram("a text is not UTF-8") from None

    def _array(self, length: int, at: int, depth: int) -> tuple[list[Value], int]:
        self._open(length, depth)
        elements: list[Value] = []
        data = self._data
        for _ in range(length):
            if data[at : at + 1] == b"\xc4" and at + 1 < len(data):  # lists are mostly of contacts and records
                element: Value
                element, at = self._octets(data[at + 1], at + 2)
            else:
                element, at = self.value(at, depth - 1)
            elements.append(element)
        return elements, at

    def _map(self, length: int, at: int, depth: int) -> tuple[dict[int | str, Value], int]:
        self._open(2 * length, depth)
        entries: dict[int | str, Value] = {}
        last: int | str | None = None
        data, end = self._data, len(self._data)
        for _ in range(length):
            key: Value
            if at < end and data[at] < 0x80:  # all of ours
                key, at = data[at], at + 1
            else:
                key, at = self.value(at, 0)
            if type(key) is int:
                in_order = last is None or (type(last) is int and last < key)
            elif type(key) is str:
                in_order = last is None or type(last) is int or (type(last) is str and last < key)
            else:
                raise BadDatagram("a map key is neither an integer nor a text")
            if not in_order:
                raise BadDatagram("map keys repeat or are not in order")
            entries[key], at = self.value(at, depth - 1)
            last = key
        return entries, at

    def _open(self, items: int, depth: int) -> None:
        if depth == 0:
            raise BadDatagram(f"nested deeper than {MAX_DEPTH}, or a map key is a container")
        self._items_left -= items
        if self._items_left < 0:
            raise BadDatagram(f"more than {MAX_ITEMS} items")


class Fields:
    """A map with small integer keys, read field by field. Every broken rule raises BadDatagram naming the field.

    A field without a default must be there; a default is given back unchecked. Keys nobody asks for are ignored,
    so that newer nodes can add some.
    """

    __slots__ = ("_entries", "_what")

    def __init__(self, entries: Mapping[int | str, Value], what: str = "message") -> None:
        self._entries = entries
        self._what = what

    @classmethod
    def parse(cls, data: bytes | memoryview, what: str = "message", *, max_bytes: int = MAX_BYTES) -> Fields:
        """Reads a packed map; `what` names it in errors."""
        value = unpack(data, max_bytes=max_bytes)
        if type(value) is not dict:
            raise BadDatagram(f"a {what} is not a map")
        return cls(value, what)

    def __contains__(self, key: int) -> bool:
        return key in self._entries

    def integer(self, key: int, low: int, high: int, default: int | None = None) -> int:
        """An integer with low <= it <= high."""
        if default is not None and key not in self._entries:
            return default
        value = self._entries.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self._refusal(key, f"an integer from {low} to {high}")
        return value

    def number(self, key: int, low: float, high: float, default: float | None = None) -> float:
        """A float with low <= it <= high; an integer is none."""
        if default is not None and key not in self._entries:
            return default
        value = self._entries.get(key)
        if type(value) is not float or not low <= value <= high:
            raise self._refusal(key, f"a float from {low} to {high}")
        return value

    def octets(self, key: int, min_bytes: int, max_bytes: int, default: bytes | None = None) -> bytes:
        """Between `min_bytes` and `max_bytes` octets, both included."""
        if default is not None and key not in self._entries:
            return default
        value = self._entries.get(key)
        if type(value) is not bytes or not min_bytes <= len(value) <= max_bytes:
            raise self._refusal(key, f"{min_bytes} to {max_bytes} octets")
        return value

    def text(self, key: int, max_chars: int, default: str | None = None) -> str:
        """A text of at most `max_chars` characters, all printable: it may end up on somebody's terminal."""
        if default is not None and key not in self._entries:
            return default
        value = self._entries.get(key)
        if type(value) is not str or len(value) > max_chars or not value.isprintable():
            raise self._refusal(key, f"a printable text of at most {max_chars} characters")
        return value

    def flag(self, key: int, default: bool | None = None) -> bool:
        """True or False."""
        if default is not None and key not in self._entries:
            return default
        value = self._entries.get(key)
        if type(value) is not bool:
            raise self._refusal(key, "true or false")
        return value

    def octets_list(
        self, key: int, max_items: int, max_bytes: int, default: Sequence[bytes] | None = None
    ) -> list[bytes]:
        """At most `max_items` byte strings of at most `max_bytes` each."""
        if default is not None and key not in self._entries:
            return list(default)
        value = self._entries.get(key)
        if type(value) is not list or len(value) > max_items:
            raise self._refusal(key, f"a list of at most {max_items}")
        octets = [element for element in value if type(element) is bytes and len(element) <= max_bytes]
        if len(octets) != len(value):
            raise self._refusal(key, f"a list of at most {max_bytes} octets each")
        return octets

    def fields(self, key: int) -> Fields:
        """A map within the map."""
        value = self._entries.get(key)
        if type(value) is not dict:
            raise self._refusal(key, "a map")
        return Fields(value, f"{self._what} field {key}")

    def _refusal(self, key: int, rule: str) -> BadDatagram:
        if key not in self._entries:
            return BadDatagram(f"{self._what} lacks field {key}")
        return BadDatagram(f"{self._what} field {key} is not {rule}")
