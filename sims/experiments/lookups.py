"""Workloads that look things up: routed questions for random places, and readings of records.

Rows. "find": `outcome` (right: the live node nearest to the target answered; wrong: another did; none), `ok`, `hops`,
`took_ms`, `direct_ms` (the model's round trip between the two, without jitter), `timeouts` (how often the question had
to be repeated: after `dht.requests.TIMEOUTS_S`). "finds": at the end, `around`: a question, how many times a node gave
it, or its answer, to one that it then found silent and went around. "get": `found`, `robust`, `took_ms`, `points` (that
answered). "put": `stored` (replica points), `ok`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from dht.ids import RING, closer
from dht.messages import Find, Found, Message
from dht.node import GetResult, Node, PutResult
from dht.requests import TIMEOUTS_S
from sims.attack import HostileRouter
from sims.scenario.options import option
from sims.scenario.parts import Rows, Run, Texts
from sims.world import World

MAX_QUESTIONS = 1_000_000  # of one workload: all are scheduled when it starts
RECORD_LIFETIME_S = 3 * 3600.0
_AROUND = "envelope_sent_around"
_REPEATED_AFTER_S = tuple(accumulate(TIMEOUTS_S))


def honest(node: Node) -> bool:
    """Whether a node is what the product makes of it."""
    return not isinstance(node.parts.demux.router, HostileRouter)


def nearest(nodes: list[Node], target: int) -> int:
    """The id of the member nearest to `target`."""
    best = nodes[0].id
    for node in nodes:
        if closer(target, node.id, best):
            best = node.id
    return best


def direct_ms(world: World, one: int, other: int) -> float:
    """The model's round trip between two nodes that are up, by id."""
    a, b = world.hosts[one].place, world.hosts[other].place
    return 1000.0 * (world.network.latency.one_way_s(a, b) + world.network.latency.one_way_s(b, a))


@dataclass(frozen=True, kw_only=True)
class Finds:
    """Random honest members ask who is nearest to random places on the ring."""

    ROWS: ClassVar[Rows] = {"find": ("outcome", "ok", "hops", "took_ms", "direct_ms", "timeouts"), "finds": ("around",)}

    TEXTS: ClassVar[Texts] = (("find", "outcome"),)

    count: int = option(1000, "questions in all", at_least=1, at_most=MAX_QUESTIONS)
    rate_per_s: float = option(100.0, "questions a second", above=0.0)

    @property
    def asks_for_s(self) -> float:
        return (self.count - 1) / self.rate_per_s

    def start(self, run: Run) -> None:
        before = {node.id: node.counters[_AROUND] for node in run.world.nodes}

        def count() -> None:
            times = sum(node.counters[_AROUND] - before.get(node.id, 0) for node in run.world.nodes)
            run.record.row("finds", around=times / self.count)

        for number in range(self.count):
            run.later(number / self.rate_per_s, lambda: self._ask(run))
        run.at_end(count)

    def _ask(self, run: Run) -> None:
        world = run.world
        members = [node for node in world.nodes if node.member and honest(node)]
        if not members:
            return
        node, target = run.rng.choice(members), run.rng.randrange(0, RING)
        began = world.engine.now
        wanted = nearest(members, target)
        pending = [True]

        def done(answer: Message | None) -> None:
            pending.clear()
            took_s = world.engine.now - began
            timeouts = sum(took_s > after for after in _REPEATED_AFTER_S)
            found = answer.contacts[0].id if isinstance(answer, Found) and answer.contacts else None
            outcome = "none" if found is None else "right" if found == wanted else "wrong"
            direct = None if found is None or found not in world.hosts else direct_ms(world, node.id, found)
            if node.id not in world.hosts:
                return  # Who asked is gone: nobody was kept waiting.
            run.record.row(
                "find",
                at=began,
                outcome=outcome,
                ok=outcome == "right",
                hops=answer.hops if isinstance(answer, Found) else None,
                took_ms=1000.0 * took_s,
                direct_ms=direct,
                timeouts=timeouts,
            )

        node.find(Find(target), done)

        def unanswered() -> None:
            if pending and node.id in world.hosts:
                nothing = dict.fromkeys(("hops", "took_ms", "direct_ms", "timeouts"))
                run.record.row("find", at=began, outcome="none", ok=False, **nothing)

        run.at_end(unanswered)


@dataclass(frozen=True, kw_only=True)
class Records:
    """Random honest members publish one record each and keep it renewed; others read them, from `read_after_s` on."""

    ROWS: ClassVar[Rows] = {"put": ("stored", "ok"), "get": ("found", "robust", "took_ms", "points")}

    records: int = option(100, "records in all; at most one name each", at_least=1, at_most=MAX_QUESTIONS)
    reads: int = option(1000, "readings in all", at_least=1, at_most=MAX_QUESTIONS)
    rate_per_s: float = option(50.0, "readings a second", above=0.0)
    read_after_s: float = option(20.0, "when reading begins", at_least=0.0)
    robust: bool = option(False, "points that show nothing are asked again through deputies")
    first: bool = option(False, "a reading is over with the first valid record")

    @property
    def asks_for_s(self) -> float:
        return self.read_after_s + (self.reads - 1) / self.rate_per_s

    def start(self, run: Run) -> None:
        owners: list[Node] = []
        members = [node for node in run.world.nodes if node.member and honest(node)]
        for number in range(self.records):
            owners.append(run.rng.choice(members))
            self._put(run, owners[-1], number)
        for number in range(self.reads):
            run.later(self.read_after_s + number / self.rate_per_s, lambda: self._get(run, owners))

    def _name(self, run: Run, number: int) -> str:
        return f"{run.name} {number}"

    def _put(self, run: Run, owner: Node, number: int) -> None:
        began = run.world.engine.now

        def done(result: PutResult) -> None:
            run.record.row("put", at=began, stored=result.stored, ok=result.ok)

        owner.put(self._name(run, number), b"value", RECORD_LIFETIME_S, done)

    def _get(self, run: Run, owners: list[Node]) -> None:
        world = run.world
        living = [number for number, owner in enumerate(owners) if owner.id in world.hosts and honest(owner)]
        askers = [node for node in world.nodes if node.member and honest(node)]
        if not living or not askers:
            return
        name = self._name(run, run.rng.choice(living))
        began = world.engine.now
        asker = run.rng.choice(askers)
        waiting = [asker]
        asker.get(name, self._read(run, began, waiting), first=self.first, robust=self.robust)

        def unanswered() -> None:
            if waiting and asker.id in world.hosts:
                run.record.row("get", at=began, found=False, robust=self.robust, took_ms=None, points=0)

        run.at_end(unanswered)

    def _read(self, run: Run, began: float, waiting: list[Node]) -> Callable[[GetResult], None]:
        def done(result: GetResult) -> None:
            asker = waiting.pop()
            if asker.id in run.world.hosts:
                took_ms = 1000.0 * (run.world.engine.now - began)
                run.record.row(
                    "get",
                    at=began,
                    found=bool(result.records),
                    robust=self.robust,
                    took_ms=took_ms,
                    points=result.answered,
                )

        return done
