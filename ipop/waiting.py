"""Packets whose destination is still being looked for. Bounded three ways; never looks into a packet."""

from __future__ import annotations

from collections import deque

MAX_WAITING_PACKETS = 64  # For one destination
MAX_WAITING_BYTES = 128 << 10
MAX_WAITING_TOTAL_BYTES = 4 << 20


class Waiting:
    """Packets for destinations that are being looked for. When one queue is full its oldest packet goes: a program
    that still waits has sent a newer one. When all together are too many, the newcomer is refused."""

    def __init__(self) -> None:
        self._queues: dict[bytes, deque[bytes]] = {}
        self._bytes: dict[bytes, int] = {}
        self.total_bytes = 0

    def __contains__(self, destination: bytes) -> bool:
        return destination in self._queues

    def add(self, destination: bytes, packet: bytes) -> int:
        """How many packets were dropped for it: the oldest of the queue, or this one."""
        if self.total_bytes + len(packet) > MAX_WAITING_TOTAL_BYTES:
            return 1
        queue = self._queues.setdefault(destination, deque())
        queue.append(packet)
        waiting_bytes = self._bytes.get(destination, 0) + len(packet)
        dropped = 0
        while len(queue) > MAX_WAITING_PACKETS or waiting_bytes > MAX_WAITING_BYTES:
            waiting_bytes -= len(queue.popleft())
            dropped += 1
        self.total_bytes += waiting_bytes - self._bytes.get(destination, 0)
        self._bytes[destination] = waiting_bytes
        return dropped

    def take(self, destination: bytes) -> deque[bytes]:
        """All packets for `destination`, which waits no more."""
        self.total_bytes -= self._bytes.pop(destination, 0)
        return self._queues.pop(destination, deque())
