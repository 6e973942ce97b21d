"""Workloads of machines alone: product objects that sample the scenario's latencies, without nodes or datagrams.

Rows. "coordinates": `round`, and over all pairs the relative error's `median`, `p90`, of told and of `stable`
coordinates; the last row also has `joiner`, the median over new nodes of their median error after JOIN_SAMPLES
samples. "proxy": one pair that can't have a direct path and one `way` between the two, with `rtt_ms`: "overlay" over
the ring, over the relay that is asked "first", over the one "chosen", over the "best" there is, and "direct"
(`sims.proxies`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sims.coordinates import JOIN_SAMPLES, JOINERS, ROUNDS, Space
from sims.proxies import SYMMETRIC, proxied
from sims.scenario.options import option, share
from sims.scenario.parts import Rows, Run, Texts

MAX_NODES = 2000  # every pair is looked at


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Vivaldi machines at as many places, each measuring its edges once a round."""

    ROWS: ClassVar[Rows] = {"coordinates": ("round", "median", "p90", "stable", "joiner")}

    nodes: int = option(490, "how many", at_least=10, at_most=MAX_NODES)
    rounds: int = option(ROUNDS, "how many; one is 27 s", at_least=1)
    look_every: int = option(4, "rounds between two looks", at_least=1)
    joiners: int = option(JOINERS, "new nodes at the end", at_least=0)

    def start(self, run: Run) -> None:
        space = Space(self.nodes, run.world.network.latency, run.rng.getrandbits(32))
        done = 0
        while done < self.rounds:
            step = 1 if done < self.look_every else min(self.look_every, self.rounds - done)
            space.run(step)
            done += step
            told = space.errors([machine.coordinate for machine in space.nodes])
            stable = space.errors([machine.stable for machine in space.nodes])
            joiner = None
            if done == self.rounds and self.joiners:
                joiner = statistics.median(space.joiner_errors(self.joiners, JOIN_SAMPLES))
            run.record.row(
                "coordinates",
                round=done,
                median=statistics.median(told),
                p90=_quantile(told, 0.9),
                stable=statistics.median(stable),
                joiner=joiner,
            )


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """Pairs of nodes behind symmetric NATs, in a ring of as many nodes: what each way between them takes."""

    ROWS: ClassVar[Rows] = {"proxy": ("way", "rtt_ms")}
    TEXTS: ClassVar[Texts] = (("proxy", "way"),)

    nodes: int | None = option(None, "how many; none: as many as the scenario has", at_least=20, at_most=MAX_NODES)
    pairs: int = option(1000, "how many", at_least=1)
    rounds: int = option(12, "that coordinates have had", at_least=1)
    symmetric: float = share(SYMMETRIC, "of nodes that have no direct path among themselves")

    def start(self, run: Run) -> None:
        found = proxied(
            self.nodes or run.nodes,
            run.world.network.latency,
            run.rng.getrandbits(32),
            symmetric=self.symmetric,
            pairs=self.pairs,
            rounds=self.rounds,
        )
        for each in found:
            for way in ("overlay", "first", "chosen", "best", "direct"):
                run.record.row("proxy", way=way, rtt_ms=getattr(each, f"{way}_ms"))


def _quantile(values: Sequence[float], share_: float) -> float:
    return sorted(values)[int(len(values) * share_)]
