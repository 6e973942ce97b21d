"""Lookups by deputy: an edge's far end asks the ring for us, by its own routes, and passes on the answer.

A member on the way of a routed question, or of its answer, can drop both; asking again takes the same way. The ways
from another node to the same place on the ring are others, there and back. Nothing that a deputy says is believed:
records are signed, so it can withhold only, as any member on the way could.
Each node does this for its peers within bounds; it never asks on for who is no peer, nor a deputy for a deputy.
Source: the diversified routing of Castro et al., "Secure routing for structured peer-to-peer overlay networks" (OSDI
2002), section 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from dht.exchange import Exchange, Incoming, Way
from dht.features import Feature
from dht.host import Endpoint, Host
from dht.messages import Fetch, Fetched, FetchFor, Message, Store, Stored, StoreFor
from dht.peer import Peer
from dht.sessions import Sessions

MAX_QUESTIONS_A_PEER: Final = 32  # under way: a few lookups that each ask it for every replica point
MAX_QUESTIONS: Final = 256
DEPUTY_TIMEOUTS_S: Final = (1.0, 1.5)  # what a deputy gives the ring
ASKER_TIMEOUTS_S: Final = (1.5, 1.5)  # what it is given: a bit more


class Delegation:
    """One node's deputies, and its work as one."""

    def __init__(self, host: Host, sessions: Sessions, exchange: Exchange, counters: Counter[str]) -> None:
        self._host, self._sessions, self._exchange, self._counters = host, sessions, exchange, counters
        self._under_way: Counter[int] = Counter()  # questions by the id of who asked
        exchange.handle(FetchFor, Way.SESSION, self._on_fetch_for)
        exchange.handle(StoreFor, Way.SESSION, self._on_store_for)

    def deputies(self, count: int) -> list[Peer]:
        """Up to `count` different direct edges to members that do this, in random order."""
        fit = [
            peer
            for peer in self._sessions.edges()
            if peer.up
            and peer.joined
            and not peer.suspect
            and peer.features & Feature.DELEGATION
            and isinstance(peer.path, Endpoint)
        ]
        return self._host.rng.sample(fit, min(count, len(fit)))

    def fetch(self, deputy: Peer, point: int, key: int, done: Callable[[Message | None], None]) -> None:
        """Have `deputy` read what lives under `key` at `point`; `done` gets Fetched or None."""
        self._exchange.ask(deputy, FetchFor(point, key), (Fetched,), done, ASKER_TIMEOUTS_S)

    def store(self, deputy: Peer, point: int, record: bytes, done: Callable[[Message | None], None]) -> None:
        """Have `deputy` store `record` at `point`; `done` gets Stored or None."""
        self._exchange.ask(deputy, StoreFor(point, record, True), (Stored,), done, ASKER_TIMEOUTS_S)

    def _on_fetch_for(self, incoming: Incoming, message: FetchFor) -> None:
        self._ask_on(incoming, message.point, Fetch(message.key), (Fetched,))

    def _on_store_for(self, incoming: Incoming, message: StoreFor) -> None:
        self._ask_on(incoming, message.point, Store(message.point, message.record, message.copy), (Stored,))

    def _ask_on(self, incoming: Incoming, point: int, question: Message, answers: Sequence[type[Message]]) -> None:
        asker = incoming.source
        if self._under_way[asker] >= MAX_QUESTIONS_A_PEER or self._under_way.total() >= MAX_QUESTIONS:
            self._counters["delegation_refused"] += 1
            return
        self._under_way[asker] += 1
        self._exchange.ask_nearest(point, question, answers, partial(self._answered, incoming), DEPUTY_TIMEOUTS_S)

    def _answered(self, incoming: Incoming, answer: Message | None) -> None:
        self._under_way[incoming.source] -= 1
        if self._under_way[incoming.source] <= 0:
            del self._under_way[incoming.source]
        if answer is not None:
            incoming.reply(answer)
