"""Hands a question on to others, and finds others for the parts of those who fail.

    part -> edges that lie in it -> child: confirmed -> ended | silent, dead, busy, without this kind
         -> its part without itself: edges that lie in it, else who is found there (`dht.seeking`)

What the first child still says after that is not heard. Holds the children of all branches; what they answer is
`dht.aggregate`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from dht.arcs import CIRCLE, PLACE_BITS, Arc, divide, place_of, without
from dht.branch import Branch, Child
from dht.branch_messages import MAX_HOPS, Ask, Asked, Missing, Reason, Verdict
from dht.edge import Edge, Links
from dht.exchange import Exchange
from dht.host import Host
from dht.messages import Message
from dht.seeking import Nobody, Search

MAX_HANDED_ON: Final = 64  # parts of one branch that were given to others
MARGIN: Final = 0.1  # of the time left, kept for the way back
LEAST_BUDGET_S: Final = 0.05
LEAST_TIMEOUT_S: Final = 0.3
LOOK_S: Final = 0.5  # how often children are looked at


class Ring(Protocol):
    """What trees need of a ring: `dht.overlay.Overlay`."""

    me: int
    exchange: Exchange
    links: Links

    @property
    def joined(self) -> bool: ...

    def edges(self) -> list[Edge]: ...

    def session(self, node_id: int) -> Edge | None: ...

    def lost(self) -> list[int]: ...


def one_place(node_id: int) -> Arc:
    """The part of the ring that only this node stands in."""
    return Arc(place_of(node_id), (place_of(node_id) + 1) % CIRCLE)


class Branching:
    """The children of this node in the trees of one ring. `settled(branch)` is told when one of them ended."""

    def __init__(
        self,
        host: Host,
        ring: Ring,
        settled: Callable[[Branch], None],
        counters: Counter[str],
        fan_out: int,
    ) -> None:
        self._host, self._ring, self.settled, self._counters = host, ring, settled, counters
        self.fan_out = fan_out
        self.by_label: dict[int, Child] = {}

    def begin(self, branch: Branch, regions: list[Arc]) -> None:
        """Hand a question on to everybody in `regions`."""
        self.hand_out(branch, regions)
        self._look_later(branch)

    def drop(self, child: Child) -> None:
        """Hear no more of a child."""
        child.branch.children.pop(child.label, None)
        self.by_label.pop(child.label, None)

    def _fit(self, branch: Branch) -> list[Edge]:
        """Whom to hand parts of this branch to."""
        edges = self._ring.edges()
        return [edge for edge in edges if edge.in_trees and not edge.suspect and edge.id not in branch.avoid]

    # How parts are given away

    def hand_out(self, branch: Branch, regions: list[Arc], *, seek: bool = False) -> None:
        """Give each part to the edges that lie in it; with `seek`, a part without any to whoever can be found there."""
        self._name_unfit(branch, regions)
        edges = [(place_of(edge.id), edge) for edge in self._fit(branch)]
        for edge, arc in divide(regions, edges, self.fan_out):
            self._give(branch, edge, arc)
        if seek:
            for region in regions:
                if not any(region.holds(place) for place, _ in edges):
                    self._seek(branch, region)

    def _name_unfit(self, branch: Branch, regions: list[Arc]) -> None:
        """Whoever of these parts is known to be no use is missing, also who was found dead while the question was on
        its way: the ring closes past the dead faster than a tree spreads around them."""
        edges = self._ring.edges()
        unfit = {edge.id: Reason.SUSPECT for edge in edges if edge.suspect}
        useless = {edge.id: Reason.UNKNOWN for edge in edges if not edge.in_trees}
        useless |= dict.fromkeys(self._ring.lost(), Reason.SUSPECT)
        for node_id, reason in (unfit | useless).items():
            if any(region.holds(place_of(node_id)) for region in regions):
                if node_id not in branch.avoid | branch.named:
                    branch.named.add(node_id)
                    branch.up.add(Missing(node_id, one_place(node_id), reason))
                if node_id in useless:
                    branch.avoid.add(node_id)

    def _give(self, branch: Branch, edge: Edge, arc: Arc) -> None:
        left_s, rtt_s = branch.deadline - self._host.now(), edge.rtt_s or 0.0
        budget_s = left_s * (1.0 - MARGIN) - rtt_s
        if budget_s < LEAST_BUDGET_S or branch.about.hops >= MAX_HOPS:
            branch.up.add(Missing(edge.id, arc, Reason.CUT))
            return
        label = self._host.rng.getrandbits(PLACE_BITS)
        child = branch.children[label] = self.by_label[label] = Child(branch, edge.id, arc, label)
        about, kind = branch.about, branch.kind.name
        ask = Ask(label, about.origin, arc, about.hops + 1, int(budget_s * 1000), kind, branch.argument)

        def answered(answer: Message | None) -> None:
            if child.label not in branch.children:
                return
            if not isinstance(answer, Asked):
                if not child.told:
                    self._give_up(child, Reason.SILENT)
                return
            match answer.verdict:
                case Verdict.TAKEN:
                    child.taken = True
                case Verdict.UNKNOWN:
                    self._give_up(child, Reason.UNKNOWN)
                case Verdict.BUSY:
                    self._give_up(child, Reason.BUSY)

        timeout_s = max(LEAST_TIMEOUT_S, 3.0 * rtt_s)
        self._counters["aggregate_asked"] += 1
        self._ring.exchange.ask(edge, ask, (Asked,), answered, (timeout_s, 1.5 * timeout_s, 2.0 * timeout_s))

    def _give_up(self, child: Child, reason: Reason) -> None:
        """A child did not do its part: others take it."""
        branch = child.branch
        self.drop(child)
        branch.avoid.add(child.id)
        self._counters["aggregate_handed_on"] += 1
        if branch.handed_on >= MAX_HANDED_ON:
            branch.up.add(Missing(child.id, child.arc, Reason.UNREACHED))
        else:
            branch.handed_on += 1
            branch.up.add(Missing(child.id, child.arc, reason))
            self.hand_out(branch, without(child.arc, place_of(child.id)), seek=True)
        self.settled(branch)

    def _seek(self, branch: Branch, region: Arc) -> None:
        """Nobody is known in a part that was to be handed on: find somebody."""
        if branch.ended:
            return
        branch.sought.append(region)

        def silent(node_id: int) -> None:
            branch.up.add(Missing(node_id, one_place(node_id), Reason.SILENT))

        def done(found: Edge | Nobody) -> None:
            branch.sought.remove(region)
            if isinstance(found, Nobody):
                if found is Nobody.UNREACHED:
                    branch.up.add(Missing(None, region, Reason.UNREACHED))
            else:
                self._give(branch, found, region)
            self.settled(branch)

        Search(
            self._host, self._ring, region, self._fit(branch), branch.avoid, lambda: branch.ended, silent, done
        ).begin()

    def _look_later(self, branch: Branch) -> None:
        branch.later("look", self._host.call_later(LOOK_S, lambda: self._look(branch)))

    def _look(self, branch: Branch) -> None:
        """Has a child died that took its part?"""
        if branch.ended:
            return
        self._look_later(branch)
        for child in list(branch.children.values()):
            edge = self._ring.session(child.id)
            if child.taken and (edge is None or edge.suspect) and child.label in branch.children:
                self._give_up(child, Reason.DIED)
