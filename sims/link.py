"""An access link: how fast a host's datagrams leave it and come to it, how many may wait, how many get lost.

Two pipes, one a direction. A pipe sends one datagram after another, IP and UDP headers included; what finds it busy
waits in a queue, and what finds the queue full is dropped (drop-tail). What is through may still be lost, and is later
by its own jitter. A pipe draws no random numbers (its network does) and knows no other link: what befalls a datagram is
its own sender's and its own receiver's. The core between them has room for all.
"""

from __future__ import annotations

from dataclasses import dataclass

UNLIMITED = float("inf")  # bits a second
LEAST_QUEUE_BYTES = 1500  # less would not hold one packet


@dataclass(frozen=True, slots=True)
class AccessLink:
    """Rates in bits a second, None for no limit; of each direction: the queue in bytes, the share that is lost, and up
    to how much later each datagram is. Raises ValueError for what no link is like."""

    up_bits_per_s: float | None = None
    down_bits_per_s: float | None = None
    queue_bytes: int = 64 * 1024
    loss: float = 0.0
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        for rate in (self.up_bits_per_s, self.down_bits_per_s):
            if rate is not None and not 0 < rate < float("inf"):
                raise ValueError(f"a link's rate is more than 0 bits a second and finite, or None; not {rate}")
        if self.queue_bytes < LEAST_QUEUE_BYTES:
            raise ValueError(f"a link's queue holds {LEAST_QUEUE_BYTES} bytes or more, not {self.queue_bytes}")
        if not 0.0 <= self.loss <= 1.0:
            raise ValueError(f"a link loses a share from 0 to 1, not {self.loss}")
        if not 0.0 <= self.jitter_s < float("inf"):
            raise ValueError(f"a link's jitter is 0 seconds or more and finite, not {self.jitter_s}")

    def pipes(self) -> tuple[Pipe | None, Pipe | None]:
        """Up and down; None for a direction in which it holds nothing up and loses nothing."""
        up, down = (
            None
            if rate is None and not self.loss and not self.jitter_s
            else Pipe(UNLIMITED if rate is None else rate, self.queue_bytes, self.loss, self.jitter_s)
            for rate in (self.up_bits_per_s, self.down_bits_per_s)
        )
        return up, down


class Pipe:
    """One direction of one host's link, and until when it is busy."""

    __slots__ = ("_bytes_per_s", "_free_at", "_queue_bytes", "jitter_s", "loss")

    def __init__(self, bits_per_s: float, queue_bytes: int, loss: float = 0.0, jitter_s: float = 0.0) -> None:
        self.loss, self.jitter_s = loss, jitter_s
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
