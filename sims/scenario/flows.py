"""Flows between virtual addresses: what a call, a game or a stream would see of the network.

A flow is a train of UDP packets of one size, evenly spaced, from one TAP to another. The world sees each packet go in
and come out, so delays are one way and exact. Which path is in use is read from the sender, at every packet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from dht.host import Endpoint
from dht.node import Node
from ipop.config import TAP_MTU
from ipop.ethernet import ipv4_packet, wrap
from ipop.neighbor import mac_for
from sims.scenario.measures import quantile
from sims.scenario.options import option
from sims.scenario.parts import Rows, Run, Texts
from sims.scenario.workloads import whole_nodes_only
from sims.stack import WatchedTap

if TYPE_CHECKING:
    from sims.scenario.plan import Scenario

PROTOCOL_UDP = 17
PORT = 9  # discard
MARK_BYTES = 8  # a flow's own, then the packet's number
NUMBER_BYTES = 4
_MARK_AT = 14 + 20 + 8  # Ethernet, IPv4 and UDP headers
LEAST_PACKET_BYTES = 20 + 8 + MARK_BYTES + NUMBER_BYTES
PUBLIC = "public"
PAIR_TRIES = 100


@dataclass(eq=False)
class _Flow:
    """One flow while it lasts."""

    mark: bytes
    source: int
    target: int
    target_id: int
    began: float
    direct_ms: float  # one way, as the latency model has it
    sent_at: list[float] = field(default_factory=list)  # by the packets' numbers
    delays_ms: list[float] = field(default_factory=list)
    heard: set[int] = field(default_factory=set)
    repeated: int = 0
    path: str = "overlay"
    direct_after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Flows:
    """Random honest nodes send to each other, steadily for a while (whole VPN nodes). Rows of kind 'flow', at the time
    of its beginning: source_behind, target_behind (which NAT), sent, received, delivered (their ratio), repeated (came
    twice), first_ms, delay_ms, delay_p99_ms (one way: the first packet's, the median, 99 %), stretch (the median to
    the latency model's one way), path (direct, proxy or overlay; at the end), direct_after_s (empty when it never was).
    A flow whose sender goes down ends there."""

    ROWS: ClassVar[Rows] = {
        "flow": (
            *("source_behind", "target_behind", "sent", "received", "delivered", "repeated", "first_ms", "delay_ms"),
            *("delay_p99_ms", "stretch", "path", "direct_after_s"),
        )
    }
    TEXTS: ClassVar[Texts] = (("flow", "source_behind"), ("flow", "target_behind"), ("flow", "path"))

    count: int = option(20, "flows in all", at_least=1, at_most=1_000_000)
    rate_per_s: float = option(1.0, "flows that begin a second, evenly spaced", above=0.0)
    lasts_s: float = option(10.0, "how long each lasts", above=0.0)
    packets_per_s: float = option(20.0, "packets a second of each", above=0.0, at_most=100_000.0)
    packet_bytes: int = option(
        200, "length of each packet, IP and UDP headers included", at_least=LEAST_PACKET_BYTES, at_most=TAP_MTU
    )
    strangers: bool = option(False, "between nodes without a path of their own yet, as long as such are found")
    wait_s: float = option(2.0, "how long packets are waited for after the last", at_least=0.0)

    @property
    def asks_for_s(self) -> float:
        return (self.count - 1) / self.rate_per_s + self.lasts_s

    def unfit(self, scenario: Scenario) -> tuple[str, str] | None:
        """It needs TAPs."""
        return whole_nodes_only(scenario)

    def start(self, run: Run) -> None:
        going: dict[bytes, _Flow] = {}
        watched: WeakSet[WatchedTap] = WeakSet()

        def come(frame: bytes) -> None:
            flow = going.get(frame[_MARK_AT : _MARK_AT + MARK_BYTES])
            if flow is not None:
                self._heard(flow, frame, run.world.engine.now)

        def watch(tap: WatchedTap) -> None:
            if tap not in watched:
                watched.add(tap)
                tap.watchers.append(come)

        def end(flow: _Flow) -> None:
            if going.pop(flow.mark, None) is not None:
                self._record(run, flow)

        def end_all() -> None:
            for flow in list(going.values()):
                end(flow)

        def begin() -> None:
            honest = run.population.honest()
            if len(honest) < 2:
                return
            source, target = self._pair(run, honest)
            ids = [run.population.node(number).id for number in (source, target)]
            here, there = (run.world.hosts[node_id].place for node_id in ids)
            direct_ms = 1000.0 * run.world.network.latency.one_way_s(here, there)
            flow = _Flow(run.rng.randbytes(MARK_BYTES), source, target, ids[1], run.world.engine.now, direct_ms)
            going[flow.mark] = flow
            destination = run.vpn(target).member.address4.packed
            self._send(run, flow, destination, watch, end)

        for number in range(self.count):
            run.later(number / self.rate_per_s, begin)
        run.at_end(end_all)

    def _pair(self, run: Run, honest: Sequence[int]) -> tuple[int, int]:
        """Whose flow is the next."""
        for _ in range(PAIR_TRIES):
            source, target = run.rng.sample(honest, 2)
            if (
                not self.strangers
                or path_in_use(run.population.node(source), run.population.node(target).id) == "overlay"
            ):
                break
        return source, target

    def _send(
        self,
        run: Run,
        flow: _Flow,
        destination: bytes,
        watch: Callable[[WatchedTap], None],
        end: Callable[[_Flow], None],
    ) -> None:
        """The next packet, and the one after it."""
        engine = run.world.engine
        if len(flow.sent_at) >= max(1, round(self.lasts_s * self.packets_per_s)) or not run.population.is_up(
            flow.source
        ):
            run.later(self.wait_s, partial(end, flow))
            return
        if run.population.is_up(flow.target):
            watch(run.tap(flow.target))  # a new one, if it was restarted
        sender = run.vpn(flow.source)
        number = len(flow.sent_at)
        flow.sent_at.append(engine.now)
        payload = (flow.mark + number.to_bytes(NUMBER_BYTES, "big")).ljust(self.packet_bytes - 28, b"\0")
        # Without a checksum, as IPv4 allows (RFC 768).
        header = PORT.to_bytes(2, "big") * 2 + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
        ours = sender.member.address4.packed
        packet = ipv4_packet(header + payload, PROTOCOL_UDP, ours, destination)
        run.tap(flow.source).inject(wrap(packet, mac_for(destination), mac_for(ours)))
        flow.path = path_in_use(sender.ring, flow.target_id)
        if flow.path == "direct" and flow.direct_after_s is None:
            flow.direct_after_s = engine.now - flow.began
        run.later(1.0 / self.packets_per_s, partial(self._send, run, flow, destination, watch, end))

    def _heard(self, flow: _Flow, frame: bytes, now: float) -> None:
        number = int.from_bytes(frame[_MARK_AT + MARK_BYTES : _MARK_AT + MARK_BYTES + NUMBER_BYTES], "big")
        if number in flow.heard:
            flow.repeated += 1
            return
        flow.heard.add(number)
        flow.delays_ms.append(1000.0 * (now - flow.sent_at[number]))

    def _record(self, run: Run, flow: _Flow) -> None:
        sent, received, delays = len(flow.sent_at), len(flow.heard), flow.delays_ms
        median_ms = quantile(delays, 0.5) if delays else None
        behind = run.population.behind
        run.record.row(
            "flow",
            at=flow.began,
            source_behind=behind[flow.source] or PUBLIC,
            target_behind=behind[flow.target] or PUBLIC,
            sent=sent,
            received=received,
            delivered=received / sent,
            repeated=flow.repeated,
            first_ms=delays[0] if delays else None,
            delay_ms=median_ms,
            delay_p99_ms=quantile(delays, 0.99) if delays else None,
            stretch=median_ms / flow.direct_ms if median_ms is not None and flow.direct_ms else None,
            path=flow.path,
            direct_after_s=flow.direct_after_s,
        )


def path_in_use(node: Node, peer_id: int) -> str:
    """By which kind of path a node sends to another: "direct", "proxy" or "overlay"."""
    peer = node.parts.sessions.peers.get(peer_id)
    if peer is None or peer.path is None:
        return "overlay"
    return "direct" if isinstance(peer.path, Endpoint) else "proxy"
