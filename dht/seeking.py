"""Finds somebody in a part of the ring in which a node knows nobody, past members that are dead.

    the nearest known member on either side -> who are its own neighbours?
        somebody in the part -> edges to them are sought, the first one counts
        they lie on both sides of it, and nobody in it is to be tried -> it is empty
        somebody nearer to the part -> the same question to that one
    at the same time, two points of the part -> whom does the ring find there?

Near lists answer without routing, which would lead into the dead; routing leads far into a long part at once. When
nobody who is named there can be reached, the search begins anew without them. It is bounded by MAX_HELPERS and
MAX_ROUNDS. Knows nothing of what it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, Protocol

from dht.arcs import CIRCLE, PLACE_BITS, Arc, place_of
from dht.contact import Contact
from dht.edge import Edge, Links
from dht.exchange import Exchange
from dht.host import Host
from dht.ids import BITS
from dht.messages import FindFor, Found, Message

MAX_HELPERS: Final = 8  # asked for their neighbours, in one search
MAX_ROUNDS: Final = 4
MAX_TRIED: Final = 6  # of those whom answers name in the part, in one round
MAX_TRIED_AN_ANSWER: Final = 3
LEAST_TIMEOUT_S: Final = 0.5
UNKNOWN_RTT_S: Final = 0.3
TRY_S: Final = 4.0  # for an edge
ROUTED_TIMEOUT_S: Final = 2.6  # who is asked asks again after a second, past what it found silent
_SPARE_BITS: Final = BITS - PLACE_BITS


class Ring(Protocol):
    """What a search needs of a ring: `dht.overlay.Overlay`."""

    exchange: Exchange
    links: Links

    def session(self, node_id: int) -> Edge | None: ...


class Nobody(Enum):
    """How a search ends that finds nobody."""

    EMPTY = auto()  # a neighbour knows of nobody there who is not to be avoided
    UNREACHED = auto()  # nobody could say


def _before(region: Arc, place: int) -> int:
    return (region.low - place) % CIRCLE


def _behind(region: Arc, place: int) -> int:
    return (place - region.high) % CIRCLE


class _Side:
    """The way to a part from one side: how far the nearest member is that has answered."""

    def __init__(self, distance: Callable[[Arc, int], int]) -> None:
        self.distance = distance
        self.reached = CIRCLE


class Search:
    """One search. `helpers`: edges to begin with; `avoid`: who must not be tried or asked. `silent(node id)` is told of
    each member of the part that could not be reached, and is in `avoid` from then on. `done(edge or Nobody)` is called
    once, unless `over()` holds before."""

    def __init__(
        self,
        host: Host,
        ring: Ring,
        region: Arc,
        helpers: Sequence[Edge],
        avoid: set[int],
        over: Callable[[], bool],
        silent: Callable[[int], None],
        done: Callable[[Edge | Nobody], None],
    ) -> None:
        self._host, self._ring, self._region, self._avoid = host, ring, region, avoid
        self._over, self._silent, self._done = over, silent, done
        self._known = {edge.id: edge.contact() for edge in helpers}
        self._asked: set[int] = set()
        self._rounds = 0
        self._tried: set[int] = set()  # to whom edges were sought
        self._ways = 0  # that may still lead to somebody
        self._ended = self._empty = False
        self._sides = (_Side(_before), _Side(_behind))

    def begin(self) -> None:
        """Ask everywhere, for the first time or once more."""
        self._rounds += 1
        self._asked.clear()
        self._tried.clear()
        self._empty, self._ways = False, 4
        for side in self._sides:
            side.reached = CIRCLE
            self._advance(side)
        if not self._finished():
            self._ask_the_ring()

    # From either side

    def _advance(self, side: _Side) -> None:
        """Ask the nearest on this side that was not asked."""
        if self._finished():
            return
        nearer = [
            (distance, contact)
            for contact in self._known.values()
            if contact.id not in self._asked
            and contact.id not in self._avoid
            and (distance := side.distance(self._region, place_of(contact.id))) < side.reached
        ]
        if not nearer or len(self._asked) >= MAX_HELPERS:
            self._less()
            return
        _, contact = min(nearer)
        self._asked.add(contact.id)
        edge = self._ring.session(contact.id)
        if edge is not None and not edge.suspect:
            self._ask(side, edge)
        else:
            self._ring.links.link(contact, lambda linked: self._ask(side, linked))

    def _ask(self, side: _Side, helper: Edge | None) -> None:
        if helper is None or not helper.up:
            self._advance(side)
            return
        place, current = place_of(helper.id), self._rounds

        def answered(answer: Message | None) -> None:
            if self._finished() or current != self._rounds:
                return
            if isinstance(answer, Found):
                side.reached = side.distance(self._region, place)
                if self._take(answer):
                    self._less()
                    return
                if _spans(place, [place_of(each.id) for each in answer.contacts], self._region) and not self._tried:
                    self._end(Nobody.EMPTY)
            self._advance(side)

        timeout_s = max(LEAST_TIMEOUT_S, 3.0 * (helper.rtt_s or UNKNOWN_RTT_S))
        self._ring.exchange.ask(helper, FindFor(helper.id), (Found,), answered, (timeout_s, 1.5 * timeout_s))

    # Through the ring

    def _ask_the_ring(self) -> None:
        """Who is there? For a long part, to whose ends neighbours are a long way."""
        quarter, current = self._region.length // 4, self._rounds
        inside = ((self._region.low + quarter) % CIRCLE, (self._region.high - quarter) % CIRCLE)
        edges = [self._ring.session(node_id) for node_id in self._known.keys() - self._avoid]
        usable = [edge for edge in edges if edge is not None and edge.up and not edge.suspect]

        def answered(answer: Message | None) -> None:
            if self._finished() or current != self._rounds:
                return
            if isinstance(answer, Found) and not self._take(answer):
                self._empty = True
            self._less()

        for side, place in zip(self._sides, inside, strict=True):
            if usable:
                nearest = min(usable, key=lambda edge: side.distance(self._region, place_of(edge.id)))
                target = FindFor(place << _SPARE_BITS)
                self._ring.exchange.ask(nearest, target, (Found,), answered, (ROUTED_TIMEOUT_S,))
            else:
                self._less()

    def _less(self) -> None:
        """One of the ways, or one of the edges, led nowhere."""
        self._ways -= 1
        if self._ways or self._finished():
            return
        if not self._tried:
            self._end(Nobody.EMPTY if self._empty else Nobody.UNREACHED)
            return
        for node_id in self._tried:
            self._avoid.add(node_id)
            self._silent(node_id)
        if self._rounds < MAX_ROUNDS:
            self.begin()
        else:
            self._end(Nobody.UNREACHED)

    # Whom they name

    def _take(self, answer: Found) -> bool:
        """Whether an answer names somebody in the part who may be tried."""
        there = []
        for contact in answer.contacts:
            if not self._region.holds(place_of(contact.id)):
                self._known.setdefault(contact.id, contact)
            elif contact.id not in self._avoid:
                there.append(contact)
        for contact in [each for each in there if each.id not in self._tried][:MAX_TRIED_AN_ANSWER]:
            if len(self._tried) < MAX_TRIED and not self._finished():
                self._try(contact)
        return bool(there)

    def _try(self, contact: Contact) -> None:
        self._tried.add(contact.id)
        self._ways += 1
        waiting = True

        def linked(edge: Edge | None) -> None:
            nonlocal waiting
            if not waiting:
                return
            waiting = False
            if self._finished():
                return
            if edge is not None and edge.up and not edge.suspect:
                self._end(edge)
            else:
                self._less()

        # Whoever makes edges tries for longer than who asks can wait.
        self._host.call_later(TRY_S, lambda: linked(None))
        self._ring.links.link(contact, linked)

    def _finished(self) -> bool:
        return self._ended or self._over()

    def _end(self, result: Edge | Nobody) -> None:
        self._ended = True
        self._done(result)


def _spans(helper: int, places: Sequence[int], region: Arc) -> bool:
    """Whether a member's own neighbours lie on both sides of a region, so that it knows who is in it."""
    reach = (region.high - helper) % CIRCLE
    if reach < CIRCLE // 2:
        return any(reach <= (place - helper) % CIRCLE < CIRCLE // 2 for place in places)
    reach = (helper - region.low) % CIRCLE
    return any(reach < (helper - place) % CIRCLE < CIRCLE // 2 for place in places)
