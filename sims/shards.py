"""† One world on several processors: its hosts are shared out among processes, which let time pass side by side.

    world, built by one process -> fork -> each shard: one window of time -> exchange what left for others -> ...

A datagram is under way to another shard for `lookahead_s` at least. So what happens elsewhere within a window of that
length can't matter here before it is over, and nobody ever has to take anything back (conservative synchronization in
windows: Nicol, "The cost of conservative synchronization in parallel discrete event simulations", JACM 40(2), 1993).
The longer the shortest way between two shards, the better: a thousand exchanges take two processes some 0.02 s.

Nodes, network and events are those of every other world; hosts send through a `sims.border`. As everywhere, a world's
seed gives one run, here for each number of shards and each lookahead: shards draw their random numbers by themselves,
so it is another run than that of the undivided world, of the same kind.

Refused, as nobody could share it out: hosts behind boxes or with several addresses, hooks after every event, and
functions among what is to happen that are neither a host's nor the network's. Hosts may crash, freeze, be cut off or
get other links afterwards, if all shards are told (`ask`); they can't be added or moved. Workloads are begun in the
shards, for their own nodes, with `begin`. Of a `sims.World`, its `population` knows of no shards.
"""

from __future__ import annotations

import gc
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self, TypeVar

from dht.views import RingView
from sims.engine import SimHost
from sims.latency import Constant, Euclid, Latency, Matrix, Synthetic
from sims.latency.synthetic import HOSTS_A_SITE
from sims.shard_process import Shard, owner
from sims.world import World

T = TypeVar("T")
LEAST_LOOKAHEAD_S = 1e-5  # a clock of 1.8e9 s counts in steps of 2.4e-7 s


class ShardFailed(AssertionError):
    """A shard came to grief; its own words follow."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node's place on the ring, as `World.faults` wants it."""

    id: int
    member: bool
    ring_version: int
    view: RingView

    def ring_view(self) -> RingView:
        return self.view


class Shards:
    """The shards of `world`, whose sites (by its latency model) they have in equal parts. The world that is given
    stays as it was; from now on it lives in them. Use it as a context, or `close` it: until then, the shards are there.

    `lookahead_s`: by default the shortest delay between two shards, for which every pair of places is looked at (of
    2,000 synthetic ones in 1.5 s); a datagram that takes less ends the run. Raises ValueError for a world that can't be
    shared out. Once anything has raised ShardFailed, everything does.
    """

    def __init__(self, world: World, count: int, lookahead_s: float | None = None) -> None:
        hosts = world.network.hosts()
        if not 2 <= count <= len(hosts):
            raise ValueError(f"{len(hosts)} hosts can be shared out among 2 to {len(hosts)} shards, not {count}")
        if world.network.access.in_use:
            raise ValueError("a world with hosts behind boxes, or with several addresses, can't be shared out")
        if world.engine.after_event:
            raise ValueError("a world with functions that run after every event can't be shared out")
        shards = _shares(world, hosts, count)
        world.engine.sift(lambda what, arguments: owner(world, what, arguments) is not None)  # or it can't be
        if lookahead_s is None:
            lookahead_s = _shortest_s(world.network.latency, hosts, shards)
        if not lookahead_s >= LEAST_LOOKAHEAD_S:
            raise ValueError(f"a lookahead is {LEAST_LOOKAHEAD_S * 1e6:g} µs or more, not {lookahead_s * 1e6:g}")
        self.lookahead_s = lookahead_s
        self.now = world.engine.now
        self.processes: list[BaseProcess] = []
        self._ends: list[Connection] = []
        self._begun = 0
        self._failure: str | None = None
        gc.collect()  # here, once; what there is then, the shards' collectors leave alone
        try:
            self._fork([Shard(world, hosts, shards, number, lookahead_s) for number in range(count)])
        except BaseException:
            self.close()
            raise

    def _fork(self, shards: Sequence[Shard]) -> None:
        context = multiprocessing.get_context("fork")
        numbers = range(len(shards))
        pairs: list[tuple[Connection, Connection]] = []

        def pipe() -> tuple[Connection, Connection]:
            pairs.append(context.Pipe())
            return pairs[-1]

        try:
            commands = [pipe() for _ in numbers]
            self._ends = [ours for ours, _ in commands]
            between = {(a, b): pipe() for a in numbers for b in numbers if a < b}
            for number, shard in enumerate(shards):
                others = {b: ends[0] for (a, b), ends in between.items() if a == number}
                others |= {a: ends[1] for (a, b), ends in between.items() if b == number}
                own = commands[number][1]
                foreign = [end for pair in pairs for end in pair if end is not own and end not in others.values()]
                process = context.Process(target=shard.serve, args=(own, others, foreign), daemon=True)
                process.start()
                self.processes.append(process)
        finally:
            for pair in pairs:
                for end in pair:
                    if end not in self._ends:
                        end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the shards, whatever they are doing."""
        self._failure = self._failure or "the shards are closed"
        for process in self.processes:
            process.kill()  # they hold nothing that anybody could miss
        for process in self.processes:
            process.join()
        for end in self._ends:
            end.close()

    def run_for(self, duration_s: float) -> None:
        """Let so much simulated time pass. Raises ShardFailed."""
        if not (isfinite(duration_s) and duration_s >= 0.0):
            raise ValueError(f"time goes on: not for {duration_s} s")
        until = self.now + duration_s
        self._all("run", until)
        self.now = until

    def ask(self, function: Callable[[World], T]) -> list[T]:
        """What `function(world)` says in every shard, where `world.nodes` and `network.hosts()` are the shard's own,
        and `network.counters` of what happened there. It goes there by pickle, as its answer comes back, so it is one
        that a module had by its name when the world was split. It mustn't let time pass. Raises ShardFailed."""
        answers: list[T] = self._all("ask", function)
        return answers

    def begin(self, function: Callable[[World], Callable[[], T]]) -> Callable[[], list[T]]:
        """Call `function(world)` in every shard, as `ask` does; what it returns is another function, which stays there.
        Calling what this returns gives what those say then; once. Raises ShardFailed."""
        self._begun += 1
        number = self._begun
        self._all("begin", (number, function))
        ended = False

        def end() -> list[T]:
            nonlocal ended
            if ended:
                raise ValueError("what was begun in the shards has ended")
            ended = True
            answers: list[T] = self._all("end", number)
            return answers

        return end

    def whole(self) -> bool:
        """As `World.whole`."""
        return not World.faults([node for nodes in self.ask(_seen) for node in nodes])

    @property
    def events(self) -> int:
        """How many events there were, in all shards together and before the world was split."""
        return sum(self.ask(_events))

    @property
    def trace_hash(self) -> str:
        """32 hex digits that two runs with as many shards share only when the same datagrams arrived at the same
        instants."""
        return blake2b("".join(self.ask(_trace_hash)).encode(), digest_size=16).hexdigest()

    def _all(self, command: str, argument: Any) -> list[Any]:
        """Let every shard do something, and return what they say of it."""
        if self._failure is not None:
            raise ShardFailed(self._failure)
        packed = pickle.dumps((command, argument))
        try:
            said = self._ask_all(packed)
        except BaseException as trouble:
            # What is still to be said would be taken for the answer to something else.
            self._failure = f"the shards were left when {type(trouble).__name__} came"
            self.close()
            raise
        # One that gave no answer was killed, or went because another had failed.
        failures = [answer for done, answer in said if not done]
        if failures:
            self._failure = max(failures) or "a shard has ended without a word"
            self.close()
            raise ShardFailed(self._failure)
        return [answer for _, answer in said]

    def _ask_all(self, packed: bytes) -> list[tuple[bool, Any]]:
        said: list[bytes | None] = []
        for end in self._ends:
            with suppress(OSError):  # it is gone; what it still had to say is there to be read
                end.send_bytes(packed)
        for end in self._ends:
            try:
                said.append(end.recv_bytes())
            except (EOFError, OSError):
                said.append(None)
        return [(False, "") if answer is None else pickle.loads(answer) for answer in said]


def _shares(world: World, hosts: Sequence[SimHost], count: int) -> list[int]:
    """The shard of every host, by index. Hosts of one site stay together."""
    site_of = {host.index: _site(world.network.latency, host.place) for host in hosts}
    sites = sorted(set(site_of.values()))
    if len(sites) < count:
        raise ValueError(f"{len(hosts)} hosts at {len(sites)} sites can't be shared out among {count} shards")
    shard_of = {site: number * count // len(sites) for number, site in enumerate(sites)}
    by_index = [0] * world.network.made
    for host in hosts:
        by_index[host.index] = shard_of[site_of[host.index]]
    return by_index


def _shortest_s(latency: Latency, hosts: Sequence[SimHost], shards: Sequence[int]) -> float:
    """The shortest delay between two hosts of different shards."""
    if isinstance(latency, Constant):
        return latency.one_way_s(0, 1)
    rows = len(latency) if isinstance(latency, Matrix | Euclid) else 1 << 62
    places = sorted({(host.place % rows, shards[host.index]) for host in hosts})
    return min(
        latency.one_way_s(place, other) for place, shard in places for other, another in places if another != shard
    )


def _site(latency: Latency, place: int) -> int:
    """The same for places that a model puts side by side."""
    if isinstance(latency, Matrix | Euclid):
        return place % len(latency)
    return place // HOSTS_A_SITE if isinstance(latency, Synthetic) else place


def _seen(world: World) -> list[Seen]:
    return [Seen(node.id, node.member, node.ring_version, node.ring_view()) for node in world.nodes]


def _events(world: World) -> int:
    return world.engine.events


def _trace_hash(world: World) -> str:
    return world.engine.trace_hash
