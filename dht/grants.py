"""The groups that a certificate names: one non-critical extension, which older nodes ignore.

Its value is a DER UTF8String such as `printers=0,studio=3`: each group with the epoch for which it was granted. When a
group's members are decided anew, its epoch grows, and grants of lower epochs count no more (`dht.groups.notice`).
Pure: text in, values out. Source: RFC 5280, section 4.2, for extensions; X.667 for the object identifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from cryptography import x509

GROUP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
# UUID 51808ec6-049d-4dd1-bdc0-aeef00fe84ce under the arc 2.25.
GROUPS_EXTENSION: Final = x509.ObjectIdentifier("2.25.108334977447238648887426009677772522702")
MAX_GRANTS: Final = 16
MAX_TEXT_BYTES: Final = 250  # with it and the longest names, a certificate still fits into a handshake
MAX_EPOCH: Final = (1 << 32) - 1
_UTF8_STRING: Final = 0x0C
_GRANT: Final = re.compile(rf"({GROUP_NAME.pattern})=(0|[1-9][0-9]{{0,9}})")


class Grant(NamedTuple):
    """A group, and the epoch up to which the grant counts."""

    group: str
    epoch: int


def pack_grants(grants: Iterable[Grant]) -> bytes:
    """The extension's value. Raises ValueError for too many groups, too long a text, or what is no group."""
    ordered = sorted(set(grants))
    text = ",".join(f"{grant.group}={grant.epoch}" for grant in ordered).encode()
    if len(ordered) > MAX_GRANTS or len(text) > MAX_TEXT_BYTES:
        raise ValueError(f"a certificate names at most {MAX_GRANTS} groups, in at most {MAX_TEXT_BYTES} bytes")
    length = bytes((len(text),)) if len(text) < 0x80 else bytes((0x81, len(text)))
    packed = bytes((_UTF8_STRING,)) + length + text
    read_grants(packed)
    return packed


def read_grants(value: bytes) -> tuple[Grant, ...]:
    """The inverse of `pack_grants`. Raises ValueError."""
    if value[:1] != bytes((_UTF8_STRING,)) or len(value) < 3:
        raise ValueError("the groups are not a text")
    start = 3 if value[1] == 0x81 else 2
    if value[start - 1] != len(value) - start or (start == 2) != (value[start - 1] < 0x80):
        raise ValueError("the groups' length is wrong, or not in its shortest form")
    if len(value) - start > MAX_TEXT_BYTES:
        raise ValueError(f"the groups take more than {MAX_TEXT_BYTES} bytes")
    grants: list[Grant] = []
    for text in value[start:].decode().split(","):
        found = _GRANT.fullmatch(text)
        if found is None or int(found[2]) > MAX_EPOCH:
            raise ValueError(f"{text[:80]!r} is no group with its epoch")
        grants.append(Grant(found[1], int(found[2])))
    names = [grant.group for grant in grants]
    if names != sorted(set(names)) or len(names) > MAX_GRANTS:
        raise ValueError("the groups repeat, are out of order, or too many")
    return tuple(grants)
