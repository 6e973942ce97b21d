"""A wire that does to packets what the Internet does, as a program: between two TAP devices, in userspace.

    python rough_wire.py LOSS REORDER DUPLICATE LONGEST    percentages; 0, or the longest IP packet that gets through

Prints `ready` once tap0 and tap1 are there, and goes on until it is killed. Its devices take no super-packets, so what
is lost, late or repeated is one packet as a real wire has it. A reordered packet comes after the next REORDER_BEHIND.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
ETHERNET_BYTES = 14
FRAME_BYTES = 1 << 16
BATCH = 64
REORDER_BEHIND = 3
HELD_S = 0.01  # what waits for others, and none come


def open_tap(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


class Line:
    """One direction."""

    def __init__(self, sink: int, loss: float, reorder: float, duplicate: float, longest: int) -> None:
        self._sink = sink
        self._loss, self._reorder, self._duplicate, self._longest = loss, reorder, duplicate, longest
        self._held: list[tuple[int, bytes]] = []  # how many packets must pass first
        self._rng = random.Random(4)

    def take(self, frame: bytes) -> None:
        if self._longest and len(frame) > ETHERNET_BYTES + self._longest:
            return
        drawn = self._rng.uniform(0, 100)
        if drawn < self._loss:
            return
        if drawn < self._loss + self._reorder:
            self._held.append((REORDER_BEHIND, frame))
            return
        self._write(frame)
        if drawn < self._loss + self._reorder + self._duplicate:
            self._write(frame)
        if self._held:
            due = [held for left, held in self._held if left <= 1]
            self._held = [(left - 1, held) for left, held in self._held if left > 1]
            for held in due:
                self._write(held)

    def release(self) -> None:
        for _, held in self._held:
            self._write(held)
        self._held.clear()

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self._sink, frame)
        except OSError:
            return  # The device is not up yet, or its queue is full: lost, as on any wire.


def main() -> None:
    loss, reorder, duplicate, longest = map(float, sys.argv[1:])
    near, far = open_tap("tap0"), open_tap("tap1")
    lines = {
        near: Line(far, loss, reorder, duplicate, int(longest)),
        far: Line(near, loss, reorder, duplicate, int(longest)),
    }
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select(list(lines), [], [], HELD_S)
        for source in readable:
            for _ in range(BATCH):
                try:
                    lines[source].take(os.read(source, FRAME_BYTES))
                except BlockingIOError:
                    break
        if not readable:
            for line in lines.values():
                line.release()


if __name__ == "__main__":
    main()
