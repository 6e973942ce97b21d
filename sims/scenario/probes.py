"""What is seen from above: the ring's shape and invariants, traffic, message counts, arrivals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from dht.ring import NEAR
from sims.scenario.options import option
from sims.scenario.parts import Rows, Run, Texts
from sims.world import RingInvariants

LEAST_LOOK_S = 1e-3  # between two looks at every node


@dataclass(frozen=True, kw_only=True)
class RingProbe:
    """How whole the ring is. Rows of kind 'ring': nodes, members, wrong (near lists that are not exactly what they
    should be, of two a node), whole, unstable (members whose nearest successor or predecessor is wrong, each counted),
    and inconsistency: unstable / (2 members)."""

    ROWS: ClassVar[Rows] = {"ring": ("nodes", "members", "wrong", "whole", "unstable", "inconsistency")}

    def watch(self, run: Run) -> Callable[[], None]:
        def observe() -> None:
            world = run.world
            wrong = len(world.faults(world.nodes))
            members = sorted((node for node in world.nodes if node.member), key=lambda node: node.id)
            unstable = 0
            if len(members) > 1:
                for node, following in zip(members, members[1:] + members[:1], strict=True):
                    unstable += node.ring_view().successors[:1] != (following.id,)
                    unstable += following.ring_view().predecessors[:1] != (node.id,)
            run.record.row(
                "ring",
                nodes=len(world.nodes),
                members=len(members),
                wrong=wrong,
                whole=wrong == 0,
                unstable=unstable,
                inconsistency=unstable / (2 * len(members)) if members else 0.0,
            )

        return observe


@dataclass(frozen=True, kw_only=True)
class InvariantProbe:
    """Zave's invariants after every event in which a near list changed; a run that breaks one fails, and names its
    seed. One row of kind 'invariants' at each observation: checks so far. Costs much where there are many nodes."""

    ROWS: ClassVar[Rows] = {"invariants": ("checks",)}

    principals: int = option(NEAR, "more members than this must be skipped by no list", at_least=1)

    def watch(self, run: Run) -> Callable[[], None]:
        invariants = RingInvariants(run.world, self.principals)
        run.world.engine.after_event.append(invariants)
        return lambda: run.record.row("invariants", checks=invariants.checks)


@dataclass(frozen=True, kw_only=True)
class TrafficProbe:
    """What nodes send and receive, IP and UDP headers included. Rows of kind 'traffic', over the time since the
    observation before (or the start): nodes, sent_bytes_per_s and received_bytes_per_s (a node), datagrams_per_s."""

    ROWS: ClassVar[Rows] = {"traffic": ("nodes", "sent_bytes_per_s", "received_bytes_per_s", "datagrams_per_s")}

    def watch(self, run: Run) -> Callable[[], None]:
        last_s = run.world.engine.now
        before: dict[int, tuple[int, int, int]] = {}

        def observe() -> None:
            nonlocal last_s
            engine, hosts = run.world.engine, run.world.network.hosts()
            elapsed_s = engine.now - last_s
            sent = received = datagrams = 0
            for host in hosts:
                counted = host.sent_bytes, host.received_bytes, host.sent_datagrams
                earlier = before.get(host.index, (0, 0, 0))
                before[host.index] = counted
                sent += counted[0] - earlier[0]
                received += counted[1] - earlier[1]
                datagrams += counted[2] - earlier[2]
            last_s = engine.now
            if elapsed_s > 0 and hosts:
                spent = elapsed_s * len(hosts)
                run.record.row(
                    "traffic",
                    nodes=len(hosts),
                    sent_bytes_per_s=sent / spent,
                    received_bytes_per_s=received / spent,
                    datagrams_per_s=datagrams / spent,
                )

        return observe


@dataclass(frozen=True, kw_only=True)
class CounterProbe:
    """What the nodes that are up have counted. One row of kind 'counter' for each name, with its sum; and of kind
    'network' for each thing that became of datagrams that did not simply arrive."""

    ROWS: ClassVar[Rows] = {"counter": ("name", "total"), "network": ("name", "total")}
    TEXTS: ClassVar[Texts] = (("counter", "name"), ("network", "name"))

    def watch(self, run: Run) -> Callable[[], None]:
        def observe() -> None:
            total: Counter[str] = Counter()
            for node in run.world.nodes:
                total.update(node.counters)
            for name in sorted(total):
                run.record.row("counter", name=name, total=total[name])
            for name, value in sorted(run.world.network.counters.items()):
                run.record.row("network", name=name, total=value)

        return observe


@dataclass(frozen=True, kw_only=True)
class JoinProbe:
    """How long each start takes. Rows of kind 'join', at the time of the start: number, ok; took_s, from the start to
    the node's place on the ring; described_s, until a majority of its replica points held its descriptor. Not ok,
    without times: that had not come when the node went down or the run ended."""

    ROWS: ClassVar[Rows] = {"join": ("number", "ok", "took_s", "described_s")}

    resolution_s: float = option(0.05, "how often it is looked", at_least=LEAST_LOOK_S)

    def watch(self, run: Run) -> Callable[[], None]:
        engine = run.world.engine
        began: dict[int, float] = {}
        joined: dict[int, float] = {}

        def started(number: int) -> None:
            given_up(number)
            began[number] = engine.now

        def given_up(number: int) -> None:
            if number in began:
                joined.pop(number, None)
                run.record.row("join", at=began.pop(number), number=number, ok=False)

        def look() -> None:
            for number in list(began):
                if not run.population.is_up(number):
                    given_up(number)
                    continue
                node = run.population.node(number)
                if node.member and number not in joined:
                    joined[number] = engine.now - began[number]
                if number in joined and node.described:
                    since = began.pop(number)
                    took_s, described_s = joined.pop(number), engine.now - since
                    run.record.row("join", at=since, number=number, ok=True, took_s=took_s, described_s=described_s)
            engine.post(self.resolution_s, look)

        def end() -> None:
            for number in list(began):
                given_up(number)

        run.population.on_start.append(started)
        run.at_end(end)
        look()
        return lambda: None
