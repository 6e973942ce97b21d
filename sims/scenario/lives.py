"""When nodes come and go while a scenario is measured: `[churn]`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import log

from dht.host import Rng
from sims.scenario.options import option


@dataclass(frozen=True, kw_only=True)
class ExponentialLives:
    """Memoryless sessions and absences. Every node is up at first; node 0 stays, so that there is a ring to come back
    to."""

    up_s: float = option(3600.0, "mean time that a node stays", at_least=1.0)
    down_s: float = option(600.0, "mean time that it stays away", at_least=1.0)

    def transitions(self, nodes: int, duration_s: float, rng: Rng) -> Iterator[tuple[float, int, bool]]:
        for number in range(nodes):
            yield 0.0, number, True
        pending = [(_exponential(rng, self.up_s), number, False) for number in range(1, nodes)]
        heapify(pending)
        while pending and pending[0][0] <= duration_s:
            at, number, up = pending[0]
            yield at, number, up
            heapreplace(pending, (at + _exponential(rng, self.up_s if up else self.down_s), number, not up))


def _exponential(rng: Rng, mean_s: float) -> float:
    return -mean_s * log(1.0 - rng.random())
