"""How much may come in whose name, and by whose hands: packets and bytes, in the long run and at once.

Two buckets stand before everything: one for an origin *as one hop passes it on*, so that a hop that lies about origins
can't use up what others let through for them, and one for all that a hop passes on. The tables are bounded; whoever
falls out of one begins anew with a full bucket, so hops have one of their own: origins are only said, and whoever
invents some must not push anybody's hop out. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, TypeVar

MAX_METERED: Final = 1024
HOP_SHARE: Final = 4.0  # a hop may pass on as much as so many origins

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one origin may send: packets and bytes a second, and how many seconds' worth at once."""

    packets_per_s: float = 1000.0
    bytes_per_s: float = 1_250_000.0  # 10 Mbit/s
    burst_s: float = 0.5


DEFAULT_LIMITS: Final = Limits()


class _Bucket:
    __slots__ = ("packets", "since", "size_bytes")

    def __init__(self, limits: Limits, share: float, now: float) -> None:
        self.packets = limits.packets_per_s * limits.burst_s * share
        self.size_bytes = limits.bytes_per_s * limits.burst_s * share
        self.since = now

    def refill(self, limits: Limits, share: float, now: float) -> None:
        gone_s = now - self.since
        if gone_s > 0.0:
            self.since = now
            burst_s = limits.burst_s * share
            self.packets = min(limits.packets_per_s * burst_s, self.packets + gone_s * limits.packets_per_s * share)
            self.size_bytes = min(limits.bytes_per_s * burst_s, self.size_bytes + gone_s * limits.bytes_per_s * share)


class Meter:
    """Lets through what stays within the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_hops: OrderedDict[int, _Bucket] = OrderedDict()
        self._of_origins: OrderedDict[tuple[int, int], _Bucket] = OrderedDict()

    def take(self, hop: int, origin: int, packet_bytes: int, now: float) -> bool:
        """Whether one packet of `origin`, passed on by `hop`, may go further."""
        of_hop = self._bucket(self._of_hops, hop, HOP_SHARE, now)
        of_origin = self._bucket(self._of_origins, (hop, origin), 1.0, now)
        if of_origin.packets < 1.0 or of_hop.packets < 1.0:
            return False
        if of_origin.size_bytes < packet_bytes or of_hop.size_bytes < packet_bytes:
            return False
        for bucket in (of_origin, of_hop):
            bucket.packets -= 1.0
            bucket.size_bytes -= packet_bytes
        return True

    def _bucket(self, buckets: OrderedDict[K, _Bucket], key: K, share: float, now: float) -> _Bucket:
        bucket = buckets.get(key)
        if bucket is None:
            if len(buckets) >= MAX_METERED:
                buckets.popitem(last=False)
            bucket = buckets[key] = _Bucket(self._limits, share, now)
        else:
            buckets.move_to_end(key)
            bucket.refill(self._limits, share, now)
        return bucket
