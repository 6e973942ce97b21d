"""What sockets give to the real host: read in batches, and handed on. † Shell module.

    a socket has something -> `reader` in our place, or `read` -> one `recvmsg` -> its notes -> a datagram, or a batch

It never looks into datagrams. Where nobody takes batches, they are taken apart.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dht.host import Endpoint, Receive, ReceiveBatch
from dht.udp_batch import Note, read_notes
from dht.udp_port import Port

DRAIN_DATAGRAMS = 128  # per wake-up, so that a flood on the socket does not starve timers and the TAP
# Where datagrams come one at a time, asking whether there is another costs a tenth of a round trip; so it is asked
# only now and then, until there was one. Should more be waiting, the loop calls again.
LOOK_AGAIN = 8
DATAGRAM_BYTES = 65_535


class Receiver(Protocol):
    """Who is told the traffic class of what comes next: the host."""

    received_class: int


class Intake:
    """All sockets of one host. `reader(port, most)`, where there is one, reads sockets that have something, in our
    place, at most so many datagrams a call; what it does not take itself it must give to `received`."""

    def __init__(self, host: Receiver, loop: asyncio.AbstractEventLoop, counters: Counter[str]) -> None:
        self._host, self._loop, self._counters = host, loop, counters
        self.receive: Receive | None = None
        self.receive_batch: ReceiveBatch | None = None
        self.reader: Callable[[Port, int], None] | None = None
        self.closed = False
        # What is received first lies here, one for all sockets: nothing keeps it beyond the call.
        self._buffer = memoryview(bytearray(DATAGRAM_BYTES))

    def drain(self, port: Port) -> None:
        if self.reader is not None:
            self.reader(port, DRAIN_DATAGRAMS)
        else:
            self.read(port)

    def read(self, port: Port) -> None:
        """Read what a socket has, at most DRAIN_DATAGRAMS."""
        receive_into, buffer = port.socket.recvmsg_into, self._buffer
        port.wake_ups += 1
        left = DRAIN_DATAGRAMS
        while left > 0:
            left -= 1
            try:
                length, ancillary, _, source = receive_into((buffer,), 128)
            except BlockingIOError:
                port.busy = left < DRAIN_DATAGRAMS - 2
                return
            except OSError as error:
                self.failed(error.errno)
                continue
            size = self.received(port, buffer[:length], source, ancillary)
            if 0 < size < length:
                left -= length // size
            if port.socket.fileno() < 0:
                return  # closed by what we just called
            if not port.busy and not size and port.wake_ups % LOOK_AGAIN:
                return

    def received(self, port: Port, buffer: memoryview, source: tuple[Any, ...], ancillary: Sequence[Note]) -> int:
        """Handle what one `recvmsg` gave; of what size its datagrams are, 0 when it is one."""
        if source == port.last_source and ancillary == port.last_notes:
            endpoint, size, self._host.received_class = port.last_meaning
        else:
            endpoint = Endpoint(source[0], source[1])
            size, self._host.received_class = read_notes(ancillary)
            if port.notes_arrivals:
                port.note_arrival(endpoint, ancillary)
            port.last_source, port.last_notes = source, ancillary
            port.last_meaning = endpoint, size, self._host.received_class
        if 0 < size < len(buffer):
            self._take_batch(buffer, size, endpoint)
        elif self.receive is not None:
            self.receive(bytes(buffer), endpoint)
        else:
            self._counters["udp_receive_unread"] += 1
        return size

    def failed(self, number: int | None) -> None:
        """Count an error of the kernel's in receiving."""
        self._counters[f"udp_receive_{errno.errorcode.get(number or 0, 'error').lower()}"] += 1

    def _take_batch(self, buffer: memoryview, size: int, endpoint: Endpoint) -> None:
        if self.receive_batch is not None:
            self.receive_batch(buffer, size, endpoint)
            return
        self._take_each(deque(bytes(buffer[start : start + size]) for start in range(0, len(buffer), size)), endpoint)

    def _take_each(self, datagrams: deque[bytes], endpoint: Endpoint) -> None:
        while datagrams:
            if self.receive is None or self.closed:
                self._counters["udp_receive_unread"] += len(datagrams)
                return
            try:
                self.receive(datagrams.popleft(), endpoint)
            except BaseException:
                self._loop.call_soon(self._take_each, datagrams, endpoint)
                raise
