"""The window that lets every counter of a session through once, in any order within 8128 of the highest.

Pure, and asked about a counter only after its packet has authenticated: else a forged counter could close it.
Source: RFC 6479, and the semantics of WireGuard's own window (wireguard-go, replay/replay.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BITMAP_BITS: Final = 8192
# WireGuard spends one 64-bit word of its ring on the one being cleared; same usable window, same answers.
WINDOW: Final = BITMAP_BITS - 64
REJECT_AT: Final = (1 << 64) - BITMAP_BITS - 1  # counters from here on are never accepted, so none ever wraps

_FULL: Final = (1 << BITMAP_BITS) - 1


class ReplayWindow:
    """Remembers which of the last counters were accepted.

    Packets in order are nearly all of them, so an unbroken run is kept as two numbers, and the bitmap is only
    shifted when a counter is skipped or comes late.
    """

    __slots__ = ("_bitmap", "_run_from", "newest")

    def __init__(self) -> None:
        self.newest = -1  # highest accepted
        self._run_from = -1  # every counter in (_run_from, newest] was accepted
        self._bitmap = 0  # bit i: counter _run_from - i was accepted

    def accept(self, counter: int) -> bool:
        """Whether `counter` is new and not too old. Saying yes marks it as used."""
        if counter == self.newest + 1 and counter < REJECT_AT:
            self.newest = counter
            return True
        return self._accept_out_of_order(counter)

    def accept_run(self, first: int, count: int) -> bool:
        """Whether the `count` counters from `first` on follow at once upon all others. Saying yes marks them as used;
        after a no, ask for each."""
        if first != self.newest + 1 or first + count > REJECT_AT:
            return False
        self.newest += count
        return True

    def accept_rising(self, counters: Sequence[int]) -> bool:
        """Whether `counters`, each greater than the one before, follow upon all others, with or without gaps. Saying
        yes marks them as used; after a no, ask for each."""
        first, last = counters[0], counters[-1]
        if first <= self.newest or last >= REJECT_AT:
            return False
        if first == self.newest + 1 and last - first == len(counters) - 1:
            self.newest = last
            return True
        return all([self.accept(counter) for counter in counters])

    def _accept_out_of_order(self, counter: int) -> bool:
        if counter >= REJECT_AT or self.newest - counter > WINDOW:
            return False
        if counter > self.newest:
            self._jump(counter)
            return True
        if counter > self._run_from:
            return False
        bit = 1 << (self._run_from - counter)
        if self._bitmap & bit:
            return False
        self._bitmap |= bit
        return True

    def _jump(self, counter: int) -> None:
        """Fold the run into the bitmap, leave a gap, and begin a new run at `counter`."""
        run, gap = self.newest - self._run_from, counter - self.newest
        # Comparing first: a peer's counter must not make us shift by 2^60.
        bitmap = _FULL if run >= BITMAP_BITS else (self._bitmap << run | (1 << run) - 1) & _FULL
        self._bitmap = 1 if gap >= BITMAP_BITS else (bitmap << gap | 1) & _FULL
        self._run_from = self.newest = counter
