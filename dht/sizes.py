"""How long a plaintext the path to a peer carries in one datagram: found out by asking, and only under traffic.

    unsure: FLOOR_BYTES are used -> ask with what both ends' links carry -> answered: that long from now on
                                      -> no answer: ask with less, halving what is left to find out
    settled -> every CONFIRM_S of traffic, ask again with the length in use -> answered: settled
                                      -> no answer: unsure again, so that traffic flows from now on
    settled below what the links carry -> after RAISE_S, look whether the path has become wider

A question is a plaintext of the length in question, sent in one piece or not at all; the answer is short. So it makes
no difference whether routers say that a packet is too long, nobody outside can make us believe it, and what is not
proven is cut into pieces that surely pass. Pure; no timer: `due_at` is looked at when long plaintexts are sent.
Source: RFC 8899, packetization layer path MTU discovery; RFC 8200 section 5, for the least of 1280 bytes.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from dht.session import OVERHEAD_BYTES

DEFAULT_UNDERLAY_MTU: Final = 1500
LEAST_UNDERLAY_MTU: Final = 1280
MOST_UNDERLAY_MTU: Final = 9000
IP_UDP_BYTES: Final = 48  # IPv6 and UDP; IPv4 takes 20 less
LABEL_BYTES: Final = 8  # a tunnel's label, in front of a datagram on its way through a relay

TRIES: Final = 3
PATIENCE_S: Final = 0.4  # after the first question, twice that after the second, and so on; or two round trips
CONFIRM_S: Final = 3.0
RAISE_S: Final = 300.0
CLOSE_ENOUGH_BYTES: Final = 32

_NEVER = float("inf")


def datagram_bytes(underlay_mtu: int) -> int:
    """The longest datagram on links of this MTU."""
    return underlay_mtu - IP_UDP_BYTES


def plaintext_bytes(datagram: int) -> int:
    """The longest plaintext in such a datagram, by whatever path."""
    return datagram - OVERHEAD_BYTES - LABEL_BYTES


FLOOR_BYTES: Final = plaintext_bytes(datagram_bytes(LEAST_UNDERLAY_MTU))
DEFAULT_BYTES: Final = plaintext_bytes(datagram_bytes(DEFAULT_UNDERLAY_MTU))


class Phase(Enum):
    SEARCHING = auto()  # between a length that passes and one that may not
    SETTLED = auto()
    CONFIRMING = auto()  # whether the length in use still passes


class PathSize:
    """What is known of one path, which `begin` names. `proven_bytes` is the length to use; once the clock has reached
    `due_at`, `question` gives the length to ask with."""

    __slots__ = (
        "_asked_bytes",
        "_ceiling",
        "_high",
        "_phase",
        "_raise_at",
        "_tries",
        "due_at",
        "epoch",
        "path",
        "proven_bytes",
    )

    def __init__(self) -> None:
        self.path: object = None
        self.epoch = 0  # tells answers for this path from those for another
        self.proven_bytes = FLOOR_BYTES
        self.due_at = _NEVER
        self._ceiling = self._high = self._asked_bytes = FLOOR_BYTES
        self._phase = Phase.SETTLED
        self._raise_at = _NEVER
        self._tries = 0

    def begin(self, path: object, ceiling: int, now: float) -> None:
        """Nothing is known of `path`, but that its ends carry `ceiling` bytes."""
        self.path, self._ceiling = path, max(FLOOR_BYTES, ceiling)
        self.epoch = (self.epoch + 1) & 0xFF
        self.proven_bytes = FLOOR_BYTES
        self._search(self._ceiling, now)

    def question(self, now: float, rtt_s: float) -> int | None:
        """The length to ask with now; None when there is nothing to ask."""
        if now < self.due_at:
            return None
        if self._phase is Phase.SETTLED:
            if now >= self._raise_at:
                self._search(self._ceiling, now)
            else:
                self._phase, self._asked_bytes, self._tries = Phase.CONFIRMING, self.proven_bytes, 0
        elif self._tries >= TRIES:
            self.refused(now)
        if now < self.due_at:
            return None
        self.due_at = now + max(PATIENCE_S, 2.0 * rtt_s) * 2.0**self._tries
        self._tries += 1
        return self._asked_bytes

    def refused(self, now: float) -> None:
        """A plaintext as long as the last one asked with does not pass."""
        if self._phase is Phase.CONFIRMING:
            self.proven_bytes = FLOOR_BYTES
        self._narrow(self._asked_bytes - 1, now)

    def answered(self, size: int, now: float) -> None:
        """A plaintext of `size` bytes has passed."""
        if size > self._ceiling:
            return  # None of ours.
        if self._phase is Phase.CONFIRMING and size >= self._asked_bytes:
            self._settle(now)
        elif self._phase is Phase.SEARCHING and size > self.proven_bytes:
            self.proven_bytes = size
            self._narrow(max(self._high, size), now)

    def _search(self, high: int, now: float) -> None:
        self._phase, self._high = Phase.SEARCHING, high
        self._asked_bytes, self._tries, self.due_at = high, 0, now
        if high <= self.proven_bytes:
            self._settle(now)

    def _narrow(self, high: int, now: float) -> None:
        """Nothing longer than `high` passes, so far as is known."""
        self._phase, self._high = Phase.SEARCHING, high
        if high - self.proven_bytes < CLOSE_ENOUGH_BYTES:
            self._settle(now)
        else:
            self._asked_bytes, self._tries, self.due_at = (self.proven_bytes + high + 1) // 2, 0, now

    def _settle(self, now: float) -> None:
        if self._phase is Phase.SEARCHING:
            self._raise_at = now + RAISE_S if self.proven_bytes < self._ceiling else _NEVER
        self._phase = Phase.SETTLED
        self.due_at = now + CONFIRM_S if self.proven_bytes > FLOOR_BYTES else self._raise_at
