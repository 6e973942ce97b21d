"""† How fast and how frugal the simulator is: one world, in phases, and what each took.

    python -m sims.speed --nodes 1740 --matrix FILE --lookups 100000            grown by the protocol, real cryptography
    python -m sims.speed --nodes 10000 --plain --constructed --lookups 10000    begun whole, without cryptography

    identities -> ring (grown until whole, or constructed) -> steady -> lookups

`events/s` and `simulated s per real s` are of the wall clock of this process alone, so run it on a machine that has a
core for it. Bytes a node: what the process has grown by since it began, divided by the nodes. The trace hash depends on
the arguments alone: neither on the machine nor on PYTHONHASHSEED. Nothing here changes what the nodes do; the garbage
collector is told that a finished ring stays, and to look for cycles less often than it would, as nodes leave hardly
any behind: this saves it walking through all of the world again and again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from dht.suite import NOISE
from sims.constructed import construct
from sims.engine import Engine
from sims.errors import NeverHappened
from sims.figures import grow, latency_from, look_up, members
from sims.network import Network
from sims.plain import PLAIN
from sims.world import World

LOOKUPS_PER_S = 2000.0
STEADY_S = 60.0
SETTLE_S = 10.0  # after the ring is there, before the steady phase: descriptors are published
# When it was there from the first instant, all nodes publish at once, and stabilize less and less often from then on.
CONSTRUCTED_SETTLE_S = 60.0
MIB = 1 << 20
COLLECT_AFTER = (100_000, 20, 100)  # as gc.set_threshold has it; Python's own are 700, 10, 10


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
    phases: tuple[Phase, ...]
    events_per_s: float
    steady_simulated_per_real: float
    bytes_per_node: int
    peak_rss_mib: int
    peers_per_node: float
    lookups: int
    lookups_failed: int
    hops: float | None
    trace_hash: str

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.nodes} nodes, seed {self.seed}, {'plain suite' if self.plain else 'real cryptography'}, "
            f"{'constructed' if self.constructed else 'grown'}",
            f"{'phase':<12}{'wall s':>10}{'cpu s':>10}{'simulated s':>14}{'events':>12}",
        ]
        for phase in self.phases:
            lines.append(
                f"{phase.name:<12}{phase.wall_s:>10.1f}{phase.cpu_s:>10.1f}{phase.simulated_s:>14.1f}{phase.events:>12}"
            )
        lines.append(
            f"{self.events_per_s:.0f} events/s; steady: {self.steady_simulated_per_real:.2f} simulated s per real s; "
            f"{self.bytes_per_node} bytes a node, {self.peers_per_node:.1f} peers a node; peak {self.peak_rss_mib} MiB"
        )
        if self.hops is not None:
            lines.append(f"{self.lookups} lookups, {self.lookups_failed} failed, {self.hops:.2f} hops")
        lines.append(f"trace hash {self.trace_hash}")
        return "\n".join(lines)


class _Stopwatch:
    """Measures the phases of one run."""

    def __init__(self, engine: Engine, ended: Callable[[Phase], None]) -> None:
        self._engine, self._ended = engine, ended
        self.phases: list[Phase] = []
        self._mark = self._now()

    def _now(self) -> tuple[float, float, float, int]:
        return time.perf_counter(), time.process_time(), self._engine.now, self._engine.events

    def lap(self, name: str) -> Phase:
        """The phase that ends now."""
        before, after = self._mark, self._now()
        phase = Phase(name, after[0] - before[0], after[1] - before[1], after[2] - before[2], after[3] - before[3])
        self.phases.append(phase)
        self._ended(phase)
        self._mark = self._now()
        return phase


def rss_bytes() -> int:
    """What this process holds in memory now."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(
    nodes: int,
    seed: int = 1,
    matrix: str | None = None,
    *,
    plain: bool = False,
    constructed: bool = False,
    lookups: int = 0,
    steady_s: float = STEADY_S,
    ended: Callable[[Phase], None] = lambda phase: None,
) -> Speed:
    """Run one world; `ended` is told of each phase. Raises ValueError for a bad matrix or too few nodes, NeverHappened
    when the ring isn't whole in time."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*COLLECT_AFTER)
    began_bytes = rss_bytes()
    engine = Engine(seed)
    watch = _Stopwatch(engine, ended)
    world = World(engine, Network(engine, latency_from(matrix)), members(nodes, seed, PLAIN if plain else NOISE))
    watch.lap("identities")
    if constructed:
        construct(world, nodes)
        gc.freeze()
    else:
        grow(world, nodes)
    engine.run_for(CONSTRUCTED_SETTLE_S if constructed else SETTLE_S)
    if not world.whole():
        raise NeverHappened(f"seed {seed}: the ring is not whole")
    bytes_per_node = (rss_bytes() - began_bytes) // nodes
    gc.collect()
    gc.freeze()
    watch.lap("ring")
    engine.run_for(steady_s)
    steady = watch.lap("steady")
    found = look_up(world, lookups, LOOKUPS_PER_S) if lookups else None
    if found is not None:
        watch.lap("lookups")
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    wall_s = sum(phase.wall_s for phase in watch.phases if phase.events)
    return Speed(
        nodes=nodes,
        seed=seed,
        plain=plain,
        constructed=constructed,
        phases=tuple(watch.phases),
        events_per_s=engine.events / wall_s,
        steady_simulated_per_real=steady.simulated_s / steady.wall_s,
        bytes_per_node=bytes_per_node,
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // MIB,
        peers_per_node=statistics.mean(len(node.parts.sessions.peers) for node in world.nodes),
        lookups=lookups,
        lookups_failed=0 if found is None else found.failed,
        hops=None if found is None or not found.hops else statistics.mean(found.hops),
        trace_hash=engine.trace_hash,
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
