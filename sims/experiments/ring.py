"""Probes of the ring's shape, and of how long it takes to take shape; a workload of newcomers.

Rows. "shape": `members`, `consistency` ((left1 + left2) / 2N: the share of first and second predecessors that are
right), `whole` (the share of members whose ten entries are all right), `cycle` (immediate neighbours form one cycle),
and Zave's invariants: `cut_off` (members without a live successor in their lists), `principals` (members that no list
skips; more than NEAR are needed). "joined": `took_s` until a node has its place, `described_s` until a majority holds
its descriptor too. "whole": `after_s`, from the last start to a ring whose every list is right. "record": `holders`,
the live nodes that hold one published name, and `points`, those replica points whose nearest node does. "newcomer": as
"joined", of nodes that a workload started.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from dht.ids import key_of
from dht.node import Node
from dht.records import replica_points
from dht.ring import NEAR
from sims.experiments.lookups import Records, nearest
from sims.scenario.options import option
from sims.scenario.parts import Rows, Run, Texts
from sims.scenario.probes import LEAST_LOOK_S
from sims.toml_source import suggestion

if TYPE_CHECKING:
    from sims.scenario.plan import Scenario


def consistency(members: Sequence[Node]) -> float:
    """(left1 + left2) / 2N over members in the order of their ids: the index that Brunet's authors use."""
    ordered = sorted(members, key=lambda node: node.id)
    wanted = min(2, len(ordered) - 1)
    if wanted <= 0:
        return 1.0
    right = 0
    for place, node in enumerate(ordered):
        predecessors = node.ring_view().predecessors
        for step in range(1, wanted + 1):
            if len(predecessors) >= step and predecessors[step - 1] == ordered[place - step].id:
                right += 1
    return right / (wanted * len(ordered))


def invariants(successors: Mapping[int, Sequence[int]]) -> tuple[int, int]:
    """Of every member's successor list: how many have no live member in theirs, and how many members are principal,
    skipped by nobody's list (Zave, TSE 2017)."""
    ordered = sorted(successors)
    count = len(ordered)
    skipped = [0] * (count + 1)  # +1 where a run of skipped members begins, -1 behind its end
    cut_off = 0
    for place, member in enumerate(ordered):
        entries = successors[member]
        cut_off += not any(entry in successors for entry in entries)
        reached = 0  # members passed, going round from this one
        for entry in entries:
            # A dead entry skips whoever lies before it just as well.
            behind = bisect_left(ordered, entry) % count
            steps = (behind - place) % count or count
            alive = ordered[behind] == entry
            _mark(skipped, place, reached + 1, steps)
            reached = steps if alive else steps - 1
    running, principals = 0, 0
    for change in skipped[:count]:
        running += change
        principals += running == 0
    return cut_off, principals


def _mark(skipped: list[int], place: int, first: int, end: int) -> None:
    """Members `first` to `end` - 1 steps behind `place`, round the ring, are skipped."""
    count = len(skipped) - 1
    if end <= first:
        return
    start, stop = (place + first) % count, (place + end - 1) % count + 1
    skipped[start] += 1
    skipped[stop] -= 1
    if stop <= start:  # goes past the end
        skipped[count] -= 1
        skipped[0] += 1


@dataclass(frozen=True, kw_only=True)
class Ring:
    """How right the near lists are, against who is really there."""

    ROWS: ClassVar[Rows] = {
        "shape": ("up", "members", "consistency", "whole", "cycle", "cut_off", "principals", "enough_principals")
    }

    def watch(self, run: Run) -> Callable[[], None]:
        def observe() -> None:
            world = run.world
            members = [node for node in world.nodes if node.member]
            wrong = {text.split()[-1] for text in world.faults(members)}
            cut_off, principals = invariants({node.id: node.ring_view().successors for node in members})
            run.record.row(
                "shape",
                up=len(world.nodes),
                members=len(members),
                consistency=consistency(members) if members else None,
                whole=1.0 - len(wrong) / len(members) if members else None,
                cycle=world.successor_cycle(members) if members else None,
                cut_off=cut_off,
                principals=principals,
                enough_principals=principals > NEAR or len(members) <= NEAR,
            )

        return observe


@dataclass(frozen=True, kw_only=True)
class Joins:
    """How long every start takes, whenever it happens, and when the ring is whole after the last one."""

    ROWS: ClassVar[Rows] = {"joined": ("took_s", "described_s"), "whole": ("after_s", "nodes")}

    look_every_s: float = option(0.05, "how finely times are told", at_least=LEAST_LOOK_S)
    give_up_after_s: float = option(
        600.0, "a node that isn't described by then, or by the end, is noted without", above=0.0
    )

    def watch(self, run: Run) -> Callable[[], None]:
        engine = run.world.engine
        began: dict[Node, float] = {}  # those on their way
        joined: dict[Node, float] = {}
        seen: WeakSet[Node] = WeakSet()
        last = [engine.now, False]  # when a node was last seen to start, and whether the ring was whole since

        def look() -> None:
            world = run.world
            for node in world.nodes:
                if node not in seen:
                    seen.add(node)
                    began[node] = engine.now
                    last[:] = [engine.now, False]
            for node, at in list(began.items()):
                waited = engine.now - at
                if node.member and node not in joined:
                    joined[node] = waited
                gone = node not in world.nodes
                if gone or (node in joined and node.described) or waited > self.give_up_after_s:
                    del began[node]
                    took_s = joined.pop(node, None)
                    if not gone:
                        described_s = waited if node.described else None
                        run.record.row("joined", at=at, took_s=took_s, described_s=described_s)
            everybody_in = len(joined) == len(began)  # a place is all that it takes: not a descriptor in the DHT
            if not last[1] and everybody_in and len(world.nodes) >= min(2, run.nodes) and world.whole():
                last[1] = True
                run.record.row("whole", after_s=engine.now - last[0], nodes=len(world.nodes))
            engine.call_later(self.look_every_s, look)

        def finish() -> None:
            for node, at in began.items():
                run.record.row("joined", at=at, took_s=joined.get(node), described_s=None)

        run.at_end(finish)
        look()
        return lambda: None


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """Who holds the records of a workload of kind `records`, by that workload's name."""

    ROWS: ClassVar[Rows] = {"record": ("name", "holders", "points")}
    TEXTS: ClassVar[Texts] = (("record", "name"),)

    of: str = option(meaning="the name of the workload whose records are counted")
    records: int = option(100, "how many it published", at_least=1)

    def unfit(self, scenario: Scenario) -> tuple[str, str] | None:
        """Whether there is such a workload, and publishes so many."""
        published = {each.name: each.part.records for each in scenario.workloads if isinstance(each.part, Records)}
        if self.of not in published:
            return "of", f"no workload of kind 'records' is called '{self.of}'{suggestion(self.of, list(published))}"
        if self.records > published[self.of]:
            return "records", f"'{self.of}' publishes {published[self.of]}"
        return None

    def watch(self, run: Run) -> Callable[[], None]:
        def observe() -> None:
            now = run.world.engine.now
            nodes = {node.id: node for node in run.world.nodes}
            members = [node for node in run.world.nodes if node.member]
            if not members:
                return
            for number in range(self.records):
                name = f"{self.of} {number}"
                key = key_of(name)
                holders = {node.id for node in nodes.values() if node.parts.replicas.store.find(key, now)}
                points = sum(nearest(members, point) in holders for point in replica_points(key))
                run.record.row("record", name=name, holders=len(holders), points=points)

        return observe


@dataclass(frozen=True, kw_only=True)
class Newcomers:
    """Nodes that are down start one after another, into a ring that is whole."""

    ROWS: ClassVar[Rows] = {"newcomer": ("took_s", "described_s")}

    every_s: float = option(2.0, "between two starts", above=0.0)
    look_every_s: float = option(0.02, "how finely times are told", at_least=LEAST_LOOK_S)
    give_up_after_s: float = option(120.0, "who is not in the ring by then failed", above=0.0)

    def start(self, run: Run) -> None:
        for place, number in enumerate(run.population.down()):
            if place * self.every_s < run.duration_s:
                run.later(place * self.every_s, partial(self._start, run, number))

    def _start(self, run: Run, number: int) -> None:
        began = run.world.engine.now
        node = run.population.start(number)
        joined: list[float] = []

        def look() -> None:
            waited = run.world.engine.now - began
            if node.member and not joined:
                joined.append(waited)
            if (joined and node.described) or waited > self.give_up_after_s:
                took_s, described_s = joined[0] if joined else None, waited if node.described else None
                run.record.row("newcomer", at=began, took_s=took_s, described_s=described_s)
            else:
                run.later(self.look_every_s, look)

        look()
