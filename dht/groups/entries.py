"""How members of a group find each other: entries in the DHT, each its owner's own.

The members nearest to four equally spaced points of the group's ring publish themselves under one name, so that there
are several entry points, and another as soon as one is gone. A node without a place looks the entries up at once, and
more and more slowly while it finds nobody new; so do the publishers of a ring, for ever, though seldom: this is how
rings that were apart meet. An entry carries its owner's newest notice, so that a member that was away while the rights
were decided anew hears of it before it judges anybody by the old ones. Links to whom it finds; keeps nobody's place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from dht.contact import Contact
from dht.errors import BadDatagram
from dht.groups.right import Right
from dht.host import Host, Timer
from dht.ids import closer, key_of
from dht.records import Record, replica_points
from dht.replicas import GetResult
from dht.ring import NearLists

ENTRY_LIFETIME_S = 1800.0
LOOK_S = (0.5, 480.0)  # between two looks, longer and longer from the first to the second
LOOK_GROWTH = 1.4
SETTLE_S = 0.1  # changes of the ring that come together change what is published once


class Directory(Protocol):
    """The DHT: `dht.replicas.Replicas`."""

    def put(self, name: str, value: bytes, lifetime_s: float) -> None:
        """Publish and keep renewed. Raises ValueError when this node publishes too much already."""

    def withdraw(self, name: str, left: bytes = b"") -> None:
        """Let it expire within seconds; `left` takes its value's place until then."""

    def lapse(self, name: str) -> None:
        """Stop renewing it."""

    def get(self, name: str, done: Callable[[GetResult], None]) -> None: ...


class Entries:
    """The entries of one group. `joined()`: whether this node has its place on the group's ring; `notice()`: the newest
    that this node knows, packed; `heed(notice)` takes another's; `found(contacts)` is told after every look, of members
    other than this node."""

    def __init__(
        self,
        host: Host,
        right: Right,
        lists: NearLists,
        directory: Directory,
        own_contact: Callable[[], Contact],
        joined: Callable[[], bool],
        notice: Callable[[], bytes],
        heed: Callable[[bytes], None],
        found: Callable[[list[Contact]], None],
        counters: Counter[str],
    ) -> None:
        self._host, self._right, self._lists, self._directory = host, right, lists, directory
        self._own_contact, self._joined, self._found, self._counters = own_contact, joined, found, counters
        self._notice, self._heed = notice, heed
        self._published: tuple[Contact, bytes] | None = None
        self._wait_s = LOOK_S[0]
        self._look_timer: Timer | None = None
        self._publish_timer: Timer | None = None
        self._running = False

    @property
    def published(self) -> bool:
        """Whether this node is one of the group's entry points."""
        return self._published is not None

    def start(self) -> None:
        """Look at once."""
        self._running = True
        self._look()

    def stop(self) -> None:
        """Cancel every timer; what is published runs out."""
        self._running = False
        for timer in (self._look_timer, self._publish_timer):
            if timer is not None:
                timer.cancel()
        self._look_timer = self._publish_timer = None

    def use(self, right: Right) -> None:
        """Find others by another right from now on. To be called while stopped."""
        self.withdraw()
        self._right = right

    def withdraw(self) -> None:
        """This node is no entry point any more."""
        if self._published is not None:
            self._published = None
            self._directory.withdraw(self._right.entry_name, self._right.no_entry(self._lists.me))

    def hurry(self) -> None:
        """Members were lost, or there may be others now: look soon."""
        if self._running and self._wait_s > LOOK_S[0]:
            self._wait_s = LOOK_S[0]
            self._look_later()

    def changed(self) -> None:
        """The group's ring changed around this node, or where this node is."""
        if self._running and self._publish_timer is None:
            self._publish_timer = self._host.call_later(SETTLE_S, self._settle)

    def _settle(self) -> None:
        self._publish_timer = None
        if not self._joined() or not self._is_an_entry_point():
            # Who finds the group through what is still out there finds a member.
            if self._published is not None:
                self._published = None
                self._directory.lapse(self._right.entry_name)
            return
        contact, notice = self._own_contact(), self._notice()
        if (contact, notice) == self._published:
            return
        try:
            entry = self._right.entry(contact, notice, self._host.rng)
            self._directory.put(self._right.entry_name, entry, ENTRY_LIFETIME_S)
        except ValueError:
            self._counters["group_entry_not_published"] += 1  # others do; and the next change tries again
            return
        self._published = contact, notice

    def _is_an_entry_point(self) -> bool:
        me, others = self._lists.me, self._lists.members()
        points = replica_points(key_of(self._right.entry_name))
        return any(not any(closer(point, other, me) for other in others) for point in points)

    def _look(self) -> None:
        self._look_timer = None
        name = self._right.entry_name

        def done(result: GetResult) -> None:
            if not self._running or name != self._right.entry_name:
                return
            if not result.answered:  # it may be there: no reason to begin a ring of our own
                self._look_later()
                return
            for notice in {self._right.read_notice(record) for record in result.records} - {b"", self._notice()}:
                self._take(notice)
            self._meet(result.records)

        self._directory.get(name, done)

    def _meet(self, records: Sequence[Record]) -> None:
        if self._running:  # else a notice has just ended our own right
            contacts = [self._right.read_entry(record) for record in records]
            self._found([each for each in contacts if each is not None and each.id != self._lists.me])
            self._look_later()

    def _take(self, notice: bytes) -> None:
        try:
            self._heed(notice)
        except BadDatagram:
            self._counters["group_entry_bad_notice"] += 1

    def _look_later(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        wait_s = self._wait_s * self._host.rng.uniform(0.7, 1.0)
        self._wait_s = min(LOOK_GROWTH * self._wait_s, LOOK_S[1])
        self._look_timer = self._host.call_later(wait_s, self._due)

    def _due(self) -> None:
        self._look_timer = None
        self.changed()  # our own endpoints may have changed
        if self.published or not self._joined():
            self._look()
        else:
            self._look_later()
