"""† One world on several processors: its hosts are shared out among processes, which let time pass side by side.

    world, built by one process -> fork -> each shard: one window of time -> exchange what left for others -> ...

A datagram is under way to another shard for `lookahead_s` at least. So what happens elsewhere within a window of that
length can't matter here before it is over, and nobody ever has to take anything back (conservative synchronization in
windows: Nicol, "The cost of conservative synchronization in parallel discrete event simulations", JACM 40(2), 1993).
The longer the shortest way between two shards, the better: with 50 ms all of it is gain, with 1 ms the exchanges take
a tenth of a second of every simulated one.

Nodes, network and events are those of every other world; hosts send through a `sims.border`. As everywhere, a world's
seed gives one run, here for each number of shards: each draws its random numbers by itself, so the run is another one
than that of the undivided world.

Memory is shared until written to: a shard writes to its own nodes only. What it does not have: boxes in front of
hosts, and functions of other kinds than the network's among what is to happen (workloads, faults, arrivals). Those are
begun in the shards, with `ask` and `begin`, for their own nodes; what is done to the network there must be done in all.
"""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self, TypeVar

from dht.node import Node
from dht.views import RingView
from sims.border import Border, Crossing
from sims.engine import HostState, SimHost, SimTimer
from sims.latency import Constant, Euclid, Latency, Matrix
from sims.latency.synthetic import HOSTS_A_SITE
from sims.world import World

T = TypeVar("T")


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
    """The shards of `world`, each of which has as many sites of its latency model as any other. The world that is given
    stays as it was; from now on it lives in them.

    `lookahead_s`: by default the shortest delay between two shards, for which every pair of places is looked at; what
    is under way for less ends the run. Raises ValueError for a world that can't be shared out. To be closed.
    """

    def __init__(self, world: World, count: int, lookahead_s: float | None = None) -> None:
        hosts = world.network.hosts()
        if not 2 <= count <= len(hosts):
            raise ValueError(f"{len(hosts)} hosts can be shared out among 2 to {len(hosts)} shards, not {count}")
        shards = _shares(world, hosts, count)
        world.engine.sift(lambda what, arguments: _owner(world, what, arguments) is not None)  # or it can't be
        if lookahead_s is None:
            lookahead_s = _shortest_s(world.network.latency, hosts, shards)
        if not lookahead_s > 0:
            raise ValueError(f"datagrams must take some time between shards, not {lookahead_s:g} s")
        self.lookahead_s = lookahead_s
        self.now = world.engine.now
        frozen = gc.get_freeze_count()
        gc.collect()
        gc.freeze()  # else every shard's collector writes to all of what they share
        context = multiprocessing.get_context("fork")
        commands = [context.Pipe() for _ in range(count)]
        between = {(a, b): context.Pipe() for a in range(count) for b in range(a + 1, count)}
        self._ends = [ours for ours, _ in commands]
        self.processes: list[BaseProcess] = []
        for number, (_, theirs) in enumerate(commands):
            shard = _Shard(world, hosts, shards, number, lookahead_s)
            others = {
                b if a == number else a: ends[a != number] for (a, b), ends in between.items() if number in (a, b)
            }
            kept = {theirs, *others.values()}
            foreign = [end for pair in (*commands, *between.values()) for end in pair if end not in kept]
            process = context.Process(target=_serve, args=(shard, theirs, others, foreign), daemon=True)
            process.start()
            self.processes.append(process)
        if not frozen:
            gc.unfreeze()
        for pair in between.values():
            for end in pair:
                end.close()
        for _, theirs in commands:
            theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the shards."""
        for end in self._ends:
            end.close()
        for process in self.processes:
            process.join()

    def run_for(self, duration_s: float) -> None:
        """Let so much simulated time pass. Raises ShardFailed."""
        self.now += duration_s
        self._all("run", self.now)

    def ask(self, function: Callable[[World], T]) -> list[T]:
        """What `function(world)` says in every shard, where `world.nodes` are the shard's own. It goes there by pickle,
        as its answer comes back. Raises ShardFailed."""
        answers: list[T] = self._all("ask", function)
        return answers

    def begin(self, function: Callable[[World], Callable[[], T]]) -> Callable[[], list[T]]:
        """Call `function(world)` in every shard, which returns another function that stays there. Calling what this
        returns gives what those say then; once. Raises ShardFailed."""
        (number,) = set(self._all("begin", function))

        def end() -> list[T]:
            answers: list[T] = self._all("end", number)
            return answers

        return end

    def whole(self) -> bool:
        """As `World.whole`."""
        return not World.faults([node for nodes in self.ask(_seen) for node in nodes])

    @property
    def events(self) -> int:
        """How many events there were, in all shards together, those before the world was split once each."""
        return sum(self.ask(_events))

    @property
    def trace_hash(self) -> str:
        """32 hex digits that two runs with as many shards share only when the same datagrams arrived at the same
        instants."""
        return blake2b("".join(self.ask(_trace_hash)).encode(), digest_size=16).hexdigest()

    def _all(self, command: str, argument: Any) -> list[Any]:
        """Let every shard do something, and return what they say of it."""
        packed = pickle.dumps((command, argument))
        for end in self._ends:
            end.send_bytes(packed)
        answers: list[Any] = []
        failures: list[str] = []
        for end in self._ends:
            try:
                done, answer = end.recv()
            except EOFError:
                done, answer = False, ""  # it was killed, or another failed before it
            (answers if done else failures).append(answer)
        if failures:
            self.close()
            raise ShardFailed(max(failures) or "a shard has ended without a word")
        return answers


class _Shard:
    """One shard, in its own process."""

    def __init__(
        self, world: World, hosts: Sequence[SimHost], shards: Sequence[int], number: int, lookahead_s: float
    ) -> None:
        self._world, self._hosts, self._number, self._lookahead_s = world, hosts, number, lookahead_s
        self._border = Border(world.network, hosts, shards, number, lookahead_s)
        self._elsewhere: list[Node] = []  # never freed: that would write to memory that is shared until then
        self._begun: dict[int, Callable[[], Any]] = {}
        self._numbers = 0

    def settle(self) -> None:
        """Once in its own process: take only what is its own."""
        world, engine, here = self._world, self._world.engine, self._border.here
        engine.rng.seed(f"{engine.seed}/{self._number}")
        engine.sift(lambda what, arguments: here(_owner(world, what, arguments)))
        if self._number:
            engine.events = 0
        for host in self._hosts:
            if here(host):
                host.plug(self._border, host.endpoints)
            else:
                host.halt(HostState.DOWN)
        self._elsewhere = [node for node in world.nodes if not here(world.hosts[node.id])]
        world.nodes[:] = [node for node in world.nodes if here(world.hosts[node.id])]

    def do(self, command: str, argument: Any, others: dict[int, Connection]) -> Any:
        """What `Shards` wants."""
        if command == "run":
            self._run(argument, others)
        elif command == "ask":
            return argument(self._world)
        elif command == "begin":
            self._numbers += 1
            self._begun[self._numbers] = argument(self._world)
            return self._numbers
        else:
            return self._begun.pop(argument)()
        return None

    def _run(self, until: float, others: dict[int, Connection]) -> None:
        engine = self._world.engine
        while engine.now < until:
            engine.run_until(min(engine.now + self._lookahead_s, until))
            self._exchange(others)

    def _exchange(self, others: dict[int, Connection]) -> None:
        """Of each pair of shards, the one with the lower number speaks first; so none waits for one that waits for it,
        however much they have to say."""
        came: list[Crossing] = []
        for number, other in sorted(others.items()):
            leaving = pickle.dumps([tuple(crossing) for crossing in self._border.left_for(number)])
            if self._number < number:
                other.send_bytes(leaving)
            came += pickle.loads(other.recv_bytes())
            if self._number > number:
                other.send_bytes(leaving)
        self._border.entered(came)


def _serve(shard: _Shard, commands: Connection, others: dict[int, Connection], foreign: Sequence[Connection]) -> None:
    """A shard's process: do what is asked, until nobody is there to ask or to exchange with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
    for end in foreign:
        end.close()  # or nobody would notice when their owner is gone
    shard.settle()
    working = True
    try:
        while working:
            command, argument = commands.recv()
            try:
                answer = shard.do(command, argument, others)
            except (EOFError, ConnectionError):
                return  # another shard has failed, and says why
            except Exception:  # noqa: BLE001  # whatever it is, it is told where it can be read
                working, answer = False, traceback.format_exc()
            commands.send((working, answer))
    except (EOFError, ConnectionError):
        return  # nobody asks any more


def _shares(world: World, hosts: Sequence[SimHost], count: int) -> list[int]:
    """The shard of every host, by index. Hosts at one place, or at two that models put side by side, stay together."""
    latency = world.network.latency
    rows = len(latency) if isinstance(latency, Matrix | Euclid) else 1 << 62
    site_of = {host.index: host.place % rows // HOSTS_A_SITE for host in hosts}
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


def _owner(world: World, what: Any, arguments: tuple[Any, ...] | None) -> SimHost:
    """Whose host something that is to happen concerns. Raises ValueError when that can't be told."""
    host: SimHost | None = None
    if arguments is None:
        assert isinstance(what, SimTimer)
        host = what.owner
    elif what == world.network.arrive:
        host = world.network.at(arguments[2]) or arguments[0]
    elif isinstance(getattr(what, "__self__", None), SimHost):
        host = what.__self__
    if host is None:
        raise ValueError(
            f"a world with {what if arguments is not None else what.callback} still to happen can't be shared out:"
            " nobody knows which shard it is for"
        )
    return host


def _seen(world: World) -> list[Seen]:
    return [Seen(node.id, node.member, node.ring_version, node.ring_view()) for node in world.nodes]


def _events(world: World) -> int:
    return world.engine.events


def _trace_hash(world: World) -> str:
    return world.engine.trace_hash
