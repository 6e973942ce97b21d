"""† Timers on CLOCK_BOOTTIME, behind asyncio: the part of `dht.udp` that keeps time.

asyncio's own timers stand still while the machine sleeps and give equal deadlines no order. Ours fire at most
MAX_SLEEP_S after it wakes, and in the order in which they were set. Never runs a callback synchronously.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush

MAX_SLEEP_S = 1.0
LATE_S = 0.25  # Later than this, the process was stopped or starved, and datagrams have been waiting too.
COMPACT_ABOVE = 1024  # cancelled timers in the heap before it is worth sweeping them out


def boottime_s() -> float:
    """Seconds since the machine was booted, those it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class UdpTimer:
    """A pending callback."""

    __slots__ = ("_timers", "callback")

    def __init__(self, timers: UdpTimers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._timers.count_cancelled()


class UdpTimers:
    """A heap of timers on CLOCK_BOOTTIME, FIFO among equals, behind one asyncio timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, UdpTimer]] = []
        self._sequence = self._cancelled = 0
        self._armed: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._given_way = False
        self._closed = False

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> UdpTimer:
        timer = UdpTimer(self, callback)
        at = boottime_s() + max(delay_s, 0.0)
        self._sequence += 1
        heappush(self._heap, (at, self._sequence, timer))
        if self._armed is None or at < self._armed_for:
            self._arm()
        return timer

    def count_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > COMPACT_ABOVE and self._cancelled * 2 > len(self._heap):
            self._heap[:] = [entry for entry in self._heap if entry[2].callback is not None]
            heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        self._closed = True
        self._heap.clear()
        self._arm()

    def _arm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        if self._heap and not self._closed:
            self._armed_for = self._heap[0][0]
            wait_s = min(max(self._armed_for - boottime_s(), 0.0), MAX_SLEEP_S)
            self._armed = self._loop.call_later(wait_s, self._run_due)

    def _run_due(self) -> None:
        self._armed = None
        heap = self._heap
        until = boottime_s()  # A timer set from here on is left for the next round.
        if heap and until - heap[0][0] > LATE_S and not self._given_way:
            # The answer that a timeout waits for may be lying in the socket: let the loop read that first.
            self._given_way = True
            self._armed, self._armed_for = self._loop.call_later(0.0, self._run_due), heap[0][0]
            return
        self._given_way = False
        try:
            while heap and heap[0][0] <= until:
                timer = heappop(heap)[2]
                callback, timer.callback = timer.callback, None
                if callback is None:
                    self._cancelled -= 1
                else:
                    callback()
        finally:
            # One callback that fails must not take the others' timers with it.
            self._arm()
