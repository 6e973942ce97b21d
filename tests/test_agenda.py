"""The agenda gives what one heap would give, whatever is added and cancelled meanwhile, and hoards nothing void."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random

import pytest

from sims.agenda import SLICES_PER_S, SWEEP_ABOVE, Agenda, Entry
from sims.engine import START, Engine, SimTimer

DELAYS_S = (0.0, 1e-9, 0.01, 1 / SLICES_PER_S, 0.5, 2.0, 30.0, 86400.0)


class Double:
    """One heap of everything beside the agenda; both are asked the same."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = START
        self.agenda = Agenda()
        self.heap: list[Entry] = []
        self.timers: list[SimTimer] = []
        self.engine = Engine(seed)  # whose timers these are; it has an agenda of its own
        self.number = 0

    def add(self) -> None:
        self.number += 1
        at = self.now + self.rng.choice(DELAYS_S) * self.rng.choice((1.0, self.rng.random()))
        entry: Entry = (at, self.number, print, ())
        if self.rng.random() < 0.5:
            timer = SimTimer(self.engine, lambda: None)
            self.timers.append(timer)
            entry = (at, self.number, timer, None)
        self.agenda.add(*entry)
        heappush(self.heap, entry)

    def cancel(self) -> None:
        if self.timers:
            timer = self.timers.pop(self.rng.randrange(0, len(self.timers)))
            if timer.callback is not None:
                timer.callback = None
                self.agenda.cancelled()

    def next(self, until: float) -> tuple[Entry | None, Entry | None]:
        return self._of_agenda(until), self._of_heap(until)

    def _of_agenda(self, until: float) -> Entry | None:
        present = self.agenda.present
        while (present or self.agenda.turn(until)) and -present[-1][0] <= until:
            before, number, what, arguments = present.pop()
            if arguments is not None or what.callback is not None:
                return -before, -number, what, arguments
            self.agenda.dropped()
        return None

    def _of_heap(self, until: float) -> Entry | None:
        while self.heap and self.heap[0][0] <= until:
            entry = heappop(self.heap)
            if entry[3] is not None or entry[2].callback is not None:
                return entry
        return None


@pytest.mark.parametrize("seed", range(20))
def test_the_order_is_that_of_one_heap(seed: int) -> None:
    double = Double(seed)
    came = 0
    for _ in range(400):
        for _ in range(double.rng.randrange(0, 6)):
            double.add()
        for _ in range(double.rng.randrange(0, 3)):
            double.cancel()
        until = double.now + double.rng.choice(DELAYS_S)
        for _ in range(double.rng.randrange(0, 8)):
            one, other = double.next(until)
            assert one == other, f"seed {seed}"
            if one is None:
                double.now = until
                break
            came += 1
            double.now = one[0]
    assert came > 300, f"seed {seed}"


def test_what_is_cancelled_does_not_pile_up() -> None:
    double = Double(1)
    lasting = 100
    for _ in range(lasting):
        double.add()
    for number in range(20 * SWEEP_ABOVE):
        timer = SimTimer(double.engine, lambda: None)
        double.agenda.add(START + 3600.0, 1_000_000 + number, timer, None)
        timer.callback = None
        double.agenda.cancelled()
    assert len(double.agenda) <= 2 * SWEEP_ABOVE + lasting


def test_sweeping_leaves_what_is_not_void() -> None:
    double = Double(2)
    for _ in range(4 * SWEEP_ABOVE):
        double.add()
    for _ in range(4 * SWEEP_ABOVE):
        double.cancel()
    while True:
        one, other = double.next(START + 2 * DELAYS_S[-1])
        assert one == other
        if one is None:
            break
        double.now = one[0]
