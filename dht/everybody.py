"""† Everybody in the ring, for asyncio programs: tell all members something, ask all of them, see the whole ring.

    await ring.everybody.tell("weather", b"rain")
    async for sender, value in ring.everybody.notices("weather"): ...
    outcome = await ring.everybody.ask(LOAD)  # where everybody did ring.everybody.answer(LOAD)

Belongs to `dht.aio`; adds no protocol. Frames, thousands a second and not confirmed, are `ring.node.broadcast`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from dht.aggregate import Kind, Outcome
from dht.certificate import Member
from dht.crawl import CRAWL_DEADLINE_S, Crawled
from dht.inbox import Inbox
from dht.node import Node
from dht.notices import NOTICE_DEADLINE_S

INBOX_NOTICES = 1024
ASK_DEADLINE_S = 10.0

A = TypeVar("A")
V = TypeVar("V")


class Everybody:
    """All members of one node's ring. `result(begin)` awaits what `begin(done)` gives to `done`; `ready()` awaits the
    node's place in its ring. What is raised beyond ValueError is theirs: NotReady and Closed."""

    def __init__(
        self,
        node: Node,
        ready: Callable[[], Awaitable[None]],
        result: Callable[[Callable[[Callable[[Any], None]], None]], Awaitable[Any]],
    ) -> None:
        self._node, self._ready, self._result = node, ready, result
        self._inboxes: dict[str, WeakSet[Inbox[bytes]]] = {}
        self._closed = False

    async def tell(self, topic: str, value: bytes, deadline_s: float = NOTICE_DEADLINE_S) -> Outcome[None]:
        """Tell every other member something (at most 2048 bytes), signed by this node and confirmed by each.

        Returns when all have it, at the latest after `deadline_s` seconds: `reached` is how many have it, this node
        included, `missing` who has not confirmed. Raises ValueError for what nobody would take.
        """
        await self._ready()
        outcome: Outcome[None] = await self._result(
            lambda done: self._node.notices.send(topic, value, done, deadline_s)
        )
        return outcome

    def notices(self, topic: str, limit: int = INBOX_NOTICES) -> Inbox[bytes]:
        """What others tell everybody under `topic` from now on, each with its proven sender. Every inbox of a topic
        gets every notice."""
        if topic not in self._inboxes:
            self._node.notices.on(topic, partial(self._received, topic))
            self._inboxes[topic] = WeakSet()
        inbox: Inbox[bytes] = Inbox(limit)
        self._inboxes[topic].add(inbox)
        if self._closed:
            inbox.close()
        return inbox

    def answer(self, kind: Kind[A, V]) -> None:
        """Answer questions of this kind from now on. Its functions are called in the midst of the node's work: they
        must be quick, and may raise nothing but BadDatagram. Raises ValueError for a name that is taken."""
        self._node.aggregates.register(kind)

    async def ask(self, kind: Kind[A, V], argument: bytes = b"", deadline_s: float = ASK_DEADLINE_S) -> Outcome[V]:
        """Ask every member of the ring, this node included, which must answer the kind itself.

        Returns when all have answered, at the latest after `deadline_s` seconds; who is missing is in the outcome.
        Members that don't know the kind are among the missing. Raises ValueError for what no member would answer.
        """
        await self._ready()
        outcome: Outcome[V] = await self._result(
            lambda done: self._node.aggregates.ask(kind, argument, deadline_s, done)
        )
        return outcome

    async def crawl(self, deadline_s: float = CRAWL_DEADLINE_S) -> Crawled:
        """See the whole ring: what every member says of itself and its neighbours. Raises ValueError for a deadline
        beyond ten minutes."""
        await self._ready()
        crawled: Crawled = await self._result(lambda done: self._node.crawls.crawl(done, deadline_s))
        return crawled

    def close(self) -> None:
        """Inboxes end. The ring calls this."""
        self._closed = True
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.close()

    def _received(self, topic: str, sender: Member, value: bytes) -> None:
        for inbox in self._inboxes[topic]:
            if not inbox.deliver(sender, value):
                self._node.counters["notices_dropped"] += 1
