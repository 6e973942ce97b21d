"""How long an idle path may stay silent before NATs forget it, learned from what is lost and what survives.

    a mapping was lost after an idle time -> half the interval, at least MIN_INTERVAL_S; that idle time is remembered
    ENOUGH_HELD idle times as long as the interval survived -> GROWTH times the interval, well below what was lost

Begins below the 30 s after which common NATs forget a mapping, though RFC 4787 (REQ-5) asks them to keep it for two
minutes. It never grows beyond what the far end of an edge waits before it gives that up (`LAPSE_S`) less the time for
three probes; to save more traffic than that is not worth broken paths. Pure.
"""

from __future__ import annotations

from typing import Final

from dht.liveness import EDGE_S, LAPSE_S

START_INTERVAL_S: Final = EDGE_S
MIN_INTERVAL_S: Final = 8.0
MAX_INTERVAL_S: Final = LAPSE_S - 2.0
SHORTEST_IDLE_S: Final = 5.0  # what is lost sooner was not lost for being idle
ENOUGH_HELD: Final = 200
ALIKE: Final = 0.9  # an idle time counts for the interval from this share of it
GROWTH: Final = 1.1
WELL_BELOW: Final = 0.8  # of the shortest idle time that lost a mapping
FADING: Final = 1.01  # of that, whenever it kept the interval from growing: it may have been lost for another reason


class Keepalive:
    """The interval of one node."""

    __slots__ = ("_held", "_interval_s", "_lost_s")

    def __init__(self) -> None:
        self._interval_s = START_INTERVAL_S
        self._held = 0
        self._lost_s: float | None = None

    @property
    def interval_s(self) -> float:
        """How long to let an idle path be: MIN_INTERVAL_S to MAX_INTERVAL_S."""
        return self._interval_s

    def held(self, idle_s: float) -> None:
        """A mapping was still there after `idle_s` of silence."""
        if idle_s < ALIKE * self._interval_s:
            return
        self._held += 1
        if self._held < ENOUGH_HELD:
            return
        self._held = 0
        limit_s = MAX_INTERVAL_S
        if self._lost_s is not None and GROWTH * self._interval_s > WELL_BELOW * self._lost_s:
            self._lost_s *= FADING
            limit_s = min(limit_s, WELL_BELOW * self._lost_s)
        self._interval_s = max(self._interval_s, min(GROWTH * self._interval_s, limit_s))

    def lost(self, idle_s: float) -> None:
        """A mapping was gone after `idle_s` of silence."""
        if idle_s < SHORTEST_IDLE_S:
            return
        self._held = 0
        self._lost_s = idle_s if self._lost_s is None else min(self._lost_s, idle_s)
        # Several paths that were silent together tell of it one after another: once is enough.
        if ALIKE * idle_s <= self._interval_s:
            self._interval_s = max(MIN_INTERVAL_S, self._interval_s / 2.0)

    def moved(self) -> None:
        """This host is behind another NAT now, of which nothing is known."""
        self._interval_s = START_INTERVAL_S
        self._held = 0
        self._lost_s = None
