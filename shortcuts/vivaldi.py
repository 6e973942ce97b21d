"""Where this node is among the others, learned from round-trip times: Vivaldi in two dimensions and a height.

Every measured round trip is a spring between two nodes; each node moves to where its springs are least strained. Plain
Vivaldi wanders on real networks, so, after Ledlie: a low percentile of each neighbour's last round trips stands for
them (latency filter); a sample relaxes against several remembered neighbours, old ones weighing less (neighbour decay);
the origin pulls a little (gravity), so that the space as a whole stays where it is; neighbours that never fit are left
out (violator exclusion); and applications see a coordinate that moves only when there is news (update filter).

One difference: springs here are strained by relative error, and pull alike however strained they are (least absolute
instead of least squared errors). The sum then settles near the median relative error, which is what we want small,
and a liar pulls no harder than an honest neighbour. Pure: never sends, never reads a clock. Peers' coordinates are
claims, their range checked in `dht.coordinate`; round trips are our own measurements, which a peer can only lengthen.

Sources: Dabek et al., "Vivaldi" (SIGCOMM 2004); Ledlie, Gardner, Seltzer, "Network coordinates in the wild"
(NSDI 2007).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import cos, hypot, sin, tau
from typing import Final

from dht.coordinate import MAX_ERROR, MAX_HEIGHT_MS, MAX_PLANE_MS, Coordinate, distance_ms
from dht.host import Rng

MAX_NEIGHBORS: Final = 64
NEIGHBOR_LIFE_S: Final = 1800.0
NEIGHBOR_HALF_LIFE_S: Final = 600.0  # of a neighbour's weight
HISTORY: Final = 4  # round trips remembered a neighbour
PERCENTILE: Final = 0.25  # of them, this one counts
MAX_RTT_MS: Final = 10_000.0  # longer ones say that something waited, not where anybody is
MIN_RTT_MS: Final = 0.1  # below it, relative errors tell of schedulers, not of the network

GAIN: Final = 0.25  # Vivaldi's c_c
ERROR_GAIN: Final = 0.1  # c_e
HEIGHT_SHARE: Final = 0.5  # of a pull on the plane; a height has all springs against it at once
PARTNERS: Final = 8  # remembered neighbours that a sample relaxes against beside its own
JOIN_SAMPLES: Final = 16  # each of the first samples starts a search, so that a joiner is placed at once
SEARCH_EVERY: Final = 256  # later samples; springs can be at rest in a wrong place
SEARCH_STARTS: Final = 3  # neighbours whose places a search tries beside its own
SEARCH_PASSES: Final = 20
SEARCH_GAIN: Final = 0.5
WORTH_JUMPING: Final = 0.8  # a place found must be strained by at most this much of the present one's strain
MIN_STRAIN: Final = 0.05  # a spring less strained than this pulls the less
MIN_ERROR: Final = 0.05  # nobody's claim to be surer is believed, nor our own
MIN_HEIGHT_MS: Final = 0.01
MAX_STEP_MS: Final = 100.0
GRAVITY_MS: Final = 1024.0  # a node at this distance from the origin is pulled 1 ms a sample, at half of it 1/4

MISFIT_GAIN: Final = 0.2
VIOLATION: Final = 0.5  # a neighbour off by more than this on average, and by VIOLATION_TIMES our error, violates
VIOLATION_TIMES: Final = 3.0
MAX_VIOLATORS: Final = 0.25  # of the neighbours; when more don't fit, it is us

SMOOTHING: Final = 0.05  # of the mean position that the stable coordinate follows
NEWS_SHARE: Final = 0.1  # of the round trip to the nearest neighbour: what the mean must have moved by to be news
NEWS_MS: Final = 1.0  # and at least by this


class _Neighbor:
    """What is remembered of one peer: its last round trips, what it said, and how badly it fits (smoothed)."""

    __slots__ = ("heard_at", "misfit", "remote", "rtt_ms", "samples")

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=HISTORY)
        self.misfit = 0.0
        self.rtt_ms = 0.0
        self.heard_at = 0.0
        self.remote: Coordinate

    def heard(self, now: float, rtt_ms: float, remote: Coordinate) -> None:
        self.samples.append(rtt_ms)
        self.rtt_ms = sorted(self.samples)[int(PERCENTILE * (len(self.samples) - 1))]
        self.heard_at = now
        self.remote = remote


class Vivaldi:
    """One node's coordinate. `coordinate` is what peers are told, `stable` what predictions are made from."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._x = self._y = 0.0
        self._height = MIN_HEIGHT_MS
        self._error = MAX_ERROR
        self._mean = (0.0, 0.0, MIN_HEIGHT_MS)
        self._stable = self.coordinate
        self._neighbors: dict[int, _Neighbor] = {}  # who was heard last is last
        self._samples = 0

    def __len__(self) -> int:
        """How many neighbours are remembered."""
        return len(self._neighbors)

    @property
    def coordinate(self) -> Coordinate:
        """Where this node thinks it is now; moves with every sample."""
        return Coordinate(self._x, self._y, self._height, self._error)

    @property
    def stable(self) -> Coordinate:
        """Where this node was, on average, when that last changed by enough to matter."""
        return self._stable

    @property
    def error(self) -> float:
        """How far predictions have lately been off, relative to what was measured: MIN_ERROR to 1."""
        return self._error

    def estimate_ms(self, remote: Coordinate) -> float:
        """The round trip to the node that says it is at `remote`."""
        return distance_ms(self._stable, remote)

    def measured_ms(self, peer_id: int) -> float | None:
        """The round trip to a neighbour, a low percentile of the last few; None for others."""
        neighbor = self._neighbors.get(peer_id)
        return None if neighbor is None else neighbor.rtt_ms

    def observe(self, now: float, peer_id: int, rtt_ms: float, remote: Coordinate) -> None:
        """A round trip to a peer was measured, which says that it is at `remote`. Beyond MAX_RTT_MS it is ignored."""
        if not rtt_ms <= MAX_RTT_MS:
            return
        neighbor = self._neighbors.pop(peer_id, None) or _Neighbor()
        neighbor.heard(now, max(rtt_ms, MIN_RTT_MS), remote)
        self._neighbors[peer_id] = neighbor
        self._forget(now)
        self._samples += 1
        misfit = min(1.0, abs(self._distance_ms(remote) - neighbor.rtt_ms) / neighbor.rtt_ms)
        neighbor.misfit += MISFIT_GAIN * (misfit - neighbor.misfit)
        trust = self._trust(remote)
        if self._samples <= JOIN_SAMPLES or self._samples % SEARCH_EVERY == 0:
            self._search(now)
        else:
            self._relax(now, self._partners(neighbor), GAIN)
        self._pull_to_origin()
        self._error = max(MIN_ERROR, self._error + ERROR_GAIN * trust * (misfit - self._error))
        self._follow()

    def moved(self) -> None:
        """This host is on another network now: measured round trips hold no more, its place is a first guess."""
        self._neighbors.clear()
        self._samples = 0
        self._error = MAX_ERROR

    def _forget(self, now: float) -> None:
        oldest = next(iter(self._neighbors))
        while len(self._neighbors) > MAX_NEIGHBORS or now - self._neighbors[oldest].heard_at > NEIGHBOR_LIFE_S:
            del self._neighbors[oldest]
            oldest = next(iter(self._neighbors))

    def _distance_ms(self, remote: Coordinate) -> float:
        return hypot(self._x - remote.x_ms, self._y - remote.y_ms) + self._height + remote.height_ms

    def _trust(self, remote: Coordinate) -> float:
        """How much of a disagreement is our fault: Vivaldi's w."""
        return self._error / (self._error + max(remote.error, MIN_ERROR))

    def _partners(self, newest: _Neighbor) -> Sequence[_Neighbor]:
        """Whom a sample relaxes against: its own neighbour and some others, without violators."""
        limit = max(VIOLATION, VIOLATION_TIMES * self._error)
        fitting = [neighbor for neighbor in self._neighbors.values() if neighbor.misfit <= limit]
        if len(fitting) < (1.0 - MAX_VIOLATORS) * len(self._neighbors):
            fitting = list(self._neighbors.values())
        others = [neighbor for neighbor in fitting if neighbor is not newest]
        chosen = others if len(others) <= PARTNERS else self._rng.sample(others, PARTNERS)
        return chosen if len(others) == len(fitting) else [*chosen, newest]

    def _search(self, now: float) -> None:
        """Relax against everybody from here, then from where some neighbours are; the least strained place wins."""
        everybody = list(self._neighbors.values())
        starts = everybody if len(everybody) <= SEARCH_STARTS else self._rng.sample(everybody, SEARCH_STARTS)
        best, least = self._settle(now, everybody)
        for start in starts:
            self._x, self._y, self._height = start.remote.x_ms, start.remote.y_ms, MIN_HEIGHT_MS
            found, strain = self._settle(now, everybody)
            if strain < WORTH_JUMPING * least:
                best, least = found, strain
        self._x, self._y, self._height = best

    def _settle(self, now: float, everybody: Sequence[_Neighbor]) -> tuple[tuple[float, float, float], float]:
        """Relax from where we are; gives the place reached, and the sum of the strains there."""
        for _ in range(SEARCH_PASSES):
            self._relax(now, everybody, SEARCH_GAIN)
        strains = (
            min(1.0, abs(self._distance_ms(each.remote) - each.rtt_ms) / each.rtt_ms) * self._trust(each.remote)
            for each in everybody
        )
        return (self._x, self._y, self._height), sum(strains)

    def _relax(self, now: float, partners: Sequence[_Neighbor], gain: float) -> None:
        """Move by `gain` times the partners' weighted mean pull."""
        pull_x = pull_y = pull_up = weights = 0.0
        for partner in partners:
            remote = partner.remote
            dx, dy = self._x - remote.x_ms, self._y - remote.y_ms
            plane = hypot(dx, dy)
            if plane < MIN_HEIGHT_MS:  # nodes on one spot part in any direction
                angle = tau * self._rng.random()
                dx, dy, plane = cos(angle), sin(angle), 1.0
                short_ms = partner.rtt_ms - self._height - remote.height_ms
            else:
                short_ms = partner.rtt_ms - plane - self._height - remote.height_ms
            strain = max(MIN_STRAIN, abs(short_ms) / partner.rtt_ms)
            freshness = 0.5 ** ((now - partner.heard_at) / NEIGHBOR_HALF_LIFE_S)
            weight = self._trust(remote) * freshness / (partner.rtt_ms * strain)
            weights += weight
            pull_x += weight * short_ms * dx / plane
            pull_y += weight * short_ms * dy / plane
            pull_up += weight * short_ms * HEIGHT_SHARE
        if not partners:
            return
        scale = gain / weights
        step_ms = scale * hypot(pull_x, pull_y, pull_up)
        if step_ms > MAX_STEP_MS:
            scale *= MAX_STEP_MS / step_ms
        self._x = _within(self._x + scale * pull_x, -MAX_PLANE_MS, MAX_PLANE_MS)
        self._y = _within(self._y + scale * pull_y, -MAX_PLANE_MS, MAX_PLANE_MS)
        self._height = _within(self._height + scale * pull_up, MIN_HEIGHT_MS, MAX_HEIGHT_MS)

    def _pull_to_origin(self) -> None:
        kept = 1.0 - min(1.0, hypot(self._x, self._y) / GRAVITY_MS**2)
        self._x *= kept
        self._y *= kept

    def _follow(self) -> None:
        """Let the stable coordinate follow the mean, when that has moved by enough."""
        now = (self._x, self._y, self._height)
        if self._samples <= JOIN_SAMPLES:
            self._mean = now
        else:
            x, y, height = (mean + SMOOTHING * (new - mean) for mean, new in zip(self._mean, now, strict=True))
            self._mean = (x, y, height)
        x, y, height = self._mean
        old = self._stable
        moved_ms = hypot(x - old.x_ms, y - old.y_ms) + abs(height - old.height_ms)
        nearest_ms = min(neighbor.rtt_ms for neighbor in self._neighbors.values())
        if self._samples <= JOIN_SAMPLES or moved_ms > max(NEWS_MS, NEWS_SHARE * nearest_ms):
            self._stable = Coordinate(x, y, height, self._error)


def _within(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))
