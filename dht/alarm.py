"""One callback with at most one appointment."""

from __future__ import annotations

from collections.abc import Callable

from dht.host import Host, Timer


class Alarm:
    """Calls `ring` when the time that was last set has come."""

    __slots__ = ("_host", "_ring", "_timer")

    def __init__(self, host: Host, ring: Callable[[], None]) -> None:
        self._host, self._ring = host, ring
        self._timer: Timer | None = None

    @property
    def pending(self) -> bool:
        """Whether it is set."""
        return self._timer is not None

    def set(self, delay_s: float) -> None:
        """Ring after `delay_s` seconds, and not when it was to ring before."""
        self.cancel()
        self._timer = self._host.call_later(delay_s, self._due)

    def cancel(self) -> None:
        """Don't ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._ring()
