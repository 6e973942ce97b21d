"""How a node comes to its place on the ring, and how it gives it up.

    OUTSIDE -> (an edge to a member) -> JOINING: who is near my id? link to the successor, take over its list
            -> MEMBER | nobody answers: start again with another member
    OUTSIDE -> (no member found for ALONE_AFTER_S) -> MEMBER of a ring of one, which merges with any ring it meets
    MEMBER -> (a ring of one met another; a side of the lists is lost) -> OUTSIDE

One try is `dht.joining`'s; this decides when and through whom. Never changes a list: `dht.near` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum, auto

from dht.alarm import Alarm
from dht.edge import Edge, Links
from dht.host import Host
from dht.joining import Ask, Join
from dht.messages import Neighbors

ALONE_AFTER_S = 3.0


class Place(Enum):
    """Where a node stands towards the ring."""

    OUTSIDE = auto()
    JOINING = auto()
    MEMBER = auto()


class Entrance:
    """That of one node. `members()` are the edges to members; `enter(successor, its lists)` and `found_nobody()` make
    the lists, and then call `become(Place.MEMBER)`; `moved(place, was_member)` is told after every change of place."""

    def __init__(
        self,
        host: Host,
        me: int,
        links: Links,
        ask: Ask,
        members: Callable[[], list[Edge]],
        enter: Callable[[Edge, Neighbors], None],
        found_nobody: Callable[[], None],
        moved: Callable[[Place, bool], None],
        counters: Counter[str],
    ) -> None:
        self._host, self._me, self._links, self._ask, self._counters = host, me, links, ask, counters
        self._members, self._enter, self._found_nobody, self._moved = members, enter, found_nobody, moved
        self.place = Place.OUTSIDE
        self.running = False
        self._join: Join | None = None
        self._alone = Alarm(host, self._settle_alone)
        self._again = Alarm(host, self.retry)

    def start(self, *, alone: bool) -> None:
        """Begin outside the ring, or (`alone`) as the first member of a new one."""
        self.running = True
        if alone:
            self.become(Place.MEMBER)
        else:
            self._alone.set(ALONE_AFTER_S)

    def stop(self) -> None:
        self.running = False
        self._alone.cancel()
        self._again.cancel()

    def become(self, place: Place) -> None:
        """Stand there from now on; a try that is under way is given up."""
        if self._join is not None and place is not Place.JOINING:
            self._join.abandon()
            self._join = None
        if place is not self.place:
            was_member = self.place is Place.MEMBER
            self.place = place
            self._moved(place, was_member)

    def begin_anew(self) -> None:
        """Nothing is known of the ring any more: wait for an edge to a member, or settle alone."""
        self.become(Place.OUTSIDE)
        self._alone.set(ALONE_AFTER_S)

    def join_through(self, peer: Edge) -> None:
        """Try to come in through a member."""
        if not self.running:
            return
        self.become(Place.JOINING)
        self._alone.set(4 * ALONE_AFTER_S)
        self._join = Join(self._me, self._links, self._ask, self._enter, self._join_failed)
        self._join.begin(peer)

    def change_over(self, peer: Edge) -> None:
        """Give the place up, for one that is sought through `peer`."""
        self.become(Place.OUTSIDE)
        self.join_through(peer)

    def no_member(self, peer: Edge) -> None:
        """`peer` says that it is no member: what was asked of it may have no answer."""
        if self._join is not None:
            self._join.no_member(peer)

    def retry(self) -> None:
        """Outside: try to come in through any member that is known."""
        if self.place is not Place.OUTSIDE:
            return
        members = self._members()
        if members:
            self.join_through(self._host.rng.choice(members))

    def alone_soon(self) -> None:
        """All that we know may have given themselves up for each other: one must be the first to begin anew."""
        self._alone.set(self._host.rng.uniform(0.2, 1.0) * ALONE_AFTER_S)

    def _join_failed(self) -> None:
        self._counters["join_failed"] += 1
        self.become(Place.OUTSIDE)
        self._again.set(self._host.rng.uniform(0.5, 1.0))
        if not self._members():
            self.alone_soon()

    def _settle_alone(self) -> None:
        """Nobody to join: a ring of one, which others can join and which merges with any ring it meets."""
        if self.place is Place.MEMBER:
            return
        if self._members():
            self.become(Place.OUTSIDE)
            self.retry()
            self._alone.set(4 * ALONE_AFTER_S)
            return
        self._found_nobody()
