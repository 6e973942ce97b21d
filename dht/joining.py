"""One try to enter the ring: from any member to the place between predecessor and successor.

    begin -> who is near my id? -> link to the first clockwise that can be reached -> its lists
          -> somebody lies between us: that one first | enter(successor, its lists) | failed()

Zave's rule: a newcomer is no member before it holds its successor's list, so nobody ever counts on an empty one.
Sources: Chord (SIGCOMM 2001), section 4.4; Zave (TSE 2017), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dht.contact import Contact
from dht.edge import Edge, Links
from dht.ids import clockwise, in_open
from dht.messages import FindFor, Found, Message, Neighbors, NeighborsRequest

MAX_STEPS = 16
Ask = Callable[[Edge, Message, Sequence[type[Message]], Callable[[Message | None], None]], None]


class Join:
    """Calls `enter(successor, its lists)` or `failed()` once, unless abandoned."""

    def __init__(
        self, me: int, links: Links, ask: Ask, enter: Callable[[Edge, Neighbors], None], failed: Callable[[], None]
    ) -> None:
        self._me, self._links, self._ask = me, links, ask
        self._enter, self._failed = enter, failed
        self._steps = 0
        self._over = False
        self._leaf: Edge | None = None  # while its answer is awaited

    def begin(self, leaf: Edge) -> None:
        """Start through `leaf`, a member."""
        self._leaf = leaf
        self._ask(leaf, FindFor(self._me), (Found,), self._found)

    def no_member(self, edge: Edge) -> None:
        """`edge` says that it is no member: if we wait for its answer, we may wait long."""
        if edge is self._leaf and not self._over:
            self._fail()

    def abandon(self) -> None:
        """Forget it; nobody is called any more."""
        self._over = True

    def _found(self, answer: Message | None) -> None:
        if self._over:
            return
        self._leaf = None
        if not isinstance(answer, Found):
            self._fail()
            return
        candidates = self._clockwise(contact for contact in answer.contacts if contact.id != self._me)
        self._try(candidates)
        # The predecessor must hear of us at once, so the edge to it is made meanwhile.
        for contact in candidates[-2:]:
            self._links.link(contact)

    def _try(self, candidates: Sequence[Contact]) -> None:
        """Take the first candidate that can be reached for successor."""
        self._steps += 1
        if not candidates or self._steps > MAX_STEPS:
            self._fail()
            return

        def linked(peer: Edge | None) -> None:
            if self._over:
                return
            if peer is None:
                self._try(candidates[1:])
            else:
                self._ask(
                    peer, NeighborsRequest(b""), (Neighbors,), lambda answer: self._told(peer, answer, candidates)
                )

        self._links.link(candidates[0], linked)

    def _told(self, peer: Edge, answer: Message | None, candidates: Sequence[Contact]) -> None:
        if self._over:
            return
        if not isinstance(answer, Neighbors) or not answer.joined:
            self._try(candidates[1:])
            return
        peer.joined = True
        peer.declared = answer.sender.endpoints
        between = [
            contact
            for contact in answer.predecessors
            if in_open(contact.id, self._me, peer.id) and not self._links.shunned(contact)
        ]
        if between:
            self._try([*self._clockwise(between), *candidates])
            return
        self._over = True
        self._enter(peer, answer)

    def _fail(self) -> None:
        self._over = True
        self._failed()

    def _clockwise(self, contacts: Iterable[Contact]) -> list[Contact]:
        return sorted(contacts, key=lambda contact: clockwise(self._me, contact.id))
