"""How much of something may be done, in the long run and at once. Pure: no clock, no I/O."""

from __future__ import annotations


class Budget:
    """A token bucket: `rate_per_s` in the long run, `burst` at once."""

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate_per_s, self._burst = rate_per_s, burst
        self._tokens, self._since = burst, now

    def take(self, now: float) -> bool:
        """Use up one token, when there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._since) * self._rate_per_s)
        self._since = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
