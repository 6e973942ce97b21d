"""The trees that carry packets for many: the whole network's, and those of busy groups' rings.

A busy group's ring is an ordinary group (`dht.groups`), opened by a secret that every member of the network can derive,
and forgotten at the end of the process. Never looks into frames.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2s
from ipaddress import IPv4Address
from math import exp
from typing import Final

from dht.groups.right import GroupSecret
from dht.groups.subring import Subring
from dht.host import Host
from dht.node import Node

log = logging.getLogger(__name__)

CHANNEL: Final = 1  # of the trees
PURPOSE: Final = "multicast"
NAME_PREFIX: Final = "mcast-"
# Uplinks at home are the narrow place: nobody sends more copies of a stream than so many, though trees get deeper.
RING_FAN_OUT: Final = 2
RATE_S: Final = 5.0


def ring_name(group: bytes) -> str:
    """What the ring of a multicast group (4 or 16 raw bytes) is called."""
    if len(group) == 4:
        return NAME_PREFIX + str(IPv4Address(group)).replace(".", "-")
    return NAME_PREFIX + blake2s(group, digest_size=12).hexdigest()


class Rate:
    """Frames a second, smoothed over RATE_S. Pure."""

    __slots__ = ("_at", "_per_s")

    def __init__(self) -> None:
        self._at = self._per_s = 0.0

    def add(self, count: int, now: float) -> None:
        self._per_s = self.at(now) + count / RATE_S
        self._at = now

    def at(self, now: float) -> float:
        return self._per_s * exp((self._at - now) / RATE_S)


class RingCasts:
    """Implements `ipop.multicast.Casts` on a node's rings."""

    def __init__(self, host: Host, node: Node, counters: Counter[str]) -> None:
        self._host, self._node, self._counters = host, node, counters
        self._secret = GroupSecret.open_to_all(node.identity.network, PURPOSE)
        self._rings: dict[bytes, Subring] = {}
        self._came: Callable[[bytes | None, Sequence[bytes]], None] = lambda group, frames: None
        self._sent: dict[bytes | None, Rate] = {None: Rate()}
        self._received: dict[bytes | None, Rate] = {None: Rate()}
        node.broadcast.on(CHANNEL, self._from(None))

    def cast(self, group: bytes | None, frames: Sequence[bytes], traffic_class: int) -> None:
        if group is None:
            broadcast = self._node.broadcast
        else:
            subring = self._rings.get(group)
            if subring is None:
                self._counters["multicast_no_ring"] += len(frames)
                return
            broadcast = subring.ring.broadcast
        self._sent[group].add(len(frames), self._host.now())
        broadcast.send(CHANNEL, frames, traffic_class)

    def be_on(self, groups: set[bytes]) -> set[bytes]:
        for group in self._rings.keys() - groups:
            del self._rings[group], self._sent[group], self._received[group]
            self._node.groups.leave(ring_name(group), secret=True)
        for group in sorted(groups - self._rings.keys()):
            try:
                subring = self._node.groups.join(ring_name(group), self._secret, keep=False)
            except ValueError as error:
                # Too many groups: its packets go on by the whole network, as `ipop.busy` sees to.
                self._counters["multicast_ring_refused"] += 1
                log.debug("no ring for a busy group: %s", error)
                continue
            self._rings[group] = subring
            self._sent[group], self._received[group] = Rate(), Rate()
            subring.ring.broadcast.fan_out = RING_FAN_OUT
            subring.ring.broadcast.on(CHANNEL, self._from(group))
        return set(self._rings)

    def on_cast(self, callback: Callable[[bytes | None, Sequence[bytes]], None]) -> None:
        self._came = callback

    def rings(self) -> dict[bytes, Subring]:
        """The rings that this node is on."""
        return dict(self._rings)

    def rates_per_s(self, group: bytes | None) -> tuple[float, float]:
        """Frames a second that this node sends and receives along a ring."""
        now = self._host.now()
        return self._sent[group].at(now), self._received[group].at(now)

    def _from(self, group: bytes | None) -> Callable[[int, Sequence[bytes]], None]:
        def came(origin: int, frames: Sequence[bytes]) -> None:
            received = self._received.get(group)
            if received is not None:
                received.add(len(frames), self._host.now())
                self._came(group, frames)

        return came
