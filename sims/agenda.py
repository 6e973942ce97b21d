"""What is still to happen in a simulated world, in order.

A sorted list for the present slice of time, and unordered piles for the slices after it. Most timers are cancelled long
before they are due (a question is answered), and most others are far off: each costs one `append` here, where in a heap
of hundreds of thousands it would stand in every datagram's way. A pile is sorted when its slice begins; a heap in its
place would fetch a score of entries from all over memory for each that it gives up. So the order is that of one heap:
by instant, then by sequence.

It knows nothing of what it holds but whether it is void. Source: calendar queues (Brown, CACM 31(10), 1988).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

SLICES_PER_S = 64  # a power of two: where a slice begins is exact
SWEEP_ABOVE = 4096  # void entries before it is worth looking for them

# (minus when, minus sequence number, what to call, with what), or a timer and None. Negative, so that what is next
# stands last in a list that is in order. No two sequence numbers are equal, so the comparison of entries never gets
# past the first two. A timer whose `callback` is None is void.
Entry = tuple[float, int, Any, "tuple[Any, ...] | None"]


class Agenda:
    """`present` holds, the next last, what is due before `horizon`; nothing else is, until `turn` says so."""

    __slots__ = ("_later", "_slices", "_sweep_above", "_void", "horizon", "present")

    def __init__(self) -> None:
        self.present: list[Entry] = []
        self.horizon = 0.0
        self._later: dict[int, list[Entry]] = {}  # by number of the slice
        self._slices: list[int] = []  # a heap of those numbers
        self._void = 0
        self._sweep_above = SWEEP_ABOVE

    def __len__(self) -> int:
        """How many entries there are, void ones included."""
        return len(self.present) + sum(map(len, self._later.values()))

    def add(self, at: float, sequence: int, what: Any, arguments: tuple[Any, ...] | None) -> None:
        """`what` is due at the instant `at`; of the same instant, by `sequence`."""
        entry = (-at, -sequence, what, arguments)
        if at < self.horizon:
            insort(self.present, entry)
            return
        number = int(at * SLICES_PER_S)
        pile = self._later.get(number)
        if pile is None:
            self._later[number] = [entry]
            heappush(self._slices, number)
        else:
            pile.append(entry)

    def turn(self, until: float) -> bool:
        """When the present is used up: go on to the next slice in which anything may happen. False when none begins by
        `until`."""
        assert not self.present, "the present slice is not over"
        present = self.present  # the same list for ever: a running loop holds on to it
        while not present and self._slices and self._slices[0] <= until * SLICES_PER_S:
            number = heappop(self._slices)
            self.horizon = (number + 1) / SLICES_PER_S
            present += self._later.pop(number)
            present.sort()
        return bool(present)

    def dropped(self) -> None:
        """A void entry was taken from the present."""
        self._void -= 1

    def cancelled(self) -> None:
        """An entry has become void. Once most of all are, they are swept out."""
        self._void += 1
        if self._void > self._sweep_above:
            if self._void * 2 > len(self):
                self._sweep()
            self._sweep_above = max(SWEEP_ABOVE, self._void + len(self) // 4)

    def _sweep(self) -> None:
        self.sift(lambda what, arguments: True)

    def sift(self, keep: Callable[[Any, tuple[Any, ...] | None], bool]) -> None:
        """Drop what is void, and what `keep(what, arguments)` doesn't hold for."""
        for pile in (self.present, *self._later.values()):
            pile[:] = [entry for entry in _alive(pile) if keep(entry[2], entry[3])]
        self._void = 0


def _alive(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry[3] is not None or entry[2].callback is not None]
