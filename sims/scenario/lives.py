"""When nodes come and go while a scenario is measured: `[churn]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heapreplace
from math import log

from dht.host import Rng
from sims.churn import Distribution, Exponential, Gamma, LogNormal, Sessions, Weibull, sessions
from sims.scenario.options import option
from sims.scenario.schema import MAX_DURATION_S

# Beyond these, hardly any time passes but in a few sessions of astronomic length.
LEAST_SHAPE, MOST_SHAPE = 0.15, 100.0
MOST_SIGMA = 4.0


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


class Family(StrEnum):
    """Which shape a distribution has."""

    EXPONENTIAL = "exponential"
    WEIBULL = "weibull"
    LOGNORMAL = "lognormal"
    GAMMA = "gamma"


_NEEDED = {
    Family.EXPONENTIAL: ("mean_s",),
    Family.WEIBULL: ("shape", "scale_s"),
    Family.LOGNORMAL: ("median_s", "sigma"),
    Family.GAMMA: ("shape", "scale_s"),
}


@dataclass(frozen=True, kw_only=True)
class Duration:
    """A distribution of durations: its family, and what that family needs."""

    family: Family = option(meaning="which distribution")
    mean_s: float | None = option(None, "exponential", at_least=1.0, at_most=MAX_DURATION_S)
    shape: float | None = option(None, "Weibull and gamma", at_least=LEAST_SHAPE, at_most=MOST_SHAPE)
    scale_s: float | None = option(None, "Weibull and gamma", at_least=1.0, at_most=MAX_DURATION_S)
    median_s: float | None = option(None, "log-normal: e to the logarithms' mean", at_least=1.0, at_most=MAX_DURATION_S)
    sigma: float | None = option(None, "log-normal: of the logarithm", above=0.0, at_most=MOST_SIGMA)

    def flaw(self) -> tuple[str, str] | None:
        needed = _NEEDED[self.family]
        for key in ("mean_s", "shape", "scale_s", "median_s", "sigma"):
            given = getattr(self, key) is not None
            if given != (key in needed):
                problem = "has no such value" if given else "needs it, and it is missing"
                return key, f"family '{self.family}' {problem}; it has: {', '.join(needed)}"
        return None

    @property
    def distribution(self) -> Distribution:
        """The distribution itself."""
        values: tuple[float, ...] = tuple(getattr(self, key) for key in _NEEDED[self.family])
        return _MADE[self.family](*values)


_MADE: Mapping[Family, Callable[..., Distribution]] = {
    Family.EXPONENTIAL: Exponential,
    Family.WEIBULL: Weibull,
    Family.LOGNORMAL: LogNormal,
    Family.GAMMA: Gamma,
}


@dataclass(frozen=True, kw_only=True)
class DrawnLives:
    """Sessions and absences of any distribution, such as up = { family = "weibull", shape = 0.64, scale_s = 39096 }. A
    world begins in the middle of its life, with as many up as are in the long run."""

    up: Duration = option(meaning="how long a node stays")
    down: Duration = option(meaning="how long it stays away")

    def transitions(self, nodes: int, duration_s: float, rng: Rng) -> Iterator[tuple[float, int, bool]]:
        return sessions(Sessions(self.up.distribution, self.down.distribution), nodes, duration_s, rng)


def _exponential(rng: Rng, mean_s: float) -> float:
    return -mean_s * log(1.0 - rng.random())
