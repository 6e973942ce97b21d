"""What befalls a world at one instant: crashes, starts, partitions, frozen hosts, loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sims.scenario.options import option, share
from sims.scenario.parts import Run


@dataclass(frozen=True, kw_only=True)
class Crash:
    """Random nodes die without a word. Node 0, the first, is spared unless all are to die."""

    fraction: float = share(0.1, "of those that are up")

    def strike(self, run: Run) -> None:
        for number in _drawn(run, self.fraction):
            run.population.crash(number)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Random nodes that are down start."""

    fraction: float = share(1.0, "of those that are down")

    def strike(self, run: Run) -> None:
        down = run.population.down()
        for number in sorted(run.rng.sample(down, round(len(down) * self.fraction))):
            run.population.start(number)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The network falls into two parts that don't hear each other, and grows together again."""

    fraction: float = share(0.5, "of those that are up, in the smaller part")
    for_s: float = option(0.0, "how long it lasts; 0: until a fault 'heal'", at_least=0.0)

    def strike(self, run: Run) -> None:
        world = run.world
        cut_off = [world.hosts[run.population.node(number).id] for number in _drawn(run, self.fraction)]
        world.network.partition([cut_off])
        if self.for_s:
            run.later(self.for_s, world.network.heal)


@dataclass(frozen=True, kw_only=True)
class Heal:
    """Partitions and cuts end."""

    def strike(self, run: Run) -> None:
        run.world.network.heal()


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Random hosts stand still, as under SIGSTOP, and go on."""

    fraction: float = share(0.1, "of those that are up")
    for_s: float = option(30.0, "how long", above=0.0)

    def strike(self, run: Run) -> None:
        network = run.world.network
        for number in _drawn(run, self.fraction):
            host = run.world.hosts[run.population.node(number).id]
            network.freeze(host)
            run.later(self.for_s, partial(network.thaw, host))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Random pairs of nodes no longer hear each other, in both directions, until a fault 'heal'."""

    pairs: int = option(1, "how many", at_least=1, at_most=1_000_000)

    def strike(self, run: Run) -> None:
        world = run.world
        up = run.population.up()
        if len(up) < 2:
            return
        for _ in range(self.pairs):
            one, other = (world.hosts[run.population.node(number).id] for number in run.rng.sample(up, 2))
            world.network.cut(one, other)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The share of lost datagrams changes."""

    loss: float = share(0.0, "from now on")

    def strike(self, run: Run) -> None:
        run.world.network.loss = self.loss


@dataclass(frozen=True, kw_only=True)
class Rebind:
    """NAT boxes forget their mappings and make others: a reboot, or a new address from the provider."""

    fraction: float = share(1.0, "of the nodes behind boxes that are up")

    def strike(self, run: Run) -> None:
        behind = [number for number in run.population.up() if run.world.site(number) is not None]
        for number in sorted(run.rng.sample(behind, round(len(behind) * self.fraction))):
            site = run.world.site(number)
            assert site is not None
            site.box.rebind()


def _drawn(run: Run, fraction: float) -> list[int]:
    """A fraction of those that are up, in order of their numbers; without node 0 as long as that is possible."""
    up = run.population.up()
    wanted = round(len(up) * fraction)
    others = [number for number in up if number != 0]
    return sorted(run.rng.sample(others if wanted <= len(others) else up, wanted))
