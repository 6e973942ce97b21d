"""Where datagrams leave one shard of a world for another: see `sims.shards`.

A border is the network of its shard's hosts. What is for one of them goes the usual way; what is for a host elsewhere
is kept, with the instant at which it will be there, until the shards exchange what they have for each other. It looks
into no datagram, and refuses one that would be there sooner than the shards can know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dht.host import Endpoint
from sims.engine import SimHost
from sims.errors import TooSoon
from sims.network import Network


class Crossing(NamedTuple):
    """A datagram on its way to another shard. `at`: when it is there; `origin`: the index of the host that sent it."""

    at: float
    origin: int
    source: tuple[str, int]
    to: tuple[str, int]
    datagram: bytes
    traffic_class: int


class Border:
    """The `Carrier` of the hosts of shard number `mine`; `shards` has the number of every host's, by index. A datagram
    takes `lookahead_s` at least from one to another."""

    def __init__(
        self, network: Network, hosts: Sequence[SimHost], shards: Sequence[int], mine: int, lookahead_s: float
    ) -> None:
        self._network, self._hosts, self._shards = network, {host.index: host for host in hosts}, shards
        self._mine, self._lookahead_s = mine, lookahead_s
        # Nodes keep the endpoints they are given, so all share one of each.
        self._endpoints: dict[tuple[str, int], Endpoint] = {host.endpoint: host.endpoint for host in hosts}
        self._leaving: list[list[Crossing]] = [[] for _ in range(max(shards) + 1)]

    def carry(self, source: SimHost, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """Called by `SimHost.send`. Raises TooSoon."""
        network = self._network
        destination = network.at(to)
        if destination is None or destination.header_bytes != source.header_bytes or self.here(destination):
            network.carry(source, to, datagram, traffic_class)
            return
        now, leaving = network.engine.now, self._leaving[self._shards[destination.index]]
        for delay_s in network.depart(source, destination, len(datagram)):
            if delay_s < self._lookahead_s:
                raise TooSoon(
                    f"a datagram takes {delay_s * 1000.0:g} ms from {source.endpoint} to {to}, which are in different"
                    f" shards: less than the lookahead of {self._lookahead_s * 1000.0:g} ms"
                )
            here, there = (source.endpoint.address, source.endpoint.port), (to.address, to.port)
            leaving.append(Crossing(now + delay_s, source.index, here, there, bytes(datagram), traffic_class))

    def here(self, host: SimHost) -> bool:
        """Whether a host is of this shard."""
        return self._shards[host.index] == self._mine

    def left_for(self, shard: int) -> list[Crossing]:
        """What has left for another shard since this was last asked."""
        left, self._leaving[shard] = self._leaving[shard], []
        return left

    def entered(self, crossings: Iterable[Crossing]) -> None:
        """Let what came from another shard go on to where it was sent. Raises TooSoon."""
        network, known = self._network, self._endpoints
        post_at, arrive, hosts, now = network.engine.post_at, network.arrive, self._hosts, network.engine.now
        for at, origin, source, to, datagram, traffic_class in crossings:
            if at < now:
                raise TooSoon(f"what {source} sent to {to} in another shard was there {now - at:g} s ago")
            sender, whither = known.get(source) or Endpoint(*source), known.get(to) or Endpoint(*to)
            post_at(at, arrive, hosts[origin], sender, whither, datagram, traffic_class)
