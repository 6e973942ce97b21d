"""How the nodes of the beginning come (`population.first`: all, or those that the churn says), and when measuring may
begin."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

from sims.errors import NeverHappened
from sims.scenario.options import option
from sims.scenario.parts import Run

MAX_WAIT_S = 30 * 86_400.0  # of simulated time, for a ring that grows
MEMBER_LIMIT_S = 60.0  # for the first node to find itself alone


def _whole_within() -> Any:  # a field, as `option` gives it
    return option(
        300.0,
        "the ring must be whole this long after the last start; 0: don't wait",
        at_least=0.0,
        at_most=MAX_WAIT_S,
    )


def _settled() -> Any:
    return option(0.0, "how long to wait after that", at_least=0.0, at_most=MAX_WAIT_S)


@dataclass(frozen=True, kw_only=True)
class OneByOne:
    """Nodes start one after another, at even intervals, each through nodes that came before."""

    gap_s: float = option(0.1, "between two starts", at_least=0.0, at_most=MAX_WAIT_S)
    whole_within_s: float = _whole_within()
    settle_s: float = _settled()

    def arrive(self, run: Run) -> None:
        for number in _in_order(run):
            run.population.start(number)
            if self.gap_s:
                run.world.engine.run_for(self.gap_s)
        _settle(run, self.whole_within_s, self.settle_s)


@dataclass(frozen=True, kw_only=True)
class Together:
    """One node starts; when it has a ring of its own, all others start within a short time, knowing it alone."""

    within_s: float = option(1.0, "all starts fall into so long, at random", at_least=0.0, at_most=MAX_WAIT_S)
    whole_within_s: float = _whole_within()
    settle_s: float = _settled()

    def arrive(self, run: Run) -> None:
        engine = run.world.engine
        first, *others = _in_order(run) or (None,)
        if first is not None:
            node = run.population.start(first)
            engine.run_until(lambda: node.member, limit_s=MEMBER_LIMIT_S)
            for number in others:
                engine.post(run.rng.uniform(0.0, self.within_s), run.population.start, number, (first,))
            engine.run_for(self.within_s)
        _settle(run, self.whole_within_s, self.settle_s)


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Nodes start at random instants, independently of each other, each through nodes that came before."""

    rate_per_s: float = option(10.0, "starts a second on average", at_least=1e-4)
    whole_within_s: float = _whole_within()
    settle_s: float = _settled()

    def arrive(self, run: Run) -> None:
        for number in _in_order(run):
            run.population.start(number)
            run.world.engine.run_for(-log(1.0 - run.rng.random()) / self.rate_per_s)
        _settle(run, self.whole_within_s, self.settle_s)


def _in_order(run: Run) -> list[int]:
    """Who is to be up at first, one whom the others can reach before all. Raises ValueError when there is none."""
    first = list(run.population.first)
    public = next((number for number in first if run.population.behind[number] is None), None)
    if public is None:
        if first:
            raise ValueError(
                "of the nodes that are up at first, none can be reached from outside: [nat] hides them all"
            )
        return []
    first.remove(public)
    return [public, *first]


def _settle(run: Run, whole_within_s: float, settle_s: float) -> None:
    world = run.world
    if whole_within_s > 0:
        try:
            world.engine.run_until(world.whole, limit_s=whole_within_s, check_every_s=1.0)
        except NeverHappened as error:
            wrong, lists = len(world.faults(world.nodes)), 2 * len(world.nodes)
            raise NeverHappened(
                f"seed {world.engine.seed}: {whole_within_s:g} s after the last start {wrong} of {lists} near lists are"
                " not what they should be: [arrival] whole_within_s = 0 measures such a ring, more waits longer"
            ) from error
    world.engine.run_for(settle_s)
