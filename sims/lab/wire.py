"""Wires in userspace †, as a program that runs inside a namespace: this kernel may lack netem.

    python -m sims.lab.wire delay SECONDS    hold every frame between the TAP devices tap0 and tap1 that long
    python -m sims.lab.wire serve            many wires, made and changed by lines of JSON on standard input

`delay` prints `ready` once both devices are there, and goes on until it is killed. The kernel hands it whole
super-packets (virtio_net headers, all offloads it knows), so the wire itself costs little. The wires of `serve` take
single frames, as what is lost, late or too long is a packet. It answers each line with `done`, or with what is wrong:

    {"open": "home", "near": "w0n", "far": "w0f"}            makes both TAP devices; `sims.lab.wires` moves them
    {"set": "home", "up": {"delay_ms": 5.0}, "down": {}}     up is from the near device to the far one
    {"close": "home"}                                        removes them
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import deque
from typing import Any

from sims.lab.impairment import Impairment

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
BASIC = CSUM | TSO4 | TSO6 | TSO_ECN
FRAME_BYTES = 1 << 17
ETHERNET_BYTES = 14
ARP = b"\x08\x06"
BATCH = 64
# As much as this is underway in one direction before frames are dropped: 100 ms of 10 Gbit/s.
MOST_UNDERWAY_BYTES = 125_000_000
# Where a rate is set, what waits for its turn is dropped beyond this: the buffer of a home router.
MOST_WAITING_S = 0.2


def open_tap(name: str, *, super_packets: bool) -> int:
    """A TAP device of this namespace."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if super_packets else 0)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if super_packets:
        try:
            fcntl.ioctl(device, TUNSETOFFLOAD, BASIC | USO4 | USO6)
        except OSError:  # Before Linux 6.2: the kernel then cuts UDP super-packets itself.
            fcntl.ioctl(device, TUNSETOFFLOAD, BASIC)
    return device


class Line:
    """One direction: frames wait in order until they are due."""

    def __init__(self, source: int, sink: int, impairment: Impairment) -> None:
        self.source = source
        self.impairment = impairment
        self._sink = sink
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._free_at = 0.0  # When the last frame so far will have been sent, at the rate set.

    @property
    def due_at(self) -> float | None:
        return self._frames[0][0] if self._frames else None

    def take(self) -> None:
        """Read what there is; what exceeds the queue is lost. Raises OSError when the device is gone."""
        for _ in range(BATCH):
            try:
                frame = os.read(self.source, FRAME_BYTES)
            except BlockingIOError:
                return
            self._accept(frame, time.monotonic())

    def _accept(self, frame: bytes, now: float) -> None:
        here = self.impairment
        if self._bytes + len(frame) > MOST_UNDERWAY_BYTES:
            return
        if chance(here.loss_percent) and frame[12:14] != ARP:
            return
        if here.blackhole_bytes and len(frame) - ETHERNET_BYTES > here.blackhole_bytes:
            return
        if chance(here.reorder_percent):
            self._write(frame)
            return
        if here.rate_mbit:
            if self._free_at - now > MOST_WAITING_S:
                return
            self._free_at = max(self._free_at, now) + len(frame) * 8 / (here.rate_mbit * 1e6)
            now = self._free_at
        due = now + here.delay_ms / 1000
        if here.jitter_ms:
            due += random.uniform(-here.jitter_ms, here.jitter_ms) / 1000
        if self._frames:
            due = max(due, self._frames[-1][0])
        for _ in range(2 if chance(here.duplicate_percent) else 1):
            self._frames.append((due, frame))
            self._bytes += len(frame)

    def give(self) -> None:
        """Write what is due."""
        now = time.monotonic()
        while self._frames and self._frames[0][0] <= now:
            _, frame = self._frames.popleft()
            self._bytes -= len(frame)
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self._sink, frame)
        except OSError:
            return  # The device's interface is not up yet, or its queue is full: lost, as on any wire.


def chance(percent: float) -> bool:
    return percent > 0 and random.uniform(0, 100) < percent


class Wires:
    """All wires of one process, and the loop that keeps them going."""

    def __init__(self) -> None:
        self._lines: dict[int, Line] = {}  # By the device they read from.
        self._pairs: dict[str, tuple[Line, Line]] = {}

    def open(self, name: str, near_name: str, far_name: str, *, super_packets: bool) -> None:
        near, far = (open_tap(device, super_packets=super_packets) for device in (near_name, far_name))
        self._pairs[name] = (Line(near, far, Impairment()), Line(far, near, Impairment()))
        self._lines |= {line.source: line for line in self._pairs[name]}

    def change(self, name: str, up: Impairment | None, down: Impairment | None) -> None:
        for line, impairment in zip(self._pairs[name], (up, down), strict=True):
            if impairment is not None:
                line.impairment = impairment

    def close(self, name: str) -> None:
        for line in self._pairs.pop(name):
            self._lines.pop(line.source, None)
            os.close(line.source)

    def turn(self, commands: int | None) -> bool:
        """Wait for something to do, and do it; whether there is a command to read."""
        due = [line.due_at for line in self._lines.values() if line.due_at is not None]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        # select, as epoll rounds its waits up to milliseconds.
        readable, _, _ = select.select([*self._lines, *([] if commands is None else [commands])], [], [], wait_s)
        for source in readable:
            if source != commands:
                try:
                    self._lines[source].take()
                except OSError:
                    del self._lines[source]  # Its device went with its namespace.
        for line in self._lines.values():
            line.give()
        return commands in readable


def delay(seconds: float) -> None:
    """Be one wire, for ever."""
    wires = Wires()
    wires.open("wire", "tap0", "tap1", super_packets=True)
    held = Impairment(delay_ms=seconds * 1000)
    wires.change("wire", held, held)
    print("ready", flush=True)
    while True:
        wires.turn(None)


def obey(wires: Wires, command: dict[str, Any]) -> None:
    match command:
        case {"open": name, "near": near, "far": far}:
            wires.open(name, near, far, super_packets=False)
        case {"set": name, **directions}:
            up, down = (Impairment(**directions[way]) if way in directions else None for way in ("up", "down"))
            wires.change(name, up, down)
        case {"close": name}:
            wires.close(name)
        case _:
            raise ValueError(f"not understood: {command}")


def serve() -> None:
    """Be many wires, until standard input ends."""
    wires = Wires()
    pending = b""
    while True:
        if not wires.turn(sys.stdin.fileno()):
            continue
        if not (read := os.read(sys.stdin.fileno(), 1 << 16)):
            return
        *lines, pending = (pending + read).split(b"\n")
        for line in lines:
            try:
                obey(wires, json.loads(line))
                print("done", flush=True)
            except (OSError, ValueError, KeyError, TypeError) as error:
                print(f"{type(error).__name__}: {error}", flush=True)


def main() -> None:
    match sys.argv[1:]:
        case ["delay", seconds]:
            delay(float(seconds))
        case ["serve"]:
            serve()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
