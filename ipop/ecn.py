"""Congestion marks that a packet met on its way between two nodes, handed on to the packet inside (RFC 6040).

    inner \\ outer   Not-ECT   ECT(0)    ECT(1)    CE
    Not-ECT         Not-ECT   Not-ECT   Not-ECT   dropped
    ECT(0)          ECT(0)    ECT(0)    ECT(1)    CE
    ECT(1)          ECT(1)    ECT(1)    ECT(1)    CE
    CE              CE        CE        CE        CE

So only an outer ECT(1) or CE can change anything, which is one bit to look at. On the way out the outer field is a
copy of the inner one (RFC 6040's normal mode), to peers that do the above. Pure. Never touches the DSCP, and never
looks beyond the IP header. Sources: RFC 6040, section 4; RFC 1624 for the header checksum.
"""

from __future__ import annotations

from collections import Counter
from enum import IntEnum

from ipop.ethernet import IPV4_HEADER_BYTES


class Ecn(IntEnum):
    """The last two bits of a traffic class (RFC 3168, section 5)."""

    NOT_ECT = 0
    ECT1 = 1
    ECT0 = 2
    CE = 3


ECN_MASK = 3
MAY_CHANGE = 1  # the bit that only an outer ECT(1) or CE has

_N, _1, _0, _C = Ecn.NOT_ECT, Ecn.ECT1, Ecn.ECT0, Ecn.CE
# [inner][outer]; None: the packet's end would not understand the mark, so the loss must say it.
_COMBINED: tuple[tuple[Ecn | None, ...], ...] = (
    # outer: Not-ECT, ECT(1), ECT(0), CE
    (_N, _N, _N, None),
    (_1, _1, _1, _C),
    (_0, _1, _0, _C),
    (_C, _C, _C, _C),
)
# Pairs that no way of ours makes today, and that an operator should hear of.
_ODD = frozenset({(_N, _1), (_N, _C), (_C, _1)})


def class_of(data: bytes, at: int) -> int:
    """The traffic class of the IP packet that begins at `at`."""
    if data[at] >> 4 == 4:
        return data[at + 1]
    return (data[at] & 15) << 4 | data[at + 1] >> 4


def with_ecn(data: bytes, at: int, ecn: int) -> bytes:
    """`data` with another ECN field in the IP packet that begins at `at`."""
    if data[at] >> 4 == 6:
        return b"".join((data[: at + 1], bytes((data[at + 1] & ~0x30 | ecn << 4,)), data[at + 2 :]))
    former, marked = data[at + 1], data[at + 1] & ~ECN_MASK | ecn
    # RFC 1624, equation 3. The other half of the 16-bit word cancels out.
    total = (~(data[at + 10] << 8 | data[at + 11]) & 0xFFFF) + (~former & 0xFFFF) + marked
    total = (total & 0xFFFF) + (total >> 16)
    total = ~(total + (total >> 16)) & 0xFFFF
    return b"".join(
        (data[: at + 1], bytes((marked,)), data[at + 2 : at + 10], total.to_bytes(2, "big"), data[at + 12 :])
    )


def decapsulated(data: bytes, at: int, outer: int, counters: Counter[str]) -> bytes:
    """`data`, whose IP packet begins at `at`, as it goes on behind an outer header with the ECN field `outer`; nothing
    when the packet must be dropped. Counts that, and pairs that are odd."""
    if len(data) < at + IPV4_HEADER_BYTES:
        return data  # No packet at all: others will say so.
    inner = class_of(data, at) & ECN_MASK
    if (inner, outer) in _ODD:
        counters["inner_ecn_odd"] += 1
    ecn = _COMBINED[inner][outer]
    if ecn is None:
        counters["inner_ce_dropped"] += 1
        return b""
    return data if ecn == inner else with_ecn(data, at, ecn)
