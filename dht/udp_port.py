"""One UDP socket of the real host, with its queue. † Shell module.

A send that fails is counted, never raised. What finds the socket full waits in order, up to a bound, and is then
dropped: the newest first, for the protocols above have timers for the rest. Never looks into datagrams.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import Counter, deque
from collections.abc import Sequence

from dht.host import Endpoint
from dht.packet_loop import stop_reading
from dht.udp_batch import (
    TOO_LARGE_FOR_ROUTE,
    WITHOUT_SEGMENTS,
    Note,
    batches,
    class_note,
    gives_batches,
    gives_classes,
    segment_note,
    takes_segments,
)

QUEUE_BYTES = 1 << 20  # waiting for room in a socket; about what one more socket buffer would hold
MAX_ARRIVALS = 4096  # peers whose preferred local address is remembered, per socket
# Python's socket module does not name these.
IP_PKTINFO = 8
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_WANT = 23, 1
_PMTUDISC_PROBE = 3  # of either version: no fragments, whatever routers said before

_SOURCE_GONE = (errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.EHOSTUNREACH)
_Ancillary = Sequence[Note]


class Port:
    """One UDP socket with its queue of datagrams that found it full."""

    __slots__ = (
        "_loop",
        "arrivals",
        "busy",
        "counters",
        "family",
        "gives_batches",
        "is_open",
        "last_meaning",
        "last_notes",
        "last_source",
        "notes_arrivals",
        "queue",
        "queued_bytes",
        "socket",
        "takes_segments",
        "wake_ups",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, opened: socket.socket, counters: Counter[str], batching: bool
    ) -> None:
        self._loop = loop
        self.socket = opened
        self.is_open = True
        self.counters = counters
        self.takes_segments = batching and takes_segments(opened)
        self.gives_batches = batching and gives_batches(opened)
        gives_classes(opened)
        self.family = opened.family  # The socket's own property makes an enum of a number each time.
        # What came last, and what it means: nearly always the same again.
        self.last_source: tuple[object, ...] = ()
        self.last_notes: _Ancillary = []
        self.last_meaning = Endpoint("", 0), 0, 0
        self.busy = False  # several datagrams were waiting when the socket was last read to its end
        self.wake_ups = 0
        self.notes_arrivals = False
        self.queue: deque[tuple[Endpoint, Sequence[bytes], int]] = deque()
        self.queued_bytes = 0
        # For each peer: the local address its last datagram was sent to, as received and as `sendmsg` wants it.
        self.arrivals: dict[Endpoint, tuple[bytes, _Ancillary]] = {}

    def send(self, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """Send now, or when there is room. In order."""
        if not self.queue and not traffic_class:
            arrival = self.arrivals.get(to)
            try:
                if arrival is None:
                    self.socket.sendto(datagram, to)
                else:
                    self.socket.sendmsg((datagram,), arrival[1], 0, to)
                return
            except (OSError, OverflowError):
                pass  # Full, or refused: the ordinary way waits or says why.
        self._send(to, (datagram,), traffic_class)

    def send_batch(self, to: Endpoint, datagrams: Sequence[bytes], traffic_class: int = 0) -> None:
        """As `send`, with as few system calls as may be."""
        if self.takes_segments:
            for batch in batches(datagrams):
                self._send(to, batch, traffic_class)
        else:
            for datagram in datagrams:
                self._send(to, (datagram,), traffic_class)

    def send_whole(self, to: Endpoint, datagram: bytes) -> bool:
        """Send in one piece or not at all; False when our own link can't carry it. Never waits for room."""
        six = self.family == socket.AF_INET6
        level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if six else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
        arrival = self.arrivals.get(to)
        self.socket.setsockopt(level, option, _PMTUDISC_PROBE)
        try:
            self.socket.sendmsg((datagram,), arrival[1] if arrival is not None else (), 0, to)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return False
            self.counters[f"udp_send_{errno.errorcode.get(error.errno or 0, 'error').lower()}"] += 1
        finally:
            self.socket.setsockopt(level, option, _IPV6_PMTUDISC_WANT if six else IP_PMTUDISC_DONT)
        return True

    def send_run(self, to: Endpoint, buffer: bytes | memoryview, size: int, traffic_class: int = 0) -> None:
        """As `send_batch`, for datagrams of `size` bytes that lie one behind the other; the last may be shorter."""
        if self.takes_segments and not self.queue and size < len(buffer):
            arrival = self.arrivals.get(to) if self.arrivals else None
            notes = [*(arrival[1] if arrival is not None else ()), segment_note(size)]
            if traffic_class:
                notes.append(class_note(self.family, traffic_class))
            try:
                self.socket.sendmsg((buffer,), notes, 0, to)
                return
            except OSError:
                pass  # Full, or refused: the ordinary way, datagram by datagram, waits or says why.
        pieces = [bytes(buffer[start : start + size]) for start in range(0, len(buffer), size)]
        self.send_batch(to, pieces, traffic_class)

    def note_arrivals(self, wanted: bool) -> None:
        """On a machine with several addresses, answer each peer from the address it wrote to: an answer from
        another would not get back in through the peer's NAT."""
        if self.family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, int(wanted))
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, int(wanted))
        self.notes_arrivals = wanted
        self.last_source = ()
        self.arrivals.clear()

    def note_arrival(self, source: Endpoint, ancillary: _Ancillary) -> None:
        for level, kind, content in ancillary:
            known = self.arrivals.get(source)
            if known is not None and known[0] == content:
                return
            if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(content) == 12:
                answer = struct.pack("=i4s4s", 0, content[4:8], bytes(4))
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(content) == 20:
                answer = content[:16] + bytes(4)
            else:
                continue
            if known is None and len(self.arrivals) >= MAX_ARRIVALS:
                del self.arrivals[next(iter(self.arrivals))]
                self.last_source = ()
            self.arrivals[source] = (content, [(level, kind, answer)])

    def close(self) -> None:
        self.is_open = False
        if self.socket.fileno() >= 0:
            stop_reading(self._loop, self.socket.fileno())
        self._loop.remove_writer(self.socket)
        self.socket.close()
        self.queue.clear()

    def _send(self, to: Endpoint, batch: Sequence[bytes], traffic_class: int) -> None:
        if self.queue:
            self._enqueue(to, batch, traffic_class)
        elif not self._transmit(to, batch, traffic_class):
            self._loop.add_writer(self.socket, self._flush)
            self._enqueue(to, batch, traffic_class)

    def _enqueue(self, to: Endpoint, batch: Sequence[bytes], traffic_class: int) -> None:
        batch_bytes = sum(map(len, batch))
        if self.queued_bytes + batch_bytes > QUEUE_BYTES:
            self.counters["udp_send_queue_full"] += len(batch)
            return
        self.queued_bytes += batch_bytes
        self.queue.append((to, batch, traffic_class))

    def _flush(self) -> None:
        while self.queue:
            to, batch, traffic_class = self.queue[0]
            if not self._transmit(to, batch, traffic_class):
                return
            self.queue.popleft()
            self.queued_bytes -= sum(map(len, batch))
        self._loop.remove_writer(self.socket)

    def _transmit(self, to: Endpoint, batch: Sequence[bytes], traffic_class: int) -> bool:
        """False when the socket is full; whatever else may fail counts as sent, and as an error."""
        arrival = self.arrivals.get(to) if self.arrivals else None
        notes = arrival[1] if arrival is not None else []
        if len(batch) > 1:
            if not self.takes_segments:
                return self._transmit_each(to, batch, traffic_class)
            notes = [*notes, segment_note(len(batch[0]))]
        if traffic_class:
            notes = [*notes, class_note(self.family, traffic_class)]
        try:
            if notes:
                try:
                    self.socket.sendmsg(batch, notes, 0, to)
                    return True
                except OSError as error:
                    if len(batch) > 1 and error.errno in (*WITHOUT_SEGMENTS, *TOO_LARGE_FOR_ROUTE):
                        self.counters["udp_batch_refused"] += 1
                        self.takes_segments = error.errno not in WITHOUT_SEGMENTS
                        return self._transmit_each(to, batch, traffic_class)
                    if arrival is None or error.errno not in _SOURCE_GONE:
                        raise
                    del self.arrivals[to]
                    self.last_source = ()
                    return self._transmit(to, batch, traffic_class)
            self.socket.sendto(batch[0], to)
        except BlockingIOError:
            return False
        except (OSError, OverflowError) as error:
            # ENOBUFS too: the device's queue is full though the socket's is not, so there is nothing to wait for.
            name = errno.errorcode.get(error.errno or 0, "error") if isinstance(error, OSError) else "bad_port"
            self.counters[f"udp_send_{name.lower()}"] += len(batch)
        return True

    def _transmit_each(self, to: Endpoint, batch: Sequence[bytes], traffic_class: int) -> bool:
        """A batch that the kernel would not cut."""
        for sent, datagram in enumerate(batch):
            if not self._transmit(to, (datagram,), traffic_class):
                if sent:  # What went must not go again.
                    self.counters["udp_send_queue_full"] += len(batch) - sent
                return sent > 0
        return True
