"""The seam between the data path and an Ethernet device, and a device in memory for tests and simulations.

`ipop.device` implements `Tap` on the kernel's TAP driver. This module does no input or output of its own and
never looks inside a frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ipop.vnet import NO_OFFLOADS, Offloads

# A test that lets a node write more than this without looking has stopped caring about the oldest frames.
WRITTEN_FRAMES = 4096


class Tap(Protocol):
    """A virtual Ethernet device with one user: this program on one side, a network stack on the other."""

    @property
    def name(self) -> str:
        """What the stack calls the device."""

    @property
    def offloads(self) -> Offloads:
        """What its stack leaves to us, and takes from us."""

    def write(self, frame: bytes) -> None:
        """Give one Ethernet frame to the stack. Like a cable it may lose the frame; it never raises for that."""

    def write_virtual(self, pieces: Sequence[bytes]) -> None:
        """As `write`, for a frame in pieces with a virtio_net header in front. Only as far as `offloads` go."""

    def on_frame(self, callback: Callable[[bytes], None]) -> None:
        """Give every complete frame the stack sends to `callback`. The last call wins."""

    def on_virtual(self, callback: Callable[[bytes], None]) -> None:
        """Give every frame that isn't complete to `callback`, with its virtio_net header. The last call wins."""

    def on_drained(self, callback: Callable[[], bool]) -> None:
        """Call `callback` after the frames that came together; while it returns True, again soon, after whatever
        else is to be done. The last call wins."""

    def close(self) -> None:
        """Remove the device with its addresses and routes. Harmless when called again."""


class MemoryTap:
    """A device with no stack behind it: a test injects what the stack would send and reads what it would get."""

    def __init__(self, name: str = "memory0", offloads: Offloads = NO_OFFLOADS) -> None:
        self.name = name
        self.offloads = offloads
        self.written: deque[bytes] = deque(maxlen=WRITTEN_FRAMES)
        self.closed = False
        self.lost = 0
        self._callback: Callable[[bytes], None] | None = None
        self._virtual: Callable[[bytes], None] = lambda frame: None
        self._drained: Callable[[], bool] = lambda: False
        self.written_virtual: deque[tuple[bytes, ...]] = deque(maxlen=WRITTEN_FRAMES)

    def write(self, frame: bytes) -> None:
        if self.closed:
            self.lost += 1
        else:
            self.written.append(bytes(frame))

    def write_virtual(self, pieces: Sequence[bytes]) -> None:
        if self.closed:
            self.lost += 1
        else:
            self.written_virtual.append(tuple(pieces))

    def on_frame(self, callback: Callable[[bytes], None]) -> None:
        self._callback = callback

    def on_virtual(self, callback: Callable[[bytes], None]) -> None:
        self._virtual = callback

    def on_drained(self, callback: Callable[[], bool]) -> None:
        self._drained = callback

    def inject(self, frame: bytes) -> None:
        """As if the stack had sent `frame`. Lost (and counted) when nobody listens or the device is closed."""
        if self.closed or self._callback is None:
            self.lost += 1
        else:
            self._callback(bytes(frame))
            while self._drained():
                pass

    def inject_virtual(self, *frames: bytes) -> None:
        """As if the stack had sent `frames` together, each with its virtio_net header."""
        for frame in frames:
            self._virtual(frame)
        while self._drained():
            pass

    def close(self) -> None:
        self.closed = True
