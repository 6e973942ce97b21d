"""What `make bench` does to a wire †, as a program that runs inside a namespace: this kernel may lack netem.

    python -m sims.lab.bench_wire delay SECONDS    hold every frame between the TAP devices tap0 and tap1 that long
    python -m sims.lab.bench_wire card INTERFACE   make a veth device cut and merge packets as a network card does

`delay` prints `ready` once both devices are there, and goes on until it is killed. The kernel hands it whole
super-packets (virtio_net headers, all offloads it knows), so the wire itself costs little.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

from pyroute2.ethtool.ioctl import IoctlEthtool

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
BASIC = CSUM | TSO4 | TSO6 | TSO_ECN
FRAME_BYTES = 1 << 17
BATCH = 64
# As much as this is underway in one direction before frames are dropped: 100 ms of 10 Gbit/s.
MOST_UNDERWAY_BYTES = 125_000_000


def open_tap(name: str) -> int:
    """A TAP device that takes and gives super-packets."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    try:
        fcntl.ioctl(device, TUNSETOFFLOAD, BASIC | USO4 | USO6)
    except OSError:  # Before Linux 6.2: the kernel then cuts UDP super-packets itself.
        fcntl.ioctl(device, TUNSETOFFLOAD, BASIC)
    return device


class Line:
    """One direction: frames wait in order until they are due."""

    def __init__(self, source: int, sink: int, delay_s: float) -> None:
        self.source = source
        self._sink, self._delay_s = sink, delay_s
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes = 0

    @property
    def due_at(self) -> float | None:
        return self._frames[0][0] if self._frames else None

    def take(self) -> None:
        """Read what there is; what exceeds the queue is lost."""
        for _ in range(BATCH):
            try:
                frame = os.read(self.source, FRAME_BYTES)
            except BlockingIOError:
                return
            if self._bytes + len(frame) <= MOST_UNDERWAY_BYTES:
                self._bytes += len(frame)
                self._frames.append((time.monotonic() + self._delay_s, frame))

    def give(self) -> None:
        """Write what is due."""
        now = time.monotonic()
        while self._frames and self._frames[0][0] <= now:
            _, frame = self._frames.popleft()
            self._bytes -= len(frame)
            try:
                os.write(self._sink, frame)
            except OSError:
                continue  # The device's interface is not up yet, or its queue is full: lost, as on any wire.


def delay(seconds: float) -> None:
    """Be the wire, for ever."""
    near, far = open_tap("tap0"), open_tap("tap1")
    lines = {near: Line(near, far, seconds), far: Line(far, near, seconds)}
    print("ready", flush=True)
    while True:
        due = [line.due_at for line in lines.values() if line.due_at is not None]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        # select, as epoll rounds its waits up to milliseconds.
        readable, _, _ = select.select(list(lines), [], [], wait_s)
        for source in readable:
            lines[source].take()
        for line in lines.values():
            line.give()


def card(interface: str) -> None:
    """Send single packets, not super-packets, and merge on receipt: as a card on a real wire."""
    ethtool = IoctlEthtool(interface)
    features = ethtool.get_features()
    for name, *_ in features:
        if name.startswith("tx-tcp") or name == "tx-udp-segmentation":
            features[name] = False
    features["rx-gro"] = True
    ethtool.set_features(features)


def main() -> None:
    match sys.argv[1:]:
        case ["delay", seconds]:
            delay(float(seconds))
        case ["card", interface]:
            card(interface)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
