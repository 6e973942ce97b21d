"""Where a scenario's latencies come from: `[network.latency]`."""

from __future__ import annotations

from dataclasses import dataclass

from dht.host import Rng
from sims.latency import Constant, Euclid, Latency, Matrix
from sims.scenario.options import DataFile, option
from sims.scenario.schema import MAX_DELAY_MS


@dataclass(frozen=True, kw_only=True)
class ConstantLink:
    """All nodes are equally far apart."""

    rtt_ms: float = option(100.0, "round trip between any two nodes", above=0.0, at_most=MAX_DELAY_MS)

    def model(self, nodes: int, rng: Rng) -> Latency:
        return Constant(self.rtt_ms)


@dataclass(frozen=True, kw_only=True)
class MatrixLink:
    """Measured round trips: a square matrix, one row a line, gzipped or not. Nodes take its rows in turn."""

    file: DataFile = option(meaning="text of round trips in ms, such as PlanetLab's")

    def model(self, nodes: int, rng: Rng) -> Latency:
        return Matrix.load(self.file)

    def trial(self, nodes: int) -> None:
        """Raises ValueError for a file that is no matrix."""
        Matrix.load(self.file)


@dataclass(frozen=True, kw_only=True)
class CoordinateLink:
    """Points on a plane whose distance is the one-way delay in ms: an OverSim node list."""

    file: DataFile = option(meaning="OverSim's nodes_2d_*.xml, gzipped or not")

    def model(self, nodes: int, rng: Rng) -> Latency:
        return Euclid.load(self.file)

    def trial(self, nodes: int) -> None:
        """Raises ValueError for a file that holds no points."""
        Euclid.load(self.file)
