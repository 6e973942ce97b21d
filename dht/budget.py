"""How much of something may be done, in the long run and at once. Pure: no clock, no I/O."""

from __future__ import annotations


class Budget:
    """A token bucket: `rate_per_s` in the long run, `burst` at once."""

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate_per_s, self._burst = rate_per_s, burst
        self._tokens, self._since = burst, now

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Use up `amount` tokens, when there are so many."""
        self._tokens = min(self._burst, self._tokens + (now - self._since) * self._rate_per_s)
        self._since = now
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True
