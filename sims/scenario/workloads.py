"""What nodes are used for: lookups of random keys, pings between nodes, packets between TAPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from dht.ids import RING
from dht.messages import Find, Found, Message
from dht.node import Node, PingResult
from ipop.ethernet import PROTOCOL_ICMP, ipv4_packet, wrap
from ipop.neighbor import mac_for
from sims.scenario.options import option
from sims.scenario.parts import Rows, Run, Texts

if TYPE_CHECKING:
    from sims.scenario.plan import Scenario

_ECHO_REQUEST = bytes.fromhex("0800f7ff00000000")


@dataclass(frozen=True, kw_only=True)
class Lookups:
    """Random honest nodes look random keys up. Rows of kind 'lookup': ok (answered, by the node that was nearest to the
    key when it was asked or when it answered), answered, hops, took_ms. What a node asked that is gone when the run
    ends, unanswered, leaves no row."""

    ROWS: ClassVar[Rows] = {"lookup": ("ok", "answered", "hops", "took_ms")}

    count: int = option(1000, "lookups in all", at_least=1, at_most=10_000_000)
    rate_per_s: float = option(100.0, "lookups a second, by all nodes together, evenly spaced", above=0.0)

    @property
    def asks_for_s(self) -> float:
        return (self.count - 1) / self.rate_per_s

    def start(self, run: Run) -> None:
        engine, population = run.world.engine, run.population
        waiting: dict[int, tuple[float, int]] = {}  # when, and by whom

        def ask(serial: int) -> None:
            node, began = population.node(run.rng.choice(population.honest())), engine.now
            target = run.rng.randrange(0, RING)
            nearest = population.nearest(target)
            waiting[serial] = began, node.id

            def done(answer: Message | None) -> None:
                del waiting[serial]
                if not isinstance(answer, Found):
                    run.record.row("lookup", at=began, ok=False, answered=False)
                    return
                ok = answer.contacts[0].id in (nearest, population.nearest(target))
                took_ms = (engine.now - began) * 1000.0
                run.record.row("lookup", at=began, ok=ok, answered=True, hops=answer.hops, took_ms=took_ms)

            node.find(Find(target), done)

        def unanswered() -> None:
            for began, asker in waiting.values():
                if population.is_up(population.number(asker)):
                    run.record.row("lookup", at=began, ok=False, answered=False)

        _paced(run, self.count, self.rate_per_s, ask)
        run.at_end(unanswered)


@dataclass(frozen=True, kw_only=True)
class Pings:
    """Random honest nodes ping each other over the ring or whatever path there is, as `p2pvpn ping` does. Rows of kind
    'ping': ok, path, hops, rtt_ms, direct_ms (the latency model's round trip), stretch (their ratio)."""

    ROWS: ClassVar[Rows] = {"ping": ("ok", "path", "hops", "rtt_ms", "direct_ms", "stretch")}
    TEXTS: ClassVar[Texts] = (("ping", "path"),)

    count: int = option(1000, "pings in all", at_least=1, at_most=10_000_000)
    rate_per_s: float = option(20.0, "pings a second, by all nodes together, evenly spaced", above=0.0)

    @property
    def asks_for_s(self) -> float:
        return (self.count - 1) / self.rate_per_s

    def start(self, run: Run) -> None:
        world, population = run.world, run.population

        def ask(_serial: int) -> None:
            honest = population.honest()
            if len(honest) < 2:
                return
            source, target = (population.node(number) for number in run.rng.sample(honest, 2))
            began = world.engine.now
            direct_ms = _direct_ms(run, source, target)

            def done(answer: PingResult | None) -> None:
                if answer is None:
                    run.record.row("ping", at=began, ok=False)
                    return
                run.record.row(
                    "ping",
                    at=began,
                    ok=True,
                    path=answer.path,
                    hops=answer.hops,
                    rtt_ms=answer.rtt_ms,
                    direct_ms=direct_ms,
                    stretch=answer.rtt_ms / direct_ms if direct_ms else None,
                )

            source.ping(target.id, done)

        _paced(run, self.count, self.rate_per_s, ask)


@dataclass(frozen=True, kw_only=True)
class FirstPackets:
    """A packet of one TAP for another, between random pairs (whole VPN nodes). Rows of kind 'packet': ok (it came out
    of the other TAP), took_ms, had_session (before it was sent)."""

    ROWS: ClassVar[Rows] = {"packet": ("ok", "took_ms", "had_session")}

    count: int = option(100, "packets in all", at_least=1, at_most=10_000_000)
    rate_per_s: float = option(2.0, "packets a second, by all nodes together, evenly spaced", above=0.0)
    wait_s: float = option(10.0, "how long each is waited for", above=0.0)

    def unfit(self, scenario: Scenario) -> tuple[str, str] | None:
        """It needs TAPs."""
        return whole_nodes_only(scenario)

    @property
    def asks_for_s(self) -> float:
        return (self.count - 1) / self.rate_per_s

    def start(self, run: Run) -> None:
        population, engine = run.population, run.world.engine

        def ask(_serial: int) -> None:
            numbers = population.honest()
            if len(numbers) < 2:
                return
            source, target = run.rng.sample(numbers, 2)
            sender, receiver = run.vpn(source), run.vpn(target)
            ours, theirs = sender.member.address4.packed, receiver.member.address4.packed
            # The identifier makes each packet one of its own.
            mark = run.rng.randbytes(8)
            packet = ipv4_packet(_ECHO_REQUEST + mark, PROTOCOL_ICMP, ours, theirs)
            had_session = sender.peer(receiver.member.id) is not None
            began = engine.now
            tap = run.tap(target)

            def look(deadline: float) -> None:
                if any(mark in frame for frame in tap.written):
                    took_ms = (engine.now - began) * 1000.0
                    run.record.row("packet", at=began, ok=True, took_ms=took_ms, had_session=had_session)
                elif engine.now < deadline:
                    run.later(0.001, partial(look, deadline))
                else:
                    run.record.row("packet", at=began, ok=False, had_session=had_session)

            run.tap(source).inject(wrap(packet, mac_for(theirs), mac_for(ours)))
            look(began + self.wait_s)

        _paced(run, self.count, self.rate_per_s, ask)


def whole_nodes_only(scenario: Scenario) -> tuple[str, str] | None:
    """What is wrong with a part that needs TAPs in a scenario without them, and its key."""
    if scenario.stack.kind == "vpn":
        return None
    return "kind", "this needs whole VPN nodes: write kind = 'vpn' under [stack]"


def _paced(run: Run, total: int, rate_per_s: float, ask: Callable[[int], None]) -> None:
    """Call `ask` with 0 to `total` - 1, evenly spaced; nothing while no honest node is up."""
    serials = count()

    def next_one() -> None:
        serial = next(serials)
        if run.population.honest():
            ask(serial)
        if serial + 1 < total:
            run.later(1.0 / rate_per_s, next_one)

    next_one()


def _direct_ms(run: Run, source: Node, target: Node) -> float:
    """The round trip that the latency model gives, without jitter."""
    latency, hosts = run.world.network.latency, run.world.hosts
    here, there = hosts[source.id].place, hosts[target.id].place
    return (latency.one_way_s(here, there) + latency.one_way_s(there, here)) * 1000.0
