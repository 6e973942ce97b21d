"""An event loop of asyncio that gives packets to their readers from within its wait. † Shell module.

    wait -> packets? -> read them -> anything else to do, or a timer due? -> no: wait again
                                                                          -> yes: a round of asyncio's

A round of asyncio's calls ten functions and makes a handle run in a context; with a packet in each, that is a quarter
of the processor time of a small packet, and more when caches are cold. Everything else is asyncio's own, with its
public interface only. A reader must be bounded: between two of them nothing else runs. Any other loop does as well.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey
from time import monotonic
from typing import Any, TypeVarTuple, Unpack

_Ts = TypeVarTuple("_Ts")

_WAIT_FOREVER = -1.0
_MAX_EVENTS = 64


class _PacketSelector(BaseSelector):
    """Epoll, as `selectors.EpollSelector`, but for descriptors with a reader of their own."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, SelectorKey] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        self.failed: Callable[[Exception, Callable[[], None]], None] = lambda error, reader: None
        self.scheduled = False  # asyncio has something to do, or another timer

    def read(self, descriptor: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever there is something to read."""
        known = descriptor in self._readers or descriptor in self._keys
        self._readers[descriptor] = reader
        self._watch(descriptor, known)

    def stop_reading(self, descriptor: int) -> bool:
        if self._readers.pop(descriptor, None) is None:
            return False
        self._watch(descriptor, True)
        return True

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
        if descriptor in self._keys:
            raise KeyError(f"{fileobj!r} is already registered")
        key = self._keys[descriptor] = SelectorKey(fileobj, descriptor, events, data)
        try:
            self._watch(descriptor, descriptor in self._readers)
        except BaseException:
            del self._keys[descriptor]
            raise
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
        if descriptor not in self._keys and descriptor < 0:  # closed meanwhile
            descriptor = next((key.fd for key in self._keys.values() if key.fileobj is fileobj), descriptor)
        key = self._keys.pop(descriptor)
        self._watch(descriptor, True)
        return key

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._keys

    def get_key(self, fileobj: Any) -> SelectorKey:
        return self._keys[fileobj if isinstance(fileobj, int) else int(fileobj.fileno())]

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait until asyncio has something to do; packets that come meanwhile go to their readers."""
        ends = None if timeout is None else monotonic() + timeout
        wait_s = _WAIT_FOREVER if timeout is None else max(0.0, timeout)
        poll, readers, ready = self._epoll.poll, self._readers, []
        self.scheduled = False
        while True:
            for descriptor, found in poll(wait_s, _MAX_EVENTS):
                reader = readers.get(descriptor)
                if reader is not None and found != select.EPOLLOUT:
                    try:
                        reader()
                    except Exception as error:  # noqa: BLE001 - As asyncio does: told, and all else goes on.
                        self.failed(error, reader)
                key = self._keys.get(descriptor)
                if key is not None:
                    events = (EVENT_WRITE if found & ~select.EPOLLIN else 0) | (
                        EVENT_READ if found & ~select.EPOLLOUT else 0
                    )
                    if events & key.events:
                        ready.append((key, events & key.events))
            if ready or self.scheduled:
                return ready
            if ends is not None:
                wait_s = ends - monotonic()
                if wait_s <= 0.0:
                    return ready

    def close(self) -> None:
        self._epoll.close()
        self._keys.clear()
        self._readers.clear()

    def _watch(self, descriptor: int, known: bool) -> None:
        """Tell the kernel what is wanted now of a descriptor, of which it may know."""
        key = self._keys.get(descriptor)
        wanted = key.events if key is not None else 0
        if descriptor in self._readers:
            wanted |= EVENT_READ
        mask = (select.EPOLLIN if wanted & EVENT_READ else 0) | (select.EPOLLOUT if wanted & EVENT_WRITE else 0)
        if not mask:
            with suppress(OSError):  # Closed already: the kernel has forgotten it.
                self._epoll.unregister(descriptor)
        elif known:
            self._epoll.modify(descriptor, mask)
        else:
            self._epoll.register(descriptor, mask)


class PacketLoop(asyncio.SelectorEventLoop):
    """The loop. Packets' readers are set by `read_packets`."""

    def __init__(self) -> None:
        self._packets = _PacketSelector()
        self._packets.failed = self._reader_failed
        super().__init__(self._packets)

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._packets.scheduled = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._packets.scheduled = True
        return super().call_at(when, callback, *args, context=context)

    def read(self, descriptor: int, reader: Callable[[], None]) -> None:
        self._packets.read(descriptor, reader)

    def stop_reading(self, descriptor: int) -> bool:
        return self._packets.stop_reading(descriptor)

    def _reader_failed(self, error: Exception, reader: Callable[[], None]) -> None:
        self.call_exception_handler({"message": f"Exception in reader {reader!r}", "exception": error})


def read_packets(loop: asyncio.AbstractEventLoop, descriptor: int, reader: Callable[[], None]) -> None:
    """Call `reader` whenever there is something to read, by the shortest way that `loop` has."""
    if isinstance(loop, PacketLoop):
        loop.read(descriptor, reader)
    else:
        loop.add_reader(descriptor, reader)


def stop_reading(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    """Undo `read_packets`, before the descriptor is closed. Harmless when called again."""
    if isinstance(loop, PacketLoop):
        loop.stop_reading(descriptor)
    else:
        loop.remove_reader(descriptor)
