"""† How good the proxies are that nodes choose: the product's own choice among what nodes of a ring know.

Every node has its edges in a ring and its coordinate; symmetric ones have none among themselves, and every other pair
can connect. For pairs of symmetric nodes, the relays known are those that `shortcuts.proxies` knows: the peer's direct
edges, nearest first, and our own. KEPT of them are asked for a tunnel, one after another, and the fastest as measured
is the proxy. No node, no datagram; a round trip is the model's, without jitter.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from random import Random

from shortcuts.messages import MAX_NEARBY
from shortcuts.proxies import KEPT
from shortcuts.proxy_choice import Option, leg_ms, pick, predicted_ms
from sims.coordinates import Space
from sims.latency import Latency

PAIRS = 2000
ROUNDS = 12
SYMMETRIC = 0.3


@dataclass(frozen=True, slots=True)
class Proxied:
    """One pair's round trips in ms: over the ring, over the first relay asked, over the fastest of those asked, over
    the best that there is, and direct, which it can't have."""

    overlay_ms: float
    first_ms: float
    chosen_ms: float
    best_ms: float
    direct_ms: float


def proxied(
    nodes: int, latency: Latency, seed: int, *, symmetric: float = SYMMETRIC, pairs: int = PAIRS, rounds: int = ROUNDS
) -> list[Proxied]:
    """What becomes of `pairs` pairs among `nodes` nodes, of which this share is behind symmetric NATs."""
    space = Space(nodes, latency, seed)
    space.run(rounds)
    rng = Random(seed)
    stuck = sorted(rng.sample(range(nodes), round(nodes * symmetric)))
    ring = _Ring(space, set(stuck))
    return [ring.proxied(rng, *rng.sample(stuck, 2)) for _ in range(pairs)]


def summary(found: list[Proxied]) -> dict[str, float]:
    """The medians, and their ratios, by name."""
    medians = {
        name: statistics.median(getattr(each, f"{name}_ms") for each in found)
        for name in ("overlay", "first", "chosen", "best", "direct")
    }
    return medians | {
        "overlay/direct": medians["overlay"] / medians["direct"],
        "first/best": medians["first"] / medians["best"],
        "chosen/best": medians["chosen"] / medians["best"],
        "chosen/direct": medians["chosen"] / medians["direct"],
        "median of chosen/best": statistics.median(each.chosen_ms / each.best_ms for each in found),
        "median of chosen/direct": statistics.median(each.chosen_ms / each.direct_ms for each in found),
    }


class _Ring:
    """Who has an edge to whom, and what can be known from there."""

    def __init__(self, space: Space, stuck: set[int]) -> None:
        self._space = space
        self._stable = [machine.stable for machine in space.nodes]
        self._relays = [node for node in range(len(space.nodes)) if node not in stuck]
        self._edges = [[end for end in ends if end not in stuck] for ends in space.edges]

    def proxied(self, rng: Random, one: int, other: int) -> Proxied:
        rtt_ms = self._space.rtt_ms
        left = {option.relay: option for option in self._options(one, other)}
        asked: list[float] = []
        while left and len(asked) < KEPT:
            option = pick(rng, left.values(), at_once=not asked)
            assert option is not None
            del left[option.relay]
            asked.append(rtt_ms[one][option.relay] + rtt_ms[option.relay][other])
        best_ms = min(rtt_ms[one][relay] + rtt_ms[relay][other] for relay in self._relays)
        overlay_ms = self._one_way_ms(one, other) + self._one_way_ms(other, one)
        return Proxied(overlay_ms, asked[0], min(asked), best_ms, rtt_ms[one][other])

    def _one_way_ms(self, source: int, target: int) -> float:
        """Along the ring, as `dht.router` goes: to the edge that leads nearest, by places on it."""
        place, count = self._space.place, len(self._space.nodes)

        def away(node: int) -> tuple[int, int]:
            clockwise = (place[target] - place[node]) % count
            return min(clockwise, count - clockwise), node

        at, passed_ms = source, 0.0
        while at != target:
            hop = min(self._space.edges[at], key=away)
            passed_ms += self._space.rtt_ms[at][hop] / 2
            at = hop
        return passed_ms

    def _options(self, one: int, other: int) -> list[Option]:
        rtt_ms, stable = self._space.rtt_ms, self._stable
        ours = set(self._edges[one])
        options = []
        for relay in sorted(self._edges[other], key=rtt_ms[other].__getitem__)[:MAX_NEARBY]:
            near_ms = leg_ms(rtt_ms[one][relay] if relay in ours else None, stable[one], stable[relay])
            total_ms = predicted_ms(near_ms, rtt_ms[other][relay])
            options.append(Option(relay, total_ms, relay in ours, relay in ours))
        named = {option.relay for option in options}
        for relay in ours - named:
            far_ms = leg_ms(None, stable[relay], stable[other])
            options.append(Option(relay, predicted_ms(rtt_ms[one][relay], far_ms), False, True))
        return options
