"""† The simulated shell: an agenda of events in virtual time, and `SimHost`, the `Host` that lives on it.

Deterministic: one seeded random generator serves the whole world, and events of the same instant run in the order
in which they were scheduled, so a seed always gives the same run, down to the trace hash. It never reads a real
clock, opens no socket, starts no thread, and never calls protocol code but from an event.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from hashlib import blake2b
from random import Random
from typing import Any, Protocol

from dht.host import Endpoint, Receive, ReceiveBatch, Rng
from sims.agenda import Agenda
from sims.errors import NeverHappened

START = 1_800_000_000.0  # Every world begins in January 2027, so that certificates have an absolute time to meet.
TRACE_CHUNK_BYTES = 1 << 16
FROZEN_QUEUE_BYTES = 212_992  # what Linux gives a UDP socket by default (net.core.rmem_default)

_TRACE = struct.Struct("<dIII")


class SimTimer:
    """A pending callback in virtual time. With an `owner`, it waits while that host is frozen."""

    __slots__ = ("_engine", "callback", "owner")

    def __init__(self, engine: Engine, callback: Callable[[], None], owner: SimHost | None = None) -> None:
        self._engine, self.owner = engine, owner
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._engine.count_cancelled()

    def run(self) -> None:
        """Call back once; nothing when cancelled."""
        callback = self.callback
        if callback is not None:
            self.callback = None
            callback()


class Engine:
    """Virtual time. `after_event` functions run after every event: the place for omniscient checks."""

    __slots__ = ("_agenda", "_hash", "_sequence", "_trace", "after_event", "events", "now", "rng", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now = START
        self.events = 0
        self.after_event: list[Callable[[], None]] = []
        self._agenda = Agenda()
        self._sequence = 0
        self._hash = blake2b(digest_size=16)
        self._trace = bytearray()

    def post(self, delay_s: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function(*arguments)` in `delay_s` seconds, in a later event even when that is 0. Not cancellable."""
        self._sequence += 1
        at = self.now + delay_s if delay_s > 0 else self.now
        self._agenda.add(at, self._sequence, function, arguments)

    def post_at(self, at: float, function: Callable[..., object], *arguments: Any) -> None:
        """As `post`, at the instant `at`, which isn't over."""
        assert at >= self.now, f"it is {self.now} already, not {at}"
        self._sequence += 1
        self._agenda.add(at, self._sequence, function, arguments)

    def sift(self, keep: Callable[[Any, tuple[Any, ...] | None], bool]) -> None:
        """Of what is to happen, drop what `keep` doesn't hold for. It is given what `post` was, function and arguments,
        or a SimTimer and None."""
        self._agenda.sift(keep)

    def call_later(self, delay_s: float, callback: Callable[[], None], owner: SimHost | None = None) -> SimTimer:
        """A timer. With an `owner`, it waits while that host is frozen, and never runs once it is down."""
        timer = SimTimer(self, callback, owner)
        self._sequence += 1
        at = self.now + delay_s if delay_s > 0 else self.now
        self._agenda.add(at, self._sequence, timer, None)
        return timer

    def run_for(self, duration_s: float) -> None:
        """Run every event of the next `duration_s` seconds."""
        self._run_to(self.now + duration_s)

    def run_until(self, goal: float | Callable[[], bool], limit_s: float = 3600.0, check_every_s: float = 0.1) -> float:
        """Run to the instant `goal`, or until the predicate `goal` holds; returns the simulated seconds it took.

        A predicate is looked at every `check_every_s` of simulated time (0: after every event, which costs).
        Raises NeverHappened when it does not hold within `limit_s`.
        """
        began = self.now
        if not callable(goal):
            self._run_to(goal)
            return self.now - began
        deadline = began + limit_s
        while not goal():
            if self.now >= deadline:
                name = getattr(goal, "__name__", repr(goal))
                raise NeverHappened(f"seed {self.seed}: '{name}' did not hold within {limit_s:g} simulated seconds")
            if check_every_s > 0:
                self._run_to(min(self.now + check_every_s, deadline))
            elif not self._step(deadline):
                self.now = deadline
        return self.now - began

    def trace(self, source: int, destination: int, size: int) -> None:
        """Note a delivery made now in the trace hash."""
        trace = self._trace
        trace += _TRACE.pack(self.now, source, destination, size)
        if len(trace) >= TRACE_CHUNK_BYTES:
            self._hash.update(trace)
            trace.clear()

    @property
    def trace_hash(self) -> str:
        """32 hex digits that two runs share only when the same datagrams arrived at the same instants."""
        self._hash.update(self._trace)
        self._trace.clear()
        return self._hash.hexdigest()

    def count_cancelled(self) -> None:
        """A timer has become void."""
        self._agenda.cancelled()

    def _run_to(self, until: float) -> None:
        agenda, present, hooks, running = self._agenda, self._agenda.present, self.after_event, HostState.RUNNING
        while present or agenda.turn(until):
            if -present[-1][0] > until:
                break
            before, _, what, arguments = present.pop()
            if arguments is not None:
                self.now = -before
                self.events += 1
                what(*arguments)
            else:
                callback = what.callback
                if callback is None:
                    agenda.dropped()
                    continue
                self.now = -before
                self.events += 1
                owner = what.owner
                if owner is None or owner.state is running:
                    what.callback = None
                    callback()
                else:
                    owner.fire(what)
            if hooks:
                for hook in hooks:
                    hook()
        if until > self.now:
            self.now = until

    def _step(self, until: float) -> bool:
        """Run the next event due by `until`; False when there is none."""
        agenda, present = self._agenda, self._agenda.present
        while (present or agenda.turn(until)) and -present[-1][0] <= until:
            # The event itself may schedule others for this instant; they are left for the next step.
            before, _, what, arguments = present.pop()
            if arguments is None and what.callback is None:
                agenda.dropped()
                continue
            self.now = -before
            self.events += 1
            if arguments is not None:
                what(*arguments)
            elif what.owner is None:
                what.run()
            else:
                what.owner.fire(what)
            for hook in self.after_event:
                hook()
            return True
        return False


class HostState(Enum):
    RUNNING = auto()
    FROZEN = auto()  # stopped by SIGSTOP: time passes, nothing runs, datagrams wait in the socket
    DOWN = auto()  # for good; a restarted process gets a new SimHost


class Carrier(Protocol):
    """What a SimHost needs of its network."""

    def carry(self, source: SimHost, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """Take a datagram off `source`'s hands; it may arrive in a later event."""


class SimHost:
    """A `Host` in a simulated world. Made by `sims.network.Network.host`.

    Counts what it sends and what is handed to it, with IP and UDP headers, whatever becomes of the datagrams.
    `index` is unique in its world; `place` is what latency models know it by. `endpoint` is the first of `endpoints`.
    """

    __slots__ = (
        "_changed",
        "_network",
        "_receive",
        "_stalled",
        "_waiting",
        "_waiting_bytes",
        "endpoint",
        "endpoints",
        "engine",
        "group",
        "header_bytes",
        "index",
        "place",
        "received_bytes",
        "received_class",
        "received_datagrams",
        "sent_bytes",
        "sent_datagrams",
        "state",
    )

    def __init__(self, engine: Engine, network: Carrier, endpoint: Endpoint, index: int = 0, place: int = 0) -> None:
        self.engine = engine
        self.endpoint = endpoint
        self.endpoints: tuple[Endpoint, ...] = (endpoint,)
        self.index, self.place = index, place
        self.group = 0
        self.state = HostState.RUNNING
        self.header_bytes = 48 if ":" in endpoint.address else 28
        self.sent_bytes = self.sent_datagrams = 0
        self.received_bytes = self.received_datagrams = 0
        self.received_class = 0
        self._network = network
        self._receive: Receive | None = None
        self._changed: Callable[[], None] | None = None
        self._stalled: list[SimTimer] = []
        self._waiting: deque[tuple[bytes, Endpoint, int]] = deque()
        self._waiting_bytes = 0

    def __repr__(self) -> str:
        return f"<SimHost {self.index} at {self.endpoint}, {self.state.name.lower()}>"

    @property
    def rng(self) -> Rng:
        return self.engine.rng

    def now(self) -> float:
        return self.engine.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> SimTimer:
        return self.engine.call_later(delay_s, callback, self)

    def send(self, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        if self.state is HostState.RUNNING:
            self.sent_datagrams += 1
            self.sent_bytes += len(datagram) + self.header_bytes
            self._network.carry(self, to, datagram, traffic_class)

    def send_batch(self, to: Endpoint, datagrams: Sequence[bytes], traffic_class: int = 0) -> None:
        for datagram in datagrams:
            self.send(to, datagram, traffic_class)

    def send_whole(self, to: Endpoint, datagram: bytes) -> bool:
        self.send(to, datagram)
        return True

    def send_run(self, to: Endpoint, buffer: bytes | memoryview, size: int, traffic_class: int = 0) -> None:
        for start in range(0, len(buffer), size):
            self.send(to, bytes(buffer[start : start + size]), traffic_class)

    def local_endpoints(self) -> Sequence[Endpoint]:
        return self.endpoints

    def on_receive(self, receive: Receive) -> None:
        self._receive = receive

    def on_receive_batch(self, receive: ReceiveBatch) -> None:
        """Never: in this world every datagram arrives by itself."""

    def on_addresses_changed(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    # What follows is for the world around the host, not for protocol code.

    def fire(self, timer: SimTimer) -> None:
        """A timer of this host is due."""
        if self.state is HostState.RUNNING:
            timer.run()
        elif self.state is HostState.FROZEN:
            self._stalled.append(timer)

    def deliver(self, datagram: bytes, source: Endpoint, traffic_class: int = 0) -> bool:
        """A datagram has arrived; False when nobody will ever read it."""
        if self.state is HostState.RUNNING:
            self.received_datagrams += 1
            self.received_bytes += len(datagram) + self.header_bytes
            if self._receive is not None:
                self.received_class = traffic_class
                self._receive(datagram, source)
            return True
        if self.state is HostState.FROZEN and self._waiting_bytes + len(datagram) <= FROZEN_QUEUE_BYTES:
            self._waiting_bytes += len(datagram)
            self._waiting.append((datagram, source, traffic_class))
            return True
        return False

    def halt(self, state: HostState) -> None:
        """Freeze, or go down for good."""
        if self.state is not HostState.DOWN:
            self.state = state
        if self.state is HostState.DOWN:
            self._receive = self._changed = None
            self._stalled.clear()
            self._waiting.clear()

    def thaw(self) -> None:
        """Run again: first what waits in the socket, then overdue timers, as `dht.timers` has it after SIGCONT."""
        if self.state is not HostState.FROZEN:
            return
        self.state = HostState.RUNNING
        waiting, stalled = self._waiting, self._stalled
        self._waiting, self._stalled, self._waiting_bytes = deque(), [], 0
        for datagram, source, traffic_class in waiting:
            self.engine.post(0.0, self.deliver, datagram, source, traffic_class)
        for timer in stalled:
            self.engine.post(0.0, self.fire, timer)

    def plug(self, network: Carrier, endpoints: Sequence[Endpoint]) -> None:
        """Send through `network` from now on, and listen at `endpoints`."""
        self._network = network
        self.endpoint, self.endpoints = endpoints[0], tuple(endpoints)
        self.header_bytes = 48 if ":" in self.endpoint.address else 28

    def relocate(self, network: Carrier, endpoints: Sequence[Endpoint]) -> None:
        """Take new addresses; protocol code hears of it in an event of its own."""
        self.plug(network, endpoints)
        self.engine.post(0.0, self._tell_changed)

    def _tell_changed(self) -> None:
        if self.state is HostState.RUNNING and self._changed is not None:
            self._changed()
