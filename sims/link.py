"""An access link: how fast a host's datagrams leave it and come to it, and how many may wait.

Two pipes, one a direction. A pipe sends one datagram after another, IP and UDP headers included; what finds it busy
waits in a queue, and what finds the queue full is dropped (drop-tail). It draws no random numbers and knows no other
link: what a datagram waits for is its own sender's and its own receiver's. The core between them has room for all.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_QUEUE_BYTES = 1500  # less would not hold one packet


@dataclass(frozen=True, slots=True)
class AccessLink:
    """Rates in bits a second, None for no limit; the queue of each direction in bytes. Raises ValueError for what no
    link is like."""

    up_bits_per_s: float | None = None
    down_bits_per_s: float | None = None
    queue_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        for rate in (self.up_bits_per_s, self.down_bits_per_s):
            if rate is not None and not 0 < rate < float("inf"):
                raise ValueError(f"a link's rate is more than 0 bits a second and finite, or None; not {rate}")
        if self.queue_bytes < LEAST_QUEUE_BYTES:
            raise ValueError(f"a link's queue holds {LEAST_QUEUE_BYTES} bytes or more, not {self.queue_bytes}")


class Pipe:
    """One direction of one host's link, and until when it is busy."""

    __slots__ = ("_bytes_per_s", "_free_at", "_queue_bytes")

    def __init__(self, bits_per_s: float, queue_bytes: int) -> None:
        self._bytes_per_s = bits_per_s / 8.0
        self._queue_bytes = queue_bytes
        self._free_at = 0.0

    def passes_in(self, size_bytes: int, now: float) -> float | None:
        """Seconds until a datagram that comes now is through; None when it is dropped. What finds the pipe idle always
        passes, however long."""
        busy_s = self._free_at - now
        if busy_s <= 0.0:
            busy_s = 0.0
        elif busy_s * self._bytes_per_s + size_bytes > self._queue_bytes:
            return None
        through_s = busy_s + size_bytes / self._bytes_per_s
        self._free_at = now + through_s
        return through_s
