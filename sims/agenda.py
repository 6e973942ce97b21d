"""What is still to happen in a simulated world, in order.

A heap for the present slice of time, and unordered piles for the slices after it. Most timers are cancelled long before
they are due (a question is answered), and most others are far off: each costs one `append` here, where in a single heap
of hundreds of thousands it would stand in every datagram's way. A pile becomes the heap when its slice begins, without
what was cancelled meanwhile. So the order is that of one heap: by instant, then by sequence.

It knows nothing of what it holds but whether it is void. Source: calendar queues (Brown, CACM 31(10), 1988), with a
heap in place of each day's sorted list.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any

SLICES_PER_S = 16  # a power of two: where a slice begins is exact
SWEEP_ABOVE = 4096  # void entries before it is worth looking for them

# (when, sequence number, what to call, with what), or (when, sequence number, a timer, None). No two sequence numbers
# are equal, so the comparison of entries never gets past the first two. A timer whose `callback` is None is void.
Entry = tuple[float, int, Any, "tuple[Any, ...] | None"]


class Agenda:
    """`heap` holds, as `heapq` does, what is due before `horizon`; nothing else is, until `turn` says so."""

    __slots__ = ("_later", "_slices", "_sweep_above", "_void", "heap", "horizon")

    def __init__(self) -> None:
        self.heap: list[Entry] = []
        self.horizon = 0.0
        self._later: dict[int, list[Entry]] = {}  # by number of the slice
        self._slices: list[int] = []  # a heap of those numbers
        self._void = 0
        self._sweep_above = SWEEP_ABOVE

    def __len__(self) -> int:
        """How many entries there are, void ones included."""
        return len(self.heap) + sum(map(len, self._later.values()))

    def add(self, entry: Entry) -> None:
        at = entry[0]
        if at < self.horizon:
            heappush(self.heap, entry)
            return
        number = int(at * SLICES_PER_S)
        pile = self._later.get(number)
        if pile is None:
            self._later[number] = [entry]
            heappush(self._slices, number)
        else:
            pile.append(entry)

    def turn(self, until: float) -> bool:
        """When the heap is used up: go on to the next slice in which anything may happen. False when none begins by
        `until`."""
        assert not self.heap, "the present slice is not over"
        while self._slices and self._slices[0] <= until * SLICES_PER_S:
            number = heappop(self._slices)
            pile = self._later.pop(number)
            alive = _alive(pile)
            self._void -= len(pile) - len(alive)
            self.horizon = (number + 1) / SLICES_PER_S
            if alive:
                heapify(alive)
                self.heap[:] = alive  # in place: a running loop holds on to this list
                return True
        return False

    def dropped(self) -> None:
        """A void entry was taken from the heap."""
        self._void -= 1

    def cancelled(self) -> None:
        """An entry has become void. Once most of all are, they are swept out."""
        self._void += 1
        if self._void > self._sweep_above:
            if self._void * 2 > len(self):
                self._sweep()
            self._sweep_above = max(SWEEP_ABOVE, self._void + len(self) // 4)

    def _sweep(self) -> None:
        self.heap[:] = _alive(self.heap)
        heapify(self.heap)
        for pile in self._later.values():
            pile[:] = _alive(pile)
        self._void = 0


def _alive(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry[3] is not None or entry[2].callback is not None]
