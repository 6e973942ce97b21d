"""† Figures of the ring and the VPN in simulated worlds: the numbers that release notes quote.

    python -m sims.figures lookups --nodes 1000 --matrix FILE     hops, failures and time of lookups; time to join
    python -m sims.figures idle --nodes 100 --matrix FILE         what an idle node sends and receives
    python -m sims.figures cold --nodes 100 --matrix FILE         first packet to first reply, nothing cached
    python -m sims.figures vivaldi --nodes 490 --matrix FILE      how well coordinates predict round trips
    python -m sims.figures proxies --nodes 490 --matrix FILE      how near the chosen proxy is, of pairs without a path
    python -m sims.figures routability --nodes 200 --seeds 3      who reaches whom where 30 or 40 % of links are broken
    python -m sims.figures subring --nodes 500 --groups 20        how long groups of 8 take to form, and to grow by one
    python -m sims.figures groups --nodes 60 --groups 100         what a node pays that is in 100 groups
    python -m sims.figures broadcast --nodes 1000                 everybody told, against unicast; 10 Mbit/s uplinks
    python -m sims.figures broadcast --nodes 300 --churn FILE     the same while phones come and go, for an hour
    python -m sims.figures crawl --nodes 1000                     the ring seen by tree, by walk, and with 5 % stalled

FILE is a matrix of round trips in ms, whitespace-separated text, perhaps gzipped; without one all pairs are 100 ms
apart. Product nodes with real cryptography; one seed gives one run.
"""

from __future__ import annotations

import argparse
import statistics
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network
from random import Random

from dht.host import Endpoint
from dht.identity import Identity
from dht.ids import RING
from dht.ids import nearest as nearest_of
from dht.messages import Find, Found, Message
from dht.node import Node
from dht.storage import MemoryStorage
from dht.suite import NOISE, Suite
from ipop.authority import create_authority
from ipop.config import VpnConfig
from ipop.ethernet import PROTOCOL_ICMP, ipv4_packet, wrap
from ipop.neighbor import mac_for
from ipop.node import VpnNode, build_node
from ipop.tap import MemoryTap
from sims.churn import load_trace, replay
from sims.coordinates import JOIN_SAMPLES, ROUNDS, accuracy
from sims.engine import START, Engine
from sims.everybody import broadcasts, crawls, under_churn
from sims.groups import cost_text, formation, formation_text, idle_cost
from sims.latency import Constant, Latency, Matrix
from sims.network import Network
from sims.plain import PLAIN
from sims.proxies import SYMMETRIC, proxied, summary
from sims.routability import measure
from sims.world import World

GAP_S = 0.1  # between two nodes that start while a world grows
LOOKUPS = 2000
JOINS = 40
HOUR_S = 3600.0
PHONES_SKIP_S = 6 * HOUR_S  # of a phone's trace: it may begin up because somebody had just installed the recorder
BROADCASTS = 10
BROKEN = (0.3, 0.4)  # of links, where routability is measured


def members(count: int, seed: int, suite: Suite = NOISE) -> list[Identity]:
    """Identities of one network, the same for the same seed."""
    rng = Random(seed)
    authority = create_authority("figures", IPv4Network("10.64.0.0/12"), START, rng)
    return [authority.issue(f"n{number}", None, START, rng).identity(START, suite) for number in range(count)]


def latency_from(path: str | None) -> Latency:
    return Constant(100.0) if path is None else Matrix.load(path)


def grown_world(nodes: int, spare: int, latency: Latency, seed: int) -> World:
    """A whole ring of `nodes`, each started through a random earlier one, and `spare` more identities."""
    engine = Engine(seed)
    world = World(engine, Network(engine, latency), members(nodes + spare, seed))
    grow(world, nodes)
    return world


def grow(world: World, nodes: int) -> None:
    """Start `nodes` nodes in an empty world, each through a random earlier one, and run until the ring is whole."""
    engine = world.engine
    world.start(0, ())
    for number in range(1, nodes):
        world.start(number, (engine.rng.randrange(0, number),))
        engine.run_for(GAP_S)
    engine.run_until(world.whole, limit_s=300)


@dataclass(frozen=True, slots=True)
class Lookups:
    """What lookups from random nodes for random targets came to. `failed`: no answer, or from another than the
    nearest node."""

    hops: tuple[int, ...]
    took_ms: tuple[float, ...]
    failed: int


def look_up(world: World, count: int = LOOKUPS, per_s: float = 100.0) -> Lookups:
    """Run `count` lookups, `per_s` a second."""
    hops: list[int] = []
    took_ms: list[float] = []
    failed = 0
    engine = world.engine
    ids = sorted(node.id for node in world.nodes)

    def ask(node: Node, target: int) -> None:
        began = engine.now
        place = bisect(ids, target)
        (nearest,) = nearest_of(target, (ids[place - 1], ids[place % len(ids)]), 1)

        def done(answer: Message | None) -> None:
            nonlocal failed
            if isinstance(answer, Found) and answer.contacts[0].id == nearest:
                hops.append(answer.hops)
                took_ms.append((engine.now - began) * 1000.0)
            else:
                failed += 1

        node.find(Find(target), done)

    for _ in range(count):
        ask(engine.rng.choice(world.nodes), engine.rng.randrange(0, RING))
        engine.run_for(1.0 / per_s)
    engine.run_for(10)
    return Lookups(tuple(hops), tuple(took_ms), failed + count - len(hops) - failed)


def _is_in(node: Node) -> bool:
    return node.member and node.described


def join_times(world: World, first: int, count: int = JOINS) -> list[float]:
    """Seconds until each of `count` more nodes, one after another, is routable and a majority holds its descriptor."""
    times = []
    for number in range(first, first + count):
        began = world.engine.now
        node = world.start(number, (world.engine.rng.randrange(0, first),))
        world.engine.run_until(partial(_is_in, node), limit_s=60, check_every_s=0.02)
        times.append(world.engine.now - began)
    return times


class VpnWorld:
    """Whole VPN nodes with TAPs in memory, all started through the first."""

    def __init__(self, nodes: int, latency: Latency, seed: int) -> None:
        self.engine = Engine(seed)
        self.network = Network(self.engine, latency)
        self.nodes: list[VpnNode] = []
        self.taps: list[MemoryTap] = []
        bootstraps: Sequence[Endpoint] = ()
        for identity in members(nodes, seed):
            host, tap = self.network.host(), MemoryTap()
            node = build_node(host, tap, VpnConfig(identity, MemoryStorage()))
            node.start(bootstraps)
            bootstraps = bootstraps or (host.endpoint,)
            self.nodes.append(node)
            self.taps.append(tap)
            self.engine.run_for(GAP_S)
        self.engine.run_until(lambda: all(node.is_ready() for node in self.nodes), limit_s=60)

    def idle_bytes_per_s(self, settle_s: float, measure_s: float) -> tuple[float, float]:
        """What a node sends and receives on average, IP and UDP headers included."""
        self.engine.run_for(settle_s)
        hosts = self.network.hosts()
        sent, received = sum(host.sent_bytes for host in hosts), sum(host.received_bytes for host in hosts)
        self.engine.run_for(measure_s)
        share = measure_s * len(hosts)
        return (
            (sum(host.sent_bytes for host in hosts) - sent) / share,
            (sum(host.received_bytes for host in hosts) - received) / share,
        )

    def first_reply_ms(self, source: int, target: int) -> tuple[float, bool]:
        """From the first packet between two nodes to the first reply, and whether they had an edge before."""
        sender, receiver = self.nodes[source], self.nodes[target]
        had_edge = sender.peer(receiver.member.id) is not None
        self._send(source, target)
        began = self.engine.now
        self.taps[source].written.clear()
        self.taps[target].written.clear()
        self.engine.run_until(lambda: self._got(target), limit_s=20, check_every_s=0.001)
        self._send(target, source)
        self.engine.run_until(lambda: self._got(source), limit_s=20, check_every_s=0.001)
        return (self.engine.now - began) * 1000.0, had_edge

    def _got(self, number: int) -> bool:
        """Whether a host got anything but its node's questions about groups."""
        return any(not frame[0] & 1 for frame in self.taps[number].written)

    def _send(self, source: int, target: int) -> None:
        ours, theirs = self.nodes[source].member.address4.packed, self.nodes[target].member.address4.packed
        packet = ipv4_packet(b"\x08\x00\xf7\xff\x00\x00\x00\x00", PROTOCOL_ICMP, ours, theirs)
        self.taps[source].inject(wrap(packet, mac_for(theirs), mac_for(ours)))


def routability(nodes: int, latency: Latency, seed: int, broken: float) -> str:
    """What became of one ring with broken links, in a line."""
    found = measure(members(nodes, seed), latency, seed, broken)
    whole = "never whole" if found.whole_s is None else f"whole {found.whole_s:.0f} s after the last start"
    load = max(found.circuits) / max(1e-9, statistics.mean(found.circuits))
    return (
        f"{broken:.0%} of links broken, seed {seed}: {found.walked:.2%} of pairs reach each other, "
        f"{found.pinged:.2%} of pings answered; hops {statistics.mean(found.hops):.2f}, "
        f"ping {quantiles(found.rtt_ms)} ms; join {quantiles(found.join_s)} s; {whole}; "
        f"{found.tunnels} of {found.edges} edges are tunnels; circuits a node: "
        f"mean {statistics.mean(found.circuits):.1f}, most {max(found.circuits)} ({load:.1f} times the mean)"
    )


def quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    p90, p99 = ordered[int(len(ordered) * 0.9)], ordered[int(len(ordered) * 0.99)]
    return f"median {statistics.median(ordered):.2f}, p90 {p90:.2f}, p99 {p99:.2f}, max {ordered[-1]:.2f}"


@dataclass(frozen=True)
class Asked:
    """What the command line asks of a figure."""

    nodes: int
    latency: Latency
    seed: int
    seeds: int
    groups: int
    churn: str | None


def show_lookups(asked: Asked) -> None:
    world = grown_world(asked.nodes, JOINS, asked.latency, asked.seed)
    world.engine.run_for(30)
    lookups = look_up(world)
    print(f"hops: mean {statistics.mean(lookups.hops):.2f}, {quantiles(lookups.hops)}; failed {lookups.failed}")
    print(f"ms a lookup: {quantiles(lookups.took_ms)}")
    print(f"s to join, descriptor stored: {quantiles(join_times(world, asked.nodes))}")


def show_idle(asked: Asked) -> None:
    vpn = VpnWorld(asked.nodes, asked.latency, asked.seed)
    sent, received = vpn.idle_bytes_per_s(settle_s=600.0, measure_s=2400.0)
    print(f"idle, over 40 min after 10 min: {sent:.0f} B/s sent, {received:.0f} B/s received a node")


def show_cold(asked: Asked) -> None:
    vpn = VpnWorld(asked.nodes, asked.latency, asked.seed)
    vpn.engine.run_for(60)
    with_edge: list[float] = []
    without: list[float] = []
    for _ in range(60):
        source, target = vpn.engine.rng.sample(range(asked.nodes), 2)
        took_ms, had_edge = vpn.first_reply_ms(source, target)
        (with_edge if had_edge else without).append(took_ms)
    print(f"ms from first packet to first reply, {len(without)} pairs without an edge: {quantiles(without)}")
    if with_edge:
        print(f"{len(with_edge)} pairs with an edge: {quantiles(with_edge)}")


def show_vivaldi(asked: Asked) -> None:
    found = accuracy(asked.nodes, asked.latency, asked.seed)
    told, stable, joiners = ([100 * error for error in errors] for errors in (found.told, found.stable, found.joiners))
    print(f"relative error of all pairs after {ROUNDS} rounds, %: {quantiles(told)}")
    print(f"from stable coordinates, %: {quantiles(stable)}")
    print(f"a joiner's median error after {JOIN_SAMPLES} samples, %: {quantiles(joiners)}")


def show_proxies(asked: Asked) -> None:
    print(f"{SYMMETRIC:.0%} of nodes symmetric; ms over the proxy first asked, chosen, best, direct; ratios:")
    for name, value in summary(proxied(asked.nodes, asked.latency, asked.seed)).items():
        print(f"{name}: {value:.3f}")


def show_routability(asked: Asked) -> None:
    for broken in BROKEN:
        for seed in range(asked.seed, asked.seed + asked.seeds):
            print(routability(asked.nodes, asked.latency, seed, broken), flush=True)


def show_broadcast(asked: Asked) -> None:
    """Without cryptography: only counts and delays are looked at."""
    nodes, latency, seed = asked.nodes, asked.latency, asked.seed
    identities = members(nodes, seed, PLAIN)
    if asked.churn is not None:
        changes = list(replay(load_trace(asked.churn), nodes, HOUR_S, Random(seed), skip_s=PHONES_SKIP_S))
        came = under_churn(identities, latency, seed, changes, duration_s=HOUR_S)
        print(f"{came.broadcasts} broadcasts among {came.up:.0f} of {nodes} phones, {len(changes)} comings and goings")
        print(f"of {came.due} to those that were up throughout, frames {came.frames / came.due:.3%} arrived,")
        print(f"notices {came.notices / came.due:.3%}; heard twice: {came.repeated}")
        return
    for spread in broadcasts(identities, nodes, latency, seed, BROADCASTS):
        print(
            f"{spread.copies} copies, {'each member once' if spread.once else 'NOT each member once'}, "
            f"{spread.depth} hops deep; {spread.took_s:.3f} s, unicast {spread.unicast_s:.3f} s: "
            f"{spread.took_s / spread.unicast_s:.2f}"
        )


def show_crawl(asked: Asked) -> None:
    """Without cryptography, likewise."""
    found = crawls(members(asked.nodes, asked.seed, PLAIN), asked.nodes, asked.latency, asked.seed)
    assert found.walk is not None
    share = found.tree.took_s / found.walk.took_s
    print(f"tree: {len(found.tree.nodes)} nodes in {found.tree.took_s:.2f} s, {found.tree.consistency:.4f} consistent")
    print(f"walk: {len(found.walk.nodes)} nodes in {found.walk.took_s:.1f} s; the tree takes {share:.4f} of that")
    named = "exactly those named as missing" if found.named else f"{len(found.stalled.missing)} named as missing"
    print(f"{found.frozen} stalled: {len(found.stalled.nodes)} in {found.stalled.took_s:.2f} s of 10, {named}")


def _settled_world(asked: Asked) -> World:
    world = grown_world(asked.nodes, 0, asked.latency, asked.seed)
    world.engine.run_for(60)
    return world


def show_subring(asked: Asked) -> None:
    print(*formation_text(formation(_settled_world(asked), asked.groups)), sep="\n")


def show_groups(asked: Asked) -> None:
    print(*cost_text(idle_cost(_settled_world(asked), asked.groups, settle_s=1200.0, measure_s=1200.0)), sep="\n")


FIGURES: dict[str, Callable[[Asked], None]] = {
    "lookups": show_lookups,
    "idle": show_idle,
    "cold": show_cold,
    "vivaldi": show_vivaldi,
    "proxies": show_proxies,
    "routability": show_routability,
    "broadcast": show_broadcast,
    "crawl": show_crawl,
    "subring": show_subring,
    "groups": show_groups,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sims.figures", description="Figures from simulated worlds.")
    parser.add_argument("figure", choices=tuple(FIGURES))
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--matrix", metavar="FILE", help="round trips in ms")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3, help="of routability: how many, from --seed on")
    parser.add_argument("--groups", type=int, default=20, help="of subring and groups: how many")
    parser.add_argument("--churn", metavar="FILE", help="of broadcast: a trace of phones")
    given = parser.parse_args()
    latency = latency_from(given.matrix)
    print(f"{given.nodes} nodes, seed {given.seed}, {given.matrix or 'all pairs 100 ms apart'}")
    FIGURES[given.figure](Asked(given.nodes, latency, given.seed, given.seeds, given.groups, given.churn))


if __name__ == "__main__":
    main()
