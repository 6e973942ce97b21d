"""Near lists against brute force: one node's against a plain model, and a whole ring's against Zave's rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dht.ids import RING
from dht.ring import NearLists
from tests.fuzzing import fuzzed, stateful_settings

FEW = 24  # places on the ring in these tests, so that they meet often
PLACES = [place * (RING // FEW) for place in range(FEW)]
places = st.sampled_from(PLACES)


def forth(start: int, end: int) -> int:
    return (end - start) % RING


def back(start: int, end: int) -> int:
    return (start - end) % RING


class PlainLists:
    """The rules as they are written, with sorting instead of cleverness."""

    def __init__(self, me: int, length: int) -> None:
        self.me, self.length = me, length
        self.rows: dict[str, list[int]] = {"successors": [], "predecessors": []}

    def away(self, side: str, node_id: int) -> int:
        return forth(self.me, node_id) if side == "successors" else back(self.me, node_id)

    def insert(self, node_id: int) -> bool:
        """Between two entries or before the first; behind the last only in a ring of one."""
        alone = not any(self.rows.values())
        before = {side: list(row) for side, row in self.rows.items()}
        for side, row in self.rows.items():
            wanted = sorted({*row, node_id}, key=lambda each: self.away(side, each))
            if node_id != self.me and (alone or wanted[-1] != node_id):
                self.rows[side] = wanted[: self.length]
        return self.rows != before

    def follow(self, side: str, tail: Sequence[int]) -> bool:
        """The neighbour's list behind it, up to where it no longer leads away from us."""
        row = self.rows[side]
        if not row:
            return False
        followed = [row[0]]
        for node_id in tail:
            if self.away(side, node_id) <= self.away(side, followed[-1]):
                break
            followed.append(node_id)
        self.rows[side] = followed[: self.length]
        return self.rows[side] != row

    def remove(self, node_id: int) -> bool:
        before = {side: list(row) for side, row in self.rows.items()}
        self.rows = {side: [each for each in row if each != node_id] for side, row in self.rows.items()}
        return self.rows != before


class OneNodesLists(RuleBasedStateMachine):
    """Whatever happens to one node's lists, in whatever order: as the plain model has it."""

    @initialize(me=places, length=st.integers(1, 5))
    def begin(self, me: int, length: int) -> None:
        self.lists, self.plain = NearLists(me, length), PlainLists(me, length)
        self.version = self.lists.version

    def both(self, changed: bool, expected: bool) -> None:
        assert changed is expected
        assert (self.lists.version > self.version) is expected
        self.version = self.lists.version

    @rule(node_id=places)
    def insert(self, node_id: int) -> None:
        takes = self.lists.takes(node_id)
        changed = self.lists.insert(node_id)
        assert takes is changed
        self.both(changed, self.plain.insert(node_id))

    @rule(tail=st.lists(places, max_size=7))
    def follow_successor(self, tail: list[int]) -> None:
        self.both(self.lists.follow_successor(tail), self.plain.follow("successors", tail))

    @rule(tail=st.lists(places, max_size=7))
    def follow_predecessor(self, tail: list[int]) -> None:
        self.both(self.lists.follow_predecessor(tail), self.plain.follow("predecessors", tail))

    @rule(node_id=places)
    def remove(self, node_id: int) -> None:
        self.both(self.lists.remove(node_id), self.plain.remove(node_id))

    @invariant()
    def they_are_the_same_and_in_order(self) -> None:
        lists, me = self.lists, self.lists.me
        assert {"successors": lists.successors, "predecessors": lists.predecessors} == self.plain.rows
        for row, away in ((lists.successors, forth), (lists.predecessors, back)):
            distances = [away(me, node_id) for node_id in row]
            assert distances == sorted(set(distances)) and 0 not in distances
            assert len(row) <= lists.length
        assert lists.members() == list(dict.fromkeys(lists.successors + lists.predecessors))
        assert all(node_id in lists for node_id in lists.members()) and me not in lists
        assert set(lists.adjacent()) == {*lists.successors[:1], *lists.predecessors[:1]}
        assert lists.alone is (not lists.members())


OneNodesLists.TestCase.settings = stateful_settings()
TestOneNodesLists = OneNodesLists.TestCase


def true_lists(me: int, ring: Iterable[int], length: int) -> tuple[list[int], list[int]]:
    others = sorted((node_id for node_id in ring if node_id != me), key=lambda node_id: forth(me, node_id))
    return others[:length], others[::-1][:length]


class RingThatGrowsAndShrinks(RuleBasedStateMachine):
    """Zave's setting: as many base members as a list is long, and one more, never fail; all others come and go, and
    what each step reads of another node may be long out of date in every other respect. Steps are atomic, as hers."""

    LENGTH = 3

    @initialize(base=st.lists(places, min_size=LENGTH + 1, max_size=LENGTH + 1, unique=True))
    def begin(self, base: list[int]) -> None:
        self.base = set(base)
        self.nodes: dict[int, NearLists] = {}
        for me in base:
            self.nodes[me] = NearLists(me, self.LENGTH)
            self.nodes[me].join(*true_lists(me, base, self.LENGTH))

    def live(self, row: Iterable[int]) -> list[int]:
        return [node_id for node_id in row if node_id in self.nodes]

    @rule(me=places, data=st.data())
    def join(self, me: int, data: st.DataObject) -> None:
        """As `dht.joining` does: on and on, until the successor knows nobody who is nearer."""
        if me in self.nodes:
            return
        successor = data.draw(st.sampled_from(sorted(self.nodes)))
        while True:
            view = self.nodes[successor]
            known = [each for each in self.live(view.successors + view.predecessors) if each != me]
            nearest = min(known, key=lambda each: forth(me, each), default=successor)
            if forth(me, nearest) >= forth(me, successor):
                break
            successor = nearest
        lists = NearLists(me, self.LENGTH)
        # Whoever stands between it and the successor was dialled, and found dead.
        predecessors = [each for each in view.predecessors if forth(me, each) > forth(me, successor)]
        lists.join([successor, *view.successors], predecessors)
        self.nodes[me] = lists

    @rule(data=st.data())
    def meet(self, data: st.DataObject) -> None:
        """Two live nodes have an edge, for whatever reason: Chord's notify, and more."""
        one, other = data.draw(st.tuples(*[st.sampled_from(sorted(self.nodes))] * 2))
        self.nodes[one].insert(other)
        self.nodes[other].insert(one)

    @rule(data=st.data(), side=st.sampled_from(["successors", "predecessors"]))
    def stabilize(self, data: st.DataObject, side: str) -> None:
        self.stabilize_at(data.draw(st.sampled_from(sorted(self.nodes))), side)

    def stabilize_at(self, me: int, side: str) -> None:
        lists = self.nodes[me]
        row: list[int] = getattr(lists, side)
        while row[0] not in self.nodes:
            lists.remove(row[0])
            row = getattr(lists, side)
        neighbor = self.nodes[row[0]]
        if side == "successors":
            lists.follow_successor(neighbor.successors)
        else:
            lists.follow_predecessor(neighbor.predecessors)
        for each in self.live(neighbor.members()):
            lists.insert(each)
        neighbor.insert(me)

    @rule(data=st.data())
    def notice_deaths(self, data: st.DataObject) -> None:
        lists = self.nodes[data.draw(st.sampled_from(sorted(self.nodes)))]
        for node_id in lists.members():
            if node_id not in self.nodes:
                lists.remove(node_id)

    @precondition(lambda self: len(self.nodes) > len(self.base))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """Zave's one assumption about failures is that they leave every member a live successor. As joining reads
        predecessors too, here they must leave one of those as well."""
        dying = data.draw(st.sampled_from(sorted(set(self.nodes) - self.base)))
        for me, lists in self.nodes.items():
            for row in (lists.successors, lists.predecessors):
                if me != dying and not [each for each in self.live(row) if each != dying]:
                    return
        del self.nodes[dying]

    @invariant()
    def every_member_has_a_live_successor_and_predecessor(self) -> None:
        for me, lists in self.nodes.items():
            for row in (lists.successors, lists.predecessors):
                assert self.live(row), f"{PLACES.index(me)} has none"

    @invariant()
    def no_list_skips_a_base_member(self) -> None:
        for me, lists in self.nodes.items():
            for row, away in ((lists.successors, forth), (lists.predecessors, back)):
                passed_over = [each for each in self.base if 0 < away(me, each) < away(me, row[-1]) and each not in row]
                assert not passed_over, f"{PLACES.index(me)} skips {[PLACES.index(each) for each in passed_over]}"

    def teardown(self) -> None:
        """Left alone, the ring becomes the one that it should be."""
        if not hasattr(self, "nodes"):
            return
        for me in list(self.nodes):
            for dead in [each for each in self.nodes[me].members() if each not in self.nodes]:
                self.nodes[me].remove(dead)
        for _ in range(3 * len(self.nodes)):
            for me in list(self.nodes):
                for side in ("successors", "predecessors"):
                    self.stabilize_at(me, side)
        for me, lists in self.nodes.items():
            assert (lists.successors, lists.predecessors) == true_lists(me, self.nodes, self.LENGTH)


RingThatGrowsAndShrinks.TestCase.settings = stateful_settings(steps=60)
TestRingThatGrowsAndShrinks = RingThatGrowsAndShrinks.TestCase


@given(nodes=st.integers(1, FEW), me=places, length=st.integers(1, 5))
@fuzzed()
def test_the_size_of_the_ring_is_known_while_the_lists_overlap_and_guessed_beyond(
    nodes: int, me: int, length: int
) -> None:
    ring = [(me + node * (RING // nodes)) % RING for node in range(nodes)]
    lists = NearLists(me, length)
    lists.join(*true_lists(me, ring, length))
    # Evenly spread as it is here, the guess is right too.
    assert lists.size_estimate() == nodes
