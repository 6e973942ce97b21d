"""† A bounded queue between a node and a coroutine: messages wait here until somebody awaits them.

Belongs to `dht.aio`. Never makes a sender wait: when there are too many, the oldest is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Self, TypeVar

from dht.certificate import Member

M = TypeVar("M")


class Inbox(Generic[M]):
    """Received messages of one type, oldest first: `async for sender, message in inbox`.

    Holds at most `limit`; when it is full, the oldest goes, and `dropped` counts it. Iteration ends when the inbox or
    its ring is closed, after what had arrived by then.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("an inbox holds at least one message")
        self._limit = limit
        self._queue: deque[tuple[Member, M]] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Member, M]:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._queue.popleft()

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    def deliver(self, sender: Member, message: M) -> bool:
        """Keep a message; False when the oldest had to go for it. The ring calls this."""
        if self._closed:
            return True
        full = len(self._queue) >= self._limit
        if full:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append((sender, message))
        self._changed.set()
        return not full

    def close(self) -> None:
        """Take no more messages."""
        self._closed = True
        self._changed.set()
