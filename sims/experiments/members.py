"""Arrivals, churns, faults, attacks and links of the experiments: who comes and goes, who turns, how far apart."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dht.host import Rng
from dht.node import Node
from sims.attack import Attack, turn
from sims.churn import PRESETS, load_trace, replay, sessions
from sims.constructed import construct
from sims.errors import NeverHappened
from sims.experiments.lookups import honest
from sims.latency import Latency, Missing, Synthetic, load
from sims.scenario.arrivals import MAX_WAIT_S
from sims.scenario.lives import ExponentialLives
from sims.scenario.options import DataFile, option, share
from sims.scenario.parts import Run
from sims.toml_source import Where

if TYPE_CHECKING:
    from sims.scenario.plan import Scenario

MAX_SPEED = 1e6  # of churn: a day in a tenth of a second
HOSTILE = tuple(attack.value for attack in Attack)


@dataclass(frozen=True, kw_only=True)
class WellKnown:
    """One after another, each told of many earlier nodes: where links are broken, one of them can surely be reached. A
    ring that is not whole in time is measured as it is."""

    gap_s: float = option(0.2, "between two starts", at_least=0.0, at_most=MAX_WAIT_S)
    known: int = option(8, "earlier nodes that each is told of", at_least=1)
    start: int | None = option(None, "how many start; the rest is left to workloads and faults", at_least=1)
    whole_within_s: float = option(600.0, "how long a whole ring is waited for", at_least=0.0, at_most=MAX_WAIT_S)
    settle_s: float = option(30.0, "how long to wait after that", at_least=0.0, at_most=MAX_WAIT_S)

    def unfit(self, scenario: Scenario) -> tuple[Where | str, str] | None:
        """What is wrong with it for a scenario, and its key."""
        if self.start is not None and scenario.churn is not None:
            return "start", "how many are up at first, the churn says: leave one of the two out"
        return _too_many(self.start, scenario)

    def arrive(self, run: Run) -> None:
        engine, first = run.world.engine, run.population.first
        for place, number in enumerate(first[: self.start]):
            run.population.start(number, run.rng.sample(first[:place], min(self.known, place)))
            engine.run_for(self.gap_s)
        with suppress(NeverHappened):
            engine.run_until(run.world.whole, limit_s=self.whole_within_s, check_every_s=1.0)
        engine.run_for(self.settle_s)


def _too_many(start: int | None, scenario: Scenario) -> tuple[Where, str] | None:
    """Whether more are to start than there are."""
    if start is None or start <= scenario.general.nodes:
        return None
    return ("arrival", "start"), f"{start} can't start, for `nodes` is {scenario.general.nodes}"


@dataclass(frozen=True, kw_only=True)
class Constructed:
    """Nobody joins: the ring is whole from its first instant (`sims.constructed`), as if it had grown and settled."""

    start: int | None = option(None, "how many are there; the rest is left to workloads and faults", at_least=2)
    settle_s: float = option(
        60.0,
        "how long the ring is left alone first; descriptors are published then",
        at_least=0.0,
        at_most=MAX_WAIT_S,
    )

    def unfit(self, scenario: Scenario) -> tuple[Where, str] | None:
        """What the scenario wants that a ring which nobody joined can't have, and its key."""
        for asked, where in (
            (scenario.stack.kind == "vpn", ("stack", "kind")),
            (scenario.routing is not None, ("stack", "routing")),
            (scenario.attack is not None, ("attack",)),
            (any(preset != "public" for preset, _ in scenario.nat), ("nat",)),
            (scenario.network.broken_links > 0, ("network", "broken_links")),
            (scenario.general.nodes < 2, ("nodes",)),
            (scenario.churn is not None and self.start is not None, ("arrival", "start")),
            (scenario.churn is not None and not isinstance(scenario.churn, ExponentialLives), ("churn", "kind")),
        ):
            if asked:
                return where, "a constructed ring can't be had with this: choose another [arrival], such as one-by-one"
        return _too_many(self.start, scenario)

    def arrive(self, run: Run) -> None:
        construct(run.world, self.start or run.nodes)
        for number, node in enumerate(run.world.nodes):
            run.population.adopt(number, node)
        run.world.engine.run_for(self.settle_s)


@dataclass(frozen=True, kw_only=True)
class FittedChurn:
    """Sessions from a fitted distribution (`sims.churn.PRESETS`), the world beginning in the middle of its life."""

    preset: str = option(meaning="whose sessions", choices=tuple(PRESETS))
    speed: float = option(1.0, "how many times shorter every session and absence is", above=0.0, at_most=MAX_SPEED)

    def transitions(self, nodes: int, duration_s: float, rng: Rng) -> Iterator[tuple[float, int, bool]]:
        return sessions(PRESETS[self.preset].scaled(1.0 / self.speed), nodes, duration_s, rng)


@dataclass(frozen=True, kw_only=True)
class TracedChurn:
    """Lives as recorded: STUNner's phones."""

    file: DataFile = option(meaning="a trace as `sims.churn.load_trace` reads it")
    skip_s: float = option(0.0, "how much of each life is left out first", at_least=0.0)

    def transitions(self, nodes: int, duration_s: float, rng: Rng) -> Iterator[tuple[float, int, bool]]:
        return replay(load_trace(self.file), nodes, duration_s, rng, skip_s=self.skip_s)

    def trial(self, nodes: int) -> None:
        """Raises ValueError for a file that is no trace, or has fewer lives than there are nodes."""
        if (lives := len(load_trace(self.file))) < nodes:
            raise ValueError(f"{self.file} has {lives} lives, fewer than {nodes} nodes")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A share of all members turns hostile, for good."""

    fraction: float = share(0.2, "of those that are up")
    attack: str = option("drop", "what they do from now on", choices=HOSTILE)

    def strike(self, run: Run) -> None:
        members = [node for node in run.world.nodes if node.member and honest(node)]
        for node in run.rng.sample(members, round(self.fraction * len(members))):
            turn(node, Attack(self.attack), run.rng)


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Hostile from birth: passes nothing on."""

    def alter(self, node: Node, rng: Rng) -> None:
        turn(node, Attack.DROP, rng)


@dataclass(frozen=True, kw_only=True)
class Misroute:
    """Hostile from birth: passes on to random edges."""

    def alter(self, node: Node, rng: Rng) -> None:
        turn(node, Attack.MISROUTE, rng)


@dataclass(frozen=True, kw_only=True)
class Lie:
    """Hostile from birth: the end of every lookup, which finds nothing."""

    def alter(self, node: Node, rng: Rng) -> None:
        turn(node, Attack.LIE, rng)


@dataclass(frozen=True, kw_only=True)
class SyntheticLink:
    """Round trips as PlanetLab's, without a file (`sims.latency.synthetic`); other ones for each seed."""

    def model(self, nodes: int, rng: Rng) -> Latency:
        return Synthetic(rng.getrandbits(64))


@dataclass(frozen=True, kw_only=True)
class FileLink:
    """A file of any known format: a matrix of round trips, a p2psim topology (King), an OverSim node list."""

    file: DataFile = option(meaning="see `sims.latency.load`")
    unit_ms: float | None = option(None, "what one number is; none: 1, or as a topology's median tells", above=0.0)
    missing: str = option("refuse", "pairs without a value", choices=tuple(each.value for each in Missing))
    shuffled: bool = option(False, "nodes take places in random order, a sample of the file's")

    def model(self, nodes: int, rng: Rng) -> Latency:
        found = load(self.file, self.unit_ms, Missing(self.missing))
        return Shuffled(found, nodes, rng) if self.shuffled else found

    def trial(self, nodes: int) -> None:
        """Raises ValueError for a file of no known format."""
        load(self.file, self.unit_ms, Missing(self.missing))


class Shuffled:
    """Another model, its first places exchanged at random, so that each seed samples other hosts."""

    def __init__(self, latency: Latency, nodes: int, rng: Rng) -> None:
        places = len(latency) if isinstance(latency, Sized) else nodes
        self._latency = latency
        self._order = rng.sample(range(max(places, 1)), max(places, 1))

    def one_way_s(self, source: int, destination: int) -> float:
        count = len(self._order)
        # Nodes beyond the file's places share them, in the same order.
        return self._latency.one_way_s(self._order[source % count], self._order[destination % count])
