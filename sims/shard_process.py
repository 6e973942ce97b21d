"""† One shard of a world, in the process that is its own: lets its part of time pass, and does what `sims.shards` asks.

    settle (take only what is its own) -> [a window of time -> exchange with every other shard]* , questions in between

Windows begin with the instant at which the world was split, whatever pieces of time are asked for, so the run doesn't
depend on those. It ends when it has failed, when another shard has, or when nobody is there any more who could ask.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from dht.node import Node
from sims.border import Border, Crossing
from sims.engine import HostState, SimHost, SimTimer
from sims.world import World

LOOK_UP_EVERY_S = 1.0  # while nothing is asked: is there still somebody?


class _Abandoned(Exception):
    """There is nobody to work for, or to work with: who knows why has said so."""


class Shard:
    """Shard `number` of a world; `shards` has the number of every host's, by index. Made before its process begins."""

    def __init__(
        self, world: World, hosts: Sequence[SimHost], shards: Sequence[int], number: int, lookahead_s: float
    ) -> None:
        self._world, self._hosts, self._number, self._lookahead_s = world, hosts, number, lookahead_s
        self._border = Border(world.network, hosts, shards, number, lookahead_s)
        self._window_ends = world.engine.now + lookahead_s
        self._elsewhere: list[Node] = []  # never freed: that would write to memory that is shared until then
        self._begun: dict[int, Callable[[], Any]] = {}
        self._parent = os.getpid()

    def serve(self, commands: Connection, others: Mapping[int, Connection], foreign: Sequence[Connection]) -> None:
        """Do what is asked by `commands`, until nobody asks any more; `others` lead to the other shards. What is not
        this shard's is `foreign`, and closed, or else their owners' ends would go unnoticed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
        for end in foreign:
            end.close()
        gc.freeze()  # else the collector writes to all that the shards share
        working = self._try(self._settle, commands)
        while working:
            working = self._try(lambda: self._next(commands, others), commands)

    def _try(self, act: Callable[[], bytes | None], commands: Connection) -> bool:
        """Answer with what `act` says, if anything, or with how it failed. False when that was the last."""
        try:
            answer, going_on = act(), True
        except _Abandoned:
            return False
        except BaseException:  # noqa: BLE001  # whatever it is, it is told where it can be read
            answer, going_on = pickle.dumps((False, traceback.format_exc())), False
        try:
            if answer is not None:
                commands.send_bytes(answer)
        except OSError:
            return False
        return going_on

    def _settle(self) -> None:
        """Take only what is its own."""
        world, engine, border = self._world, self._world.engine, self._border
        engine.rng.seed(f"{engine.seed}/{self._number}")
        engine.sift(lambda what, arguments: border.here(owner(world, what, arguments)))
        if self._number:  # what was before the split is counted once
            engine.events = 0
            world.network.counters.clear()
        for host in self._hosts:
            if border.here(host):
                host.plug(border, host.endpoints)
            else:
                host.halt(HostState.DOWN)
        world.network.seal(border.here)
        self._elsewhere = [node for node in world.nodes if not border.here(world.hosts[node.id])]
        world.nodes[:] = [node for node in world.nodes if border.here(world.hosts[node.id])]

    def _next(self, commands: Connection, others: Mapping[int, Connection]) -> bytes:
        """Wait for a command, and do it."""
        try:
            while not commands.poll(LOOK_UP_EVERY_S):
                self._look_up()
            packed = commands.recv_bytes()
        except (EOFError, OSError):
            raise _Abandoned from None
        command, argument = pickle.loads(packed)
        return pickle.dumps((True, self._do(command, argument, others)))

    def _do(self, command: str, argument: Any, others: Mapping[int, Connection]) -> Any:
        engine = self._world.engine
        if command == "run":
            self._run(argument, others)
            return None
        now = engine.now
        if command == "ask":
            answer = argument(self._world)
        elif command == "begin":
            number, begin = argument
            self._begun[number] = begin(self._world)
            answer = None
        else:
            answer = self._begun.pop(argument)()
        if engine.now != now:
            raise RuntimeError("a function that is asked must not let time pass: only `run_for` does, in all shards")
        return answer

    def _run(self, until: float, others: Mapping[int, Connection]) -> None:
        engine = self._world.engine
        while True:
            engine.run_until(min(self._window_ends, until))
            if engine.now == self._window_ends:
                self._look_up()
                self._exchange(others)
                self._window_ends += self._lookahead_s
            if engine.now >= until:
                return

    def _exchange(self, others: Mapping[int, Connection]) -> None:
        """Of each pair of shards, the one with the lower number speaks first; so none waits for one that waits for it,
        however much they have to say."""
        came: list[Crossing] = []
        for number, other in sorted(others.items()):
            leaving = pickle.dumps([tuple(crossing) for crossing in self._border.left_for(number)])
            try:
                if self._number < number:
                    other.send_bytes(leaving)
                entering = other.recv_bytes()
                if self._number > number:
                    other.send_bytes(leaving)
            except (EOFError, OSError):
                raise _Abandoned from None
            came += pickle.loads(entering)
        self._border.entered(came)

    def _look_up(self) -> None:
        """Whoever started us may be killed without a word."""
        if os.getppid() != self._parent:
            raise _Abandoned


def owner(world: World, what: Any, arguments: tuple[Any, ...] | None) -> SimHost:
    """Whose host something concerns that is to happen in `world`. Raises ValueError when that can't be told."""
    host: SimHost | None = None
    if arguments is None:
        assert isinstance(what, SimTimer)
        host = what.owner
    elif what == world.network.arrive:
        host = world.network.at(arguments[2]) or arguments[0]
    elif what == world.network.deliver:
        host = arguments[1]
    elif isinstance(getattr(what, "__self__", None), SimHost):
        host = what.__self__
    if host is None:
        raise ValueError(
            f"a world with {what if arguments is not None else what.callback} still to happen can't be shared out:"
            " nobody knows which shard it is for"
        )
    return host
