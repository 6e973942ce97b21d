"""STUN Binding: who am I to you? The question and its answer, as datagrams. Pure: no clock, no I/O.

    0..3 | type (2) | length (2) | magic cookie (4) | transaction id (12) | attributes, padded to 4 bytes

Only Binding, only without credentials. `StunResponder` answers strangers, so it is off unless its owner asks for it.
Then it still keeps the rule that no answer is longer than its question: a bare request has 20 bytes, an answer 40 or
52, and a spoofed source would be hit with more than the spoofer sent. Whoever wants an answer pads its question, as
`request` does, with SOFTWARE, which any other server reads over. Never answers with anything but the sender's endpoint
or the attributes it did not understand.

Source: RFC 8489, sections 5, 6.3, 14.2, 14.7, 14.8 and 14.13; RFC 7983 for the first byte.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final
from zlib import crc32

from dht.cookie import SourceBuckets
from dht.errors import BadDatagram
from dht.host import Endpoint

FIRST_BYTES: Final = range(4)  # of a datagram, which STUN has to itself
MAGIC: Final = b"\x21\x12\xa4\x42"
TRANSACTION_BYTES: Final = 12
HEADER_BYTES: Final = 20
REQUEST_BYTES: Final = 56
MAX_MESSAGE_BYTES: Final = 1280  # what fits any IPv6 path; nothing that we ask for comes near it
MAX_ATTRIBUTES: Final = 32
MAX_UNKNOWN: Final = 8  # named in a refusal
UNKNOWN_ATTRIBUTE: Final = 420

_REQUEST: Final = 0x0001
_SUCCESS: Final = 0x0101
_FAILURE: Final = 0x0111
_REQUIRED_BELOW: Final = 0x8000  # an attribute below it must be understood
_FINGERPRINT_XOR: Final = 0x5354554E
_FINGERPRINT_BYTES: Final = 8
_SOFTWARE: Final = b"p2pvpn".ljust(REQUEST_BYTES - HEADER_BYTES - _FINGERPRINT_BYTES - 4)
_TYPE_LENGTH: Final = Struct(">HH")


class Attribute(IntEnum):
    """The attributes that mean something to us, or that a server without credentials reads over."""

    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028


_KNOWN: Final = frozenset(Attribute)
_BEHIND_INTEGRITY: Final = (Attribute.MESSAGE_INTEGRITY_SHA256, Attribute.FINGERPRINT)


def request(transaction: bytes) -> bytes:
    """A Binding request of 56 bytes, longer than any answer to it. `transaction` is 12 unpredictable bytes."""
    if len(transaction) != TRANSACTION_BYTES:
        raise ValueError(f"a transaction id has {TRANSACTION_BYTES} bytes")
    return _message(_REQUEST, transaction, _attribute(Attribute.SOFTWARE, _SOFTWARE))


def read_response(datagram: bytes, transaction: bytes) -> Endpoint:
    """Where the server that answered `request(transaction)` saw it come from; the caller checks who answered.

    Raises BadDatagram, also for a server's refusal.
    """
    kind, attributes = _parse(datagram)
    if not hmac.compare_digest(datagram[8:HEADER_BYTES], transaction):
        raise BadDatagram("a STUN response to another question")
    if kind == _FAILURE:
        raise BadDatagram(f"the STUN server refused: error {_error_code(attributes)}")
    if kind != _SUCCESS:
        raise BadDatagram(f"a STUN message of type {kind:#06x} is no response")
    if unknown := _not_understood(attributes):
        raise BadDatagram(f"a STUN response with the attribute {unknown[0]:#06x}, which nobody here understands")
    for attribute, value in attributes:
        if attribute == Attribute.XOR_MAPPED_ADDRESS:
            return _endpoint(value, datagram[4:HEADER_BYTES])
    for attribute, value in attributes:
        # What servers older than RFC 5389 send. Some NATs rewrite addresses that they find inside, hence the XOR.
        if attribute == Attribute.MAPPED_ADDRESS:
            return _endpoint(value, bytes(16))
    raise BadDatagram("a STUN response without an address")


class StunResponder:
    """Answers Binding requests, when it is on: 20 a second from one source, never at greater length than asked."""

    __slots__ = ("_askers", "on")

    def __init__(self, *, on: bool = False) -> None:
        self.on = on
        self._askers = SourceBuckets()

    def answer(self, datagram: bytes, source: Endpoint, now: float) -> bytes | None:
        """The answer to a request from `source`, if it gets one. Raises BadDatagram for what is no request."""
        if not self.on:
            raise BadDatagram("a STUN message, which is not answered here")
        kind, attributes = _parse(datagram)
        if kind != _REQUEST:
            raise BadDatagram(f"a STUN message of type {kind:#06x} that nobody asked for")
        if unknown := _not_understood(attributes):
            listed = b"".join(number.to_bytes(2, "big") for number in unknown[:MAX_UNKNOWN])
            code = bytes((0, 0, *divmod(UNKNOWN_ATTRIBUTE, 100)))
            body = _attribute(Attribute.ERROR_CODE, code) + _attribute(Attribute.UNKNOWN_ATTRIBUTES, listed)
            answer = _message(_FAILURE, datagram[8:HEADER_BYTES], body)
        else:
            value = _xored(source, datagram[4:HEADER_BYTES])
            answer = _message(_SUCCESS, datagram[8:HEADER_BYTES], _attribute(Attribute.XOR_MAPPED_ADDRESS, value))
        if len(answer) > len(datagram):
            raise BadDatagram(f"a STUN request of {len(datagram)} bytes, fewer than its answer would have")
        return answer if self._askers.take(source.pack(), now) else None


def _message(kind: int, transaction: bytes, body: bytes) -> bytes:
    covered = _TYPE_LENGTH.pack(kind, len(body) + _FINGERPRINT_BYTES) + MAGIC + transaction + body
    return covered + _attribute(Attribute.FINGERPRINT, _fingerprint(covered))


def _attribute(attribute: Attribute, value: bytes) -> bytes:
    return _TYPE_LENGTH.pack(attribute, len(value)) + value + bytes(-len(value) % 4)


def _fingerprint(covered: bytes) -> bytes:
    return (crc32(covered) ^ _FINGERPRINT_XOR).to_bytes(4, "big")


def _parse(datagram: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    """The type and the attributes of a message that is whole, those behind MESSAGE-INTEGRITY left out."""
    if not HEADER_BYTES <= len(datagram) <= MAX_MESSAGE_BYTES:
        raise BadDatagram(f"a STUN message of {len(datagram)} bytes")
    kind, length = _TYPE_LENGTH.unpack_from(datagram)
    if kind >> 14 or datagram[4:8] != MAGIC:
        raise BadDatagram("not a STUN message")
    if length != len(datagram) - HEADER_BYTES or length % 4:
        raise BadDatagram("a STUN message says another length than it has")
    attributes = list(_attributes(datagram))
    sealed = [number for number, _ in attributes]
    if Attribute.MESSAGE_INTEGRITY in sealed:
        end = sealed.index(Attribute.MESSAGE_INTEGRITY) + 1
        attributes[end:] = [entry for entry in attributes[end:] if entry[0] in _BEHIND_INTEGRITY]
    return kind, attributes


def _attributes(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    at, count = HEADER_BYTES, 0
    while at < len(datagram):
        # The message's length is a multiple of four, so there is room for a header.
        number, length = _TYPE_LENGTH.unpack_from(datagram, at)
        end = at + 4 + length
        if end > len(datagram):
            raise BadDatagram("a STUN message ends within an attribute")
        value = datagram[at + 4 : end]
        end += -length % 4
        count += 1
        if count > MAX_ATTRIBUTES:
            raise BadDatagram(f"a STUN message with more than {MAX_ATTRIBUTES} attributes")
        if number == Attribute.FINGERPRINT:
            if end != len(datagram):
                raise BadDatagram("something follows a STUN message's fingerprint")
            if value != _fingerprint(datagram[:at]):
                raise BadDatagram("a STUN message's fingerprint is wrong")
        yield number, value
        at = end


def _not_understood(attributes: list[tuple[int, bytes]]) -> list[int]:
    return [number for number, _ in attributes if number < _REQUIRED_BELOW and number not in _KNOWN]


def _error_code(attributes: list[tuple[int, bytes]]) -> int:
    for number, value in attributes:
        if number == Attribute.ERROR_CODE and len(value) >= 4 and 3 <= value[2] & 7 <= 6 and value[3] < 100:
            return (value[2] & 7) * 100 + value[3]
    raise BadDatagram("a STUN refusal without a reason")


def _xored(endpoint: Endpoint, mask: bytes) -> bytes:
    packed = endpoint.pack()
    address, port = packed[:-2], packed[-2:]
    family = 1 if len(address) == 4 else 2
    return bytes((0, family)) + _xor(port, mask) + _xor(address, mask)


def _endpoint(value: bytes, mask: bytes) -> Endpoint:
    size = {1: 4, 2: 16}.get(value[1], 0) if len(value) >= 4 else 0
    if size == 0 or len(value) != 4 + size:
        raise BadDatagram("a STUN address of no family")
    return Endpoint.parse(_xor(value[4:], mask) + _xor(value[2:4], mask))


def _xor(content: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(content, mask, strict=False))
