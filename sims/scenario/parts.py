"""What the parts of a scenario are, and what a part is given. This preface is the contract for whoever writes one.

**A part is a frozen dataclass whose fields are its options** (`sims.scenario.options`: `option(default, meaning,
at_least=...)`), plus one method. It keeps no state of its own: one object serves many runs. State lives in what the
method makes. `sims.scenario.catalogue` holds the tables of names, which is the one place to add a part; a scenario may
also name a class of the reader's own, `kind = "package.module:Class"`: an installed module, or one beside the scenario
or in the working directory. Its checksum is kept with the results; on a cluster, workers must be able to import it.

| part     | table in the scenario            | method                                                        |
|----------|----------------------------------|---------------------------------------------------------------|
| Workload | `[[workload]]` kind, name, at_s  | `start(run)`: schedule lookups, pings, flows; record answers  |
| Probe    | `[[probe]]` kind, name, every_s  | `watch(run) -> observe`: seen from above, records rows        |
| Fault    | `[[fault]]` kind, name, at_s     | `strike(run)`: at one instant                                 |
| Arrival  | `[arrival]` kind                 | `arrive(run)`: start the first nodes, let the ring settle     |
| Churn    | `[churn]` kind                   | `transitions(nodes, duration_s, rng)` -> (time_s, number, up) |
| Attack   | `[attack]` kind, fraction        | `alter(node, rng)`: a member turns hostile, before it starts  |
| Link     | `[network.latency]` kind         | `model(nodes, rng) -> Latency`                                |

A part that can't do with every scenario has a method `unfit(scenario) -> (key, what is wrong) | None`: its own key, or
a place in the whole document, such as ("stack", "kind"). A part with a `file` has a method `trial(nodes)`: it reads it
and raises ValueError for one that it can't use with so many nodes. A workload that asks for some time says how long
(`asks_for_s`), so that none is cut off unseen. All of these are asked before anything runs.

**Time.** A run has two phases. *Arrival*: `arrive` starts nodes and returns when measuring may begin; that instant is
`t_s` = 0, and what happened before has negative times. *Measuring* lasts `duration_s`: churn runs, workloads start at
their `at_s`, faults strike at theirs, probes observe every `every_s` (0: once, at the end). Then `drain_s` pass for the
answers that are still on their way, then what parts gave to `run.at_end` is called, then probes with `every_s` = 0
observe. `Probe.watch` is called before the first node starts, so that it can see arrivals or hook
`world.engine.after_event` for what must hold after every event.

**Rows.** `run.record.row(kind, **values)` writes one raw row of JSON scalars (str, int, float, bool, None). Added to
each: `kind`, `seed`, `point` (which of the swept settings), the swept values themselves, and `t_s`. A workload that
records when the answer comes passes the world's time of the question: `row("lookup", at=began, ...)`. Measures and
plots are computed from rows and from nothing else. A part says which rows it records, and their values, in a class
variable `ROWS`: a measure of others is refused before anything runs. A part without it may record anything. `TEXTS`
names those values that are texts, (row's kind, value's name): no mean can be taken of them.

**Randomness.** `run.rng` belongs to the part alone: adding a part changes no other's draws. Never use another source.
A part must not depend on the order of sets, on hashes of texts or on the real clock.

**Nodes.** `run.population` knows them by number, 0 to `nodes` - 1, whether they are up or not; `run.world` holds those
that are up. With `[stack] kind = "vpn"` every node is a whole VPN node: `run.vpn(number)` and `run.tap(number)`.
A part never takes a node's word for what the world can see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from dht.host import Rng
from dht.node import Node
from dht.router import Policy
from ipop.node import VpnNode
from sims.latency import Latency
from sims.scenario.population import Population
from sims.stack import WatchedTap
from sims.world import World

Scalar = str | int | float | bool | None
Rows = Mapping[str, tuple[str, ...]]  # the values of a row, by its kind
Texts = tuple[tuple[str, str], ...]  # of these, which are texts: the row's kind, the value's name

# A routing policy of a researcher's own, for the node of an id: `[stack] routing = "package.module:function"`.
PolicyFor = Callable[[int], Policy]


class Recorder(Protocol):
    """Takes raw rows. Nothing is read back from it during a run."""

    def row(self, kind: str, /, *, at: float | None = None, **values: Scalar) -> None:
        """One raw row; see the preface for what is added. `at`: `engine.now` of what it is about, if not of now."""


class Run(Protocol):
    """What a part is given: its world, and its own random numbers. One object a part and run."""

    @property
    def world(self) -> World: ...

    @property
    def population(self) -> Population: ...

    @property
    def record(self) -> Recorder: ...

    @property
    def rng(self) -> Rng: ...

    @property
    def name(self) -> str:
        """The part's name in its scenario: its kind, where it has none of its own."""

    @property
    def nodes(self) -> int:
        """How many nodes the scenario has, up or not."""

    @property
    def duration_s(self) -> float:
        """How long measuring lasts."""

    @property
    def t_s(self) -> float:
        """Seconds since measuring began. Raises ValueError during arrival, when nobody knows yet."""

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Act in `delay_s` seconds, whoever is up then."""

    def every(self, interval_s: float, action: Callable[[], None]) -> None:
        """Act every `interval_s` from now on, until measuring ends."""

    def at_end(self, action: Callable[[], None]) -> None:
        """Act when measuring and draining are over: the place to record what never had an answer."""

    def vpn(self, number: int) -> VpnNode:
        """The whole VPN node with this number. Raises ValueError where the stack is the ring alone."""

    def tap(self, number: int) -> WatchedTap:
        """Its TAP. Raises ValueError likewise."""


@runtime_checkable
class Workload(Protocol):
    """Something that the nodes are used for."""

    def start(self, run: Run) -> None:
        """Schedule everything to come and return; must not run the engine."""


@runtime_checkable
class Probe(Protocol):
    """An omniscient observer: reads the nodes' state, changes nothing, sends nothing, draws no world's randomness."""

    def watch(self, run: Run) -> Callable[[], None]:
        """Begin, before the first node starts; what it returns is called at every observation."""


@runtime_checkable
class Fault(Protocol):
    """Something that befalls the world at one instant."""

    def strike(self, run: Run) -> None:
        """Do it, now; what follows later is scheduled."""


@runtime_checkable
class Arrival(Protocol):
    """How the nodes of the beginning come."""

    def arrive(self, run: Run) -> None:
        """Start those of `population.first` and run the engine until measuring may begin. May raise
        `sims.engine.NeverHappened`."""


@runtime_checkable
class Churn(Protocol):
    """When nodes come and go while measuring."""

    def transitions(self, nodes: int, duration_s: float, rng: Rng) -> Iterator[tuple[float, int, bool]]:
        """(seconds since measuring began, node number, whether it comes up), in the order of time. Who comes up at 0 is
        up when measuring begins, and these come first; everybody else is down then."""


@runtime_checkable
class Attack(Protocol):
    """What hostile members do. Which members are: a `fraction`, drawn by the framework from all but node 0."""

    def alter(self, node: Node, rng: Rng) -> None:
        """Turn a node that was built and not yet started."""


@runtime_checkable
class Link(Protocol):
    """Where latencies come from."""

    def model(self, nodes: int, rng: Rng) -> Latency:
        """The model of one run. `rng` is the part's own."""
