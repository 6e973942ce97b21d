"""† How fast and how frugal the simulator is: one world, in phases, and what each took.

    python -m sims.speed --nodes 1740 --matrix FILE --lookups 100000            grown by the protocol, real cryptography
    python -m sims.speed --nodes 10000 --plain --constructed --processes 2      begun whole, without cryptography

    identities -> ring (grown until whole, or constructed) -> [shared out] -> steady -> lookups

`events/s` and `simulated s per real s` are of the wall clock, so run it on a machine that has a core for each process.
Bytes a node: what the process, or all of them, have grown by since it began, divided by the nodes; what processes share
counts once. The trace hash depends on the arguments alone: neither on the machine nor on PYTHONHASHSEED. Nothing here
changes what the nodes do; the garbage collector is told that a finished ring stays, and to look for cycles less often
than it would, as nodes leave hardly any behind: this saves it walking through all of the world again and again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from dht.suite import NOISE
from sims.constructed import construct
from sims.engine import START, Engine
from sims.errors import NeverHappened
from sims.figures import grow, latency_from, look_up, members
from sims.network import Network
from sims.plain import PLAIN
from sims.shards import Shards
from sims.world import World

T = TypeVar("T")

LOOKUPS_PER_S = 2000.0
STEADY_S = 60.0
SETTLE_S = 10.0  # after the ring is there, before the steady phase: descriptors are published
# When it was there from the first instant, all nodes publish at once, and stabilize less and less often from then on.
CONSTRUCTED_SETTLE_S = 60.0
MIB = 1 << 20
COLLECT_AFTER = (1_000_000, 20, 100)  # as gc.set_threshold has it; Python's own are 700, 10, 10


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a run."""

    name: str
    wall_s: float
    cpu_s: float
    simulated_s: float
    events: int


@dataclass(frozen=True, slots=True)
class Speed:
    """What a run came to. `hops`: the mean of the lookups that were answered by the nearest node, None without any."""

    nodes: int
    seed: int
    plain: bool
    constructed: bool
    processes: int
    phases: tuple[Phase, ...]
    events_per_s: float
    steady_simulated_per_real: float
    bytes_per_node: int
    memory_mib: int
    peers_per_node: float
    lookups: int
    lookups_failed: int
    hops: float | None
    trace_hash: str

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.nodes} nodes, seed {self.seed}, {'plain suite' if self.plain else 'real cryptography'}, "
            f"{'constructed' if self.constructed else 'grown'}, processes: {self.processes}",
            f"{'phase':<12}{'wall s':>10}{'cpu s':>10}{'simulated s':>14}{'events':>12}",
        ]
        for phase in self.phases:
            lines.append(
                f"{phase.name:<12}{phase.wall_s:>10.1f}{phase.cpu_s:>10.1f}{phase.simulated_s:>14.1f}{phase.events:>12}"
            )
        lines.append(
            f"{self.events_per_s:.0f} events/s; steady: {self.steady_simulated_per_real:.2f} simulated s per real s; "
            f"{self.bytes_per_node} bytes a node, {self.peers_per_node:.1f} peers a node; {self.memory_mib} MiB in all"
        )
        if self.hops is not None:
            lines.append(f"{self.lookups} lookups, {self.lookups_failed} failed, {self.hops:.2f} hops")
        lines.append(f"trace hash {self.trace_hash}")
        return "\n".join(lines)


class Alone:
    """A world in this process, with what `sims.shards.Shards` has for one in several."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def now(self) -> float:
        return self._world.engine.now

    @property
    def events(self) -> int:
        return self._world.engine.events

    @property
    def trace_hash(self) -> str:
        return self._world.engine.trace_hash

    def run_for(self, duration_s: float) -> None:
        self._world.engine.run_for(duration_s)

    def ask(self, function: Callable[[World], T]) -> list[T]:
        return [function(self._world)]

    def whole(self) -> bool:
        return self._world.whole()

    def close(self) -> None:
        """There is nobody to end."""


class _Stopwatch:
    """Measures the phases of one run."""

    def __init__(self, ended: Callable[[Phase], None]) -> None:
        self._ended = ended
        self.running: Alone | Shards | None = None
        self.phases: list[Phase] = []
        self._mark = self._now()

    def _now(self) -> tuple[float, float, float, int]:
        running = self.running
        if running is None:
            return time.perf_counter(), time.process_time(), START, 0
        spent_s = dict([_cpu(), *running.ask(_cpu)])  # by process
        return time.perf_counter(), sum(spent_s.values()), running.now, running.events

    def lap(self, name: str) -> Phase:
        """The phase that ends now."""
        before, after = self._mark, self._now()
        phase = Phase(name, after[0] - before[0], after[1] - before[1], after[2] - before[2], after[3] - before[3])
        self.phases.append(phase)
        self._ended(phase)
        self._mark = self._now()
        return phase


def _cpu(world: World | None = None) -> tuple[int, float]:
    """Which process this is, and what processor time it has had."""
    return os.getpid(), time.process_time()


def _peers(world: World) -> int:
    return sum(len(node.parts.sessions.peers) for node in world.nodes)


def held(world: World | None = None) -> tuple[int, int]:
    """Which process this is, and the bytes it holds in memory now; of those that it shares with others, its part."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        (pss,) = (line for line in rollup if line.startswith("Pss:"))
    return os.getpid(), int(pss.split()[1]) * 1024


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """The collector looks for cycles seldom, and forgets at the end what it was told to leave alone."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*COLLECT_AFTER)
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@_seldom_collected()
def measure(
    nodes: int,
    seed: int = 1,
    matrix: str | None = None,
    *,
    plain: bool = False,
    constructed: bool = False,
    processes: int = 1,
    lookups: int = 0,
    steady_s: float = STEADY_S,
    ended: Callable[[Phase], None] = lambda phase: None,
) -> Speed:
    """Run one world; `ended` is told of each phase. Raises ValueError for a bad matrix, too few nodes, or lookups of
    several `processes`; NeverHappened when the ring isn't whole in time."""
    if processes > 1 and (lookups or processes > nodes):
        why = "lookups are for one process" if lookups else f"{nodes} nodes can't be shared out among {processes}"
        raise ValueError(why)
    _, began_bytes = held()
    engine = Engine(seed)
    watch = _Stopwatch(ended)
    world = World(engine, Network(engine, latency_from(matrix)), members(nodes, seed, PLAIN if plain else NOISE))
    running: Alone | Shards = Alone(world)
    watch.running = running
    watch.lap("identities")
    if constructed:
        construct(world, nodes)
        gc.freeze()
    else:
        grow(world, nodes)
    if processes > 1:
        watch.running = running = Shards(world, processes)
    try:
        running.run_for(CONSTRUCTED_SETTLE_S if constructed else SETTLE_S)
        if not running.whole():
            raise NeverHappened(f"seed {seed}: the ring is not whole")
        gc.collect()
        gc.freeze()
        watch.lap("ring")
        running.run_for(steady_s)
        steady = watch.lap("steady")
        found = look_up(world, lookups, LOOKUPS_PER_S) if lookups else None
        if found is not None:
            watch.lap("lookups")
        memory_bytes = sum(dict([held(), *running.ask(held)]).values())
        events, trace_hash = running.events, running.trace_hash
        peers = sum(running.ask(_peers))
    finally:
        running.close()
    return Speed(
        nodes=nodes,
        seed=seed,
        plain=plain,
        constructed=constructed,
        processes=processes,
        phases=tuple(watch.phases),
        events_per_s=events / sum(phase.wall_s for phase in watch.phases if phase.events),
        steady_simulated_per_real=steady.simulated_s / steady.wall_s,
        bytes_per_node=(memory_bytes - began_bytes) // nodes,
        memory_mib=memory_bytes // MIB,
        peers_per_node=peers / nodes,
        lookups=lookups,
        lookups_failed=0 if found is None else found.failed,
        hops=None if found is None or not found.hops else statistics.mean(found.hops),
        trace_hash=trace_hash,
    )


def _number(least: int, text: str) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 1 when the run failed, with the line that replays it; 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="python -m sims.speed", description="How fast the simulator is.")
    parser.add_argument("--nodes", type=partial(_number, 2), default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--matrix", metavar="FILE", help="round trips in ms; without one all pairs are 100 ms apart")
    parser.add_argument("--plain", action="store_true", help="sims.plain's suite in place of the real cryptography")
    parser.add_argument("--constructed", action="store_true", help="begin with a whole ring")
    parser.add_argument("--processes", type=partial(_number, 1), default=1, metavar="N", help="share the world out")
    parser.add_argument("--lookups", type=partial(_number, 0), default=0, metavar="N", help="from and for anywhere")
    parser.add_argument("--steady", type=partial(_number, 1), default=int(STEADY_S), metavar="S", help="simulated s")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    try:
        speed = measure(
            asked.nodes,
            asked.seed,
            asked.matrix,
            plain=asked.plain,
            constructed=asked.constructed,
            processes=asked.processes,
            lookups=asked.lookups,
            steady_s=asked.steady,
            ended=lambda phase: print(f"{phase.name}: {phase.wall_s:.1f} s", file=sys.stderr, flush=True),
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except AssertionError as failure:
        replay = shlex.join(["python", "-m", "sims.speed", *(sys.argv[1:] if arguments is None else arguments)])
        print(f"{failure}\nto replay: {replay}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(speed), indent=2) if asked.json else speed.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
