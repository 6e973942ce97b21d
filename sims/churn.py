"""When nodes come and go: fitted distributions of sessions, presets from measurements, and traces of availability.

Everything here is a generator of `Transition`s in the order of time, drawn from the random generator it is given. It
starts and stops nothing: a scenario does. Nodes are numbers from 0. Sessions alternate: up for a time from one
distribution, down for a time from another. A world begins with each node somewhere in the middle of such a life, up
with the probability it has in the long run, unless it is asked to begin fresh.
Sources: Javadi, Kondo, Iosup, Epema, "The Failure Trace Archive", JPDC 73(8), 2013 (fits of Skype 2006, Overnet 2003,
PlanetLab 2005; hours); Stutzbach and Rejaie, "Understanding churn in peer-to-peer networks", IMC 2006 (sessions are
Weibull or log-normal, not exponential); OverSim's default churn; probe-lab's RFM 2 for IPFS 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import accumulate
from math import cos, exp, gamma, log, pi, sqrt
from typing import NamedTuple, Protocol

from sims.latency.text import integer, lines

HOUR_S = 3600.0
SHORTEST_S = 1e-3  # no session ends in the instant it began
WARM_UP_CYCLES = 8  # of up and down on average, lived before the world begins
MAX_SEGMENT_CHANGES = 100_000  # in one line of a trace


class Uniform(Protocol):
    """The one thing that is asked of a random generator."""

    def random(self) -> float:
        """From [0, 1)."""


class Distribution(Protocol):
    """Positive durations."""

    @property
    def mean_s(self) -> float:
        """The expected duration."""

    def draw_s(self, rng: Uniform) -> float:
        """One duration."""

    def scaled(self, factor: float) -> Distribution:
        """The same shape, every duration `factor` times as long."""


@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless."""

    mean_s: float

    def draw_s(self, rng: Uniform) -> float:
        return -self.mean_s * log(1.0 - rng.random())

    def scaled(self, factor: float) -> Exponential:
        return Exponential(self.mean_s * factor)


@dataclass(frozen=True, slots=True)
class Weibull:
    """A shape below 1: who has stayed long stays longer."""

    shape: float
    scale_s: float

    @property
    def mean_s(self) -> float:
        return self.scale_s * gamma(1.0 + 1.0 / self.shape)

    def draw_s(self, rng: Uniform) -> float:
        return self.scale_s * float((-log(1.0 - rng.random())) ** (1.0 / self.shape))

    def scaled(self, factor: float) -> Weibull:
        return Weibull(self.shape, self.scale_s * factor)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """The logarithm is normal; `median_s` is e to its mean."""

    median_s: float
    sigma: float

    @property
    def mean_s(self) -> float:
        return self.median_s * exp(self.sigma**2 / 2.0)

    def draw_s(self, rng: Uniform) -> float:
        return self.median_s * exp(self.sigma * _normal(rng))

    def scaled(self, factor: float) -> LogNormal:
        return LogNormal(self.median_s * factor, self.sigma)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Drawn as in Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26(3), 2000."""

    shape: float
    scale_s: float

    @property
    def mean_s(self) -> float:
        return self.shape * self.scale_s

    def draw_s(self, rng: Uniform) -> float:
        boost = 1.0
        shape = self.shape
        if shape < 1.0:
            boost = (1.0 - rng.random()) ** (1.0 / shape)
            shape += 1.0
        d = shape - 1.0 / 3.0
        c = 1.0 / sqrt(9.0 * d)
        while True:
            x = _normal(rng)
            v = (1.0 + c * x) ** 3
            if v > 0.0 and log(1.0 - rng.random()) < 0.5 * x * x + d - d * v + d * log(v):
                return self.scale_s * boost * d * v

    def scaled(self, factor: float) -> Gamma:
        return Gamma(self.shape, self.scale_s * factor)


@dataclass(frozen=True, slots=True)
class Sessions:
    """How long a node stays, and how long it stays away."""

    up: Distribution
    down: Distribution

    @property
    def availability(self) -> float:
        """The share of time that a node is up in the long run."""
        return self.up.mean_s / (self.up.mean_s + self.down.mean_s)

    def scaled(self, factor: float) -> Sessions:
        """Every session and absence `factor` times as long: to see in an hour what takes a day."""
        if not factor > 0:
            raise ValueError(f"sessions are scaled by a positive factor, not {factor}")
        return Sessions(self.up.scaled(factor), self.down.scaled(factor))


class Transition(NamedTuple):
    """Node `number` comes or goes, `time_s` after the world began."""

    time_s: float
    number: int
    up: bool


def _weibull_h(shape: float, scale_h: float) -> Weibull:
    return Weibull(shape, scale_h * HOUR_S)


def _lognormal_h(mu: float, sigma: float) -> LogNormal:
    return LogNormal(exp(mu) * HOUR_S, sigma)


def _gamma_h(shape: float, scale_h: float) -> Gamma:
    return Gamma(shape, scale_h * HOUR_S)


def _exponential_h(mean_h: float) -> Exponential:
    return Exponential(mean_h * HOUR_S)


# By name; "skype" and so on without a family are the Weibull fits.
PRESETS: dict[str, Sessions] = {
    # The Failure Trace Archive's fits: Skype superpeers 2006, Overnet 2003, PlanetLab 2005.
    "skype": Sessions(_weibull_h(0.64, 10.86), _weibull_h(0.63, 9.48)),
    "skype-exponential": Sessions(_exponential_h(16.27), _exponential_h(14.31)),
    "skype-lognormal": Sessions(_lognormal_h(1.60, 1.57), _lognormal_h(1.40, 1.73)),
    "skype-gamma": Sessions(_gamma_h(0.53, 30.79), _gamma_h(0.50, 28.53)),
    "overnet": Sessions(_weibull_h(0.85, 2.04), _weibull_h(0.44, 2.98)),
    "overnet-exponential": Sessions(_exponential_h(2.29), _exponential_h(12.00)),
    "overnet-lognormal": Sessions(_lognormal_h(0.19, 0.98), _lognormal_h(0.08, 1.80)),
    "overnet-gamma": Sessions(_gamma_h(0.91, 2.53), _gamma_h(0.29, 41.64)),
    "planetlab": Sessions(_weibull_h(0.33, 19.35), _weibull_h(0.36, 5.59)),
    "planetlab-exponential": Sessions(_exponential_h(159.49), _exponential_h(49.61)),
    "planetlab-lognormal": Sessions(_lognormal_h(1.44, 2.86), _lognormal_h(0.40, 2.45)),
    "planetlab-gamma": Sessions(_gamma_h(0.20, 788.03), _gamma_h(0.21, 237.65)),
    # Desktops at Microsoft 1999, name servers 2004.
    "microsoft": Sessions(_weibull_h(0.55, 35.30), _weibull_h(0.60, 9.34)),
    "microsoft-exponential": Sessions(_exponential_h(67.01), _exponential_h(16.49)),
    "name-servers": Sessions(_weibull_h(0.51, 79.30), _weibull_h(0.63, 5.62)),
    "name-servers-exponential": Sessions(_exponential_h(141.06), _exponential_h(8.61)),
    # OverSim's default: Weibull of shape 1, mean life and mean dead time 10,000 s.
    "oversim": Sessions(Weibull(1.0, 10_000.0), Weibull(1.0, 10_000.0)),
    # IPFS 2022: half of new peers stay at most 2 h, 80 % at most 8 h: a log-normal through both points (0.8416 is the
    # normal's 80 % point). How long peers stay away was not published: as long is an assumption.
    "ipfs": Sessions(LogNormal(2 * HOUR_S, log(4.0) / 0.8416), LogNormal(2 * HOUR_S, log(4.0) / 0.8416)),
}


def sessions(
    model: Sessions, nodes: int, duration_s: float, rng: Uniform, *, fresh: bool = False
) -> Iterator[Transition]:
    """The comings and goings of nodes 0 to `nodes` - 1 within [0, duration_s]. Who is up when the world begins comes up
    at 0. `fresh`: everybody is down then, and stays so for a whole absence."""
    # (when, number, whether it comes up then); ties go by number
    pending: list[tuple[float, int, bool]] = []
    for number in range(nodes):
        at, up = _beginning(model, rng, fresh)
        if up:
            yield Transition(0.0, number, True)
        pending.append((at, number, not up))
    heapify(pending)
    while pending and pending[0][0] <= duration_s:
        at, number, up = pending[0]
        yield Transition(at, number, up)
        stays_s = (model.up if up else model.down).draw_s(rng)
        heapreplace(pending, (at + max(stays_s, SHORTEST_S), number, not up))


def _beginning(model: Sessions, rng: Uniform, fresh: bool) -> tuple[float, bool]:
    """When a node first changes after 0, and whether it is up until then."""
    if fresh:
        return max(model.down.draw_s(rng), SHORTEST_S), False
    cycle_s = model.up.mean_s + model.down.mean_s
    at = -cycle_s * (WARM_UP_CYCLES + rng.random())
    up = rng.random() < model.availability
    while True:
        at += max((model.up if up else model.down).draw_s(rng), SHORTEST_S)
        if at > 0.0:
            return at, up
        up = not up


@dataclass(frozen=True, slots=True)
class Segment:
    """One recorded life: up or down at first, then changing after each of `changes_s`, counted from its start."""

    up: bool
    changes_s: tuple[float, ...]


def load_trace(path: str) -> list[Segment]:
    """Reads availability of phones as recorded by STUNner (Gossip-Learning-Framework, res/trace), gzipped or not.

    A line: user, first state (1 up, 0 down), start in ms since the epoch, time zone in h, then alternating durations
    in ms. Raises ValueError, and OSError when there is no such file.
    """
    segments = []
    for line, content in lines(path):
        words = content.split()
        if not words:
            continue
        if len(words) < 5:
            raise ValueError(f"{path}, line {line}: {len(words)} fields; user, state, start, zone, durations are 5")
        if words[1] not in ("0", "1"):
            raise ValueError(f"{path}, line {line}: the first state is 0 or 1, not '{words[1][:40]}'")
        if len(words) - 4 > MAX_SEGMENT_CHANGES:
            raise ValueError(f"{path}, line {line}: more than {MAX_SEGMENT_CHANGES} durations")
        durations = [integer(word, path, line) for word in words[4:]]
        if min(durations) < 0:
            raise ValueError(f"{path}, line {line}: a duration is negative")
        segments.append(Segment(words[1] == "1", tuple(each / 1000.0 for each in accumulate(durations))))
    if not segments:
        raise ValueError(f"{path}: no line of a trace")
    return segments


def replay(
    segments: Sequence[Segment], nodes: int, duration_s: float, rng: Uniform, *, skip_s: float = 0.0
) -> Iterator[Transition]:
    """The lives of `nodes` different segments drawn at random, from `skip_s` after their start on; after its last
    change a node stays as it was. Raises ValueError when the trace has fewer segments."""
    if nodes > len(segments):
        raise ValueError(f"the trace has {len(segments)} segments, fewer than {nodes} nodes")
    order = list(range(len(segments)))
    for place in range(nodes):  # a shuffle, as far as it is needed
        other = place + int(rng.random() * (len(order) - place))
        order[place], order[other] = order[other], order[place]
    changes: list[tuple[float, int, bool]] = []
    for number in range(nodes):
        segment = segments[order[number]]
        up = segment.up
        passed = sum(at <= skip_s for at in segment.changes_s)
        if up ^ (passed % 2 == 1):
            yield Transition(0.0, number, True)
        for place in range(passed, len(segment.changes_s)):
            at = segment.changes_s[place] - skip_s
            if at > duration_s:
                break
            changes.append((at, number, up ^ (place % 2 == 0)))
    heapify(changes)
    while changes:
        yield Transition(*heappop(changes))


def _normal(rng: Uniform) -> float:
    """Standard normal, by Box and Muller."""
    return sqrt(-2.0 * log(1.0 - rng.random())) * cos(2.0 * pi * rng.random())
