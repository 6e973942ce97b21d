"""A question for every member of a ring, answered along a tree: each answers, and hands on what those below it said.

    Ask comes -> answered here, and handed out in parts (`dht.arcs`) -> every child ended -> last piece to the parent
       child silent, dead, busy, or without this kind -> its part, without itself, goes to others: to edges that lie
                                                         in it, or to whoever is found there
       deadline -> open children are named as missing -> last piece; each level's is earlier than its parent's

Answers are reduced on the way (a sum, a maximum), or collected one by one; whatever their number, they travel in
bounded pieces (`dht.upstream`). A part that is handed out again is asked anew from the start, and what the first child
still says is not heard, so that nobody counts twice. Questions may reach a member twice: answering must not change it.

**What a lying member can do**: answer falsely for its own part, which includes inventing members there, or leave it
out. It can't speak for other parts, and the work that it makes is bounded by its edges: questions are limited an origin
as each hop hands them on, and per hop (`dht.metering`), branches are bounded in all and a hop, answers by MAX_ANSWERS.
Kinds are registered by name; members that don't know a kind say so, are named as missing, and others take their part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

from dht.arcs import Arc, around, place_of, without
from dht.branch import UNFIT, About, Branch, Child, Kind, Outcome
from dht.branch_messages import (
    MAX_ARGUMENT_BYTES,
    MAX_BUDGET_MS,
    MAX_KIND_CHARS,
    MAX_REACHED,
    MAX_VALUE_BYTES,
    Answer,
    Ask,
    Asked,
    Missing,
    Piece,
    PieceTaken,
    Reason,
    Verdict,
)
from dht.branching import LEAST_BUDGET_S, Branching, Ring, one_place
from dht.broadcast import FAN_OUT
from dht.errors import BadDatagram
from dht.exchange import Incoming, Way
from dht.host import Host
from dht.messages import Message
from dht.metering import Limits, Meter
from dht.upstream import PIECES_IN_FLIGHT, Upstream

__all__ = ["About", "Aggregates", "Kind", "Missing", "Outcome", "Reason"]

MAX_KINDS: Final = 64
MAX_BRANCHES: Final = 256
MAX_BRANCHES_A_HOP: Final = 64
MAX_ANSWERS: Final = 20_000  # of one question, at who asked it
MAX_ANSWER_BYTES: Final = 16 << 20
QUESTIONS: Final = Limits(packets_per_s=20.0, bytes_per_s=100_000.0, burst_s=3.0)
PIECE_TIMEOUTS_S: Final = (1.0, 1.5, 2.5)

A = TypeVar("A")
V = TypeVar("V")


class _Gathered:
    """The answers of one question, at who asked it. `parse` raises BadDatagram for what is no answer."""

    def __init__(self, parse: Callable[[bytes], Any], done: Callable[[_Gathered, int], None]) -> None:
        self._parse, self._done = parse, done
        self.answers: dict[int, Any] = {}
        self.missing: dict[Missing | int | None, Missing] = {}  # by node id where it is one member alone
        self.overflowed = self._size_bytes = 0

    def when_room(self, then: Callable[[], None]) -> None:
        then()

    def add(self, entry: Answer | Missing) -> None:
        if isinstance(entry, Missing):
            if len(self.missing) < MAX_ANSWERS:
                self.missing[entry.id if entry.alone else entry] = entry
            else:
                self.overflowed += 1
        elif len(self.answers) >= MAX_ANSWERS or self._size_bytes + len(entry.value) > MAX_ANSWER_BYTES:
            self.overflowed += 1
        else:
            self.answers[entry.id] = self._parse(entry.value)
            self._size_bytes += len(entry.value)

    def end(self, reached: int, value: bytes) -> None:
        self._done(self, reached)

    def stop(self) -> None:
        pass


class _Key(NamedTuple):
    hop: int
    label: int


class Aggregates:
    """The questions of one ring that this node asks, answers and hands on."""

    def __init__(self, host: Host, ring: Ring, counters: Counter[str], fan_out: int = FAN_OUT) -> None:
        self._host, self._ring, self._counters = host, ring, counters
        self._place = place_of(ring.me)
        self._kinds: dict[str, Kind[Any, Any]] = {}
        # Of others' questions; ended ones stay until their deadline, or there is no room.
        self._branches: dict[_Key, Branch] = {}
        self._own: set[Branch] = set()
        self._meter = Meter(QUESTIONS)
        self._branching = Branching(host, ring, self._settle, counters, fan_out)
        ring.exchange.handle(Ask, Way.SESSION, self._on_ask)
        ring.exchange.handle(Piece, Way.SESSION, self._on_piece)

    def register(self, kind: Kind[A, V]) -> None:
        """Answer questions of this kind from now on. Raises ValueError for a name that is taken, empty or too long."""
        if not 0 < len(kind.name) <= MAX_KIND_CHARS or not kind.name.isprintable():
            raise ValueError(f"a kind of aggregate has a printable name of 1 to {MAX_KIND_CHARS} characters")
        if kind.name in self._kinds or len(self._kinds) >= MAX_KINDS:
            raise ValueError(f"the aggregate '{kind.name}' is already registered, or {MAX_KINDS} others are")
        self._kinds[kind.name] = kind

    def ask(self, kind: Kind[A, V], argument: bytes, deadline_s: float, done: Callable[[Outcome[V]], None]) -> None:
        """Ask every member of the ring, this node included; `done(outcome)` is called once, within `deadline_s`
        seconds. Raises ValueError for a kind that isn't registered, an argument that it would not read, or a deadline
        beyond ten minutes."""
        if self._kinds.get(kind.name) is not kind:
            raise ValueError(f"the aggregate '{kind.name}' is not registered here")
        if len(argument) > MAX_ARGUMENT_BYTES or not LEAST_BUDGET_S <= deadline_s <= MAX_BUDGET_MS / 1000:
            raise ValueError("an argument has at most 4096 bytes, a deadline is 0.05 to 600 seconds away")
        about = About(self._ring.me, None, 0)
        try:
            read = kind.read(argument, about)
        except BadDatagram as refusal:
            raise ValueError(f"no member would read this argument: {refusal}") from None

        def gathered(all_of_it: _Gathered, reached: int) -> None:
            self._own.discard(branch)
            value, answers, missing = branch.value, all_of_it.answers, all_of_it.missing
            named = tuple(hole for hole in missing.values() if not (hole.alone and hole.id in answers))
            count = reached if kind.reduce is not None else max(reached, len(answers))
            done(Outcome(value, answers, count, named, all_of_it.overflowed))

        branch = Branch(kind, argument, read, about, self._host.now() + deadline_s, _Gathered(kind.parse, gathered))
        self._own.add(branch)
        self._begin(branch, around(self._place))

    def stop(self) -> None:
        """Forget every question; nobody is told."""
        for branch in (*self._own, *self._branches.values()):
            self._close(branch)
        self._own.clear()
        self._branches.clear()

    # From the parent

    def _on_ask(self, incoming: Incoming, message: Ask) -> Message | None:
        hop, now = incoming.source, self._host.now()
        key = _Key(hop, message.label)
        if key in self._branches:
            return Asked(Verdict.TAKEN)  # the answer to the first one was lost
        arc = message.arc
        if arc.low == arc.high or not arc.holds(self._place):
            raise BadDatagram("a question for a part of the ring that is not ours")
        if arc.holds(place_of(hop)) or arc.holds(place_of(message.origin)):
            raise BadDatagram("a question whose part of the ring does not shrink")
        parent = self._ring.session(hop)
        kind = self._kinds.get(message.kind)
        if kind is None:
            self._counters["aggregate_unknown"] += 1
            return Asked(Verdict.UNKNOWN)
        if not self._ring.joined or parent is None or not self._has_room(hop, message, now):
            self._counters["aggregate_busy"] += 1
            return Asked(Verdict.BUSY)
        about = About(message.origin, hop, message.hops)
        read = kind.read(message.argument, about)

        def send(piece: Piece, done: Callable[[bool], None]) -> None:
            def answered(answer: Message | None) -> None:
                done(answer is not None)

            self._ring.exchange.ask(parent, piece, (PieceTaken,), answered, PIECE_TIMEOUTS_S)

        def over(taken: bool) -> None:
            branch.over = True
            if not taken:
                self._counters["aggregate_parent_lost"] += 1
                self._close(branch)

        up = Upstream(self._host, message.label, send, over)
        branch = Branch(kind, message.argument, read, about, now + message.budget_ms / 1000, up)
        self._branches[key] = branch
        # A question that comes again must find its branch, even one that has ended.
        keep_s = message.budget_ms / 1000 + sum(PIECE_TIMEOUTS_S)
        branch.later("forget", self._host.call_later(keep_s, lambda: self._forget(key)))
        incoming.reply(Asked(Verdict.TAKEN))
        self._begin(branch, without(arc, self._place))
        return None

    def _has_room(self, hop: int, message: Ask, now: float) -> bool:
        of_hop = [key for key in self._branches if key.hop == hop]
        if len(of_hop) >= MAX_BRANCHES_A_HOP and not self._forget_one_over(of_hop):
            return False
        if len(self._branches) >= MAX_BRANCHES and not self._forget_one_over(self._branches):
            return False
        return self._meter.take(hop, message.origin, len(message.argument), now)

    def _forget_one_over(self, keys: Iterable[_Key]) -> bool:
        """Make room: who asks for minutes and has its answer in a second must not fill the table for minutes."""
        over = next((key for key in keys if self._branches[key].over), None)
        if over is not None:
            self._forget(over)
        return over is not None

    def _begin(self, branch: Branch, regions: list[Arc]) -> None:
        left_s = branch.deadline - self._host.now()
        branch.later("deadline", self._host.call_later(left_s, lambda: self._cut_off(branch)))
        self._branching.begin(branch, regions)
        answer = branch.kind.answer(branch.read, branch.about)
        branch.reached += 1
        if answer is not None:
            self._answered(branch, answer)
        self._settle(branch)

    def _answered(self, branch: Branch, answer: Any) -> None:
        """What this node itself says."""
        if branch.kind.reduce is not None:
            branch.value = answer
            return
        packed = self._packed(branch, answer)
        if packed:
            branch.up.add(Answer(self._ring.me, packed))

    def _packed(self, branch: Branch, value: Any) -> bytes:
        """Empty, and a hole, where a value does not fit."""
        try:
            packed = branch.kind.pack(value)
        except UNFIT:
            packed = bytes(MAX_VALUE_BYTES + 1)
        if len(packed) <= MAX_VALUE_BYTES:
            return packed
        self._counters["aggregate_too_large"] += 1
        branch.up.add(Missing(self._ring.me, one_place(self._ring.me), Reason.TOO_LARGE))
        return b""

    # From the children

    def _on_piece(self, incoming: Incoming, message: Piece) -> Message | None:
        child = self._branching.by_label.get(message.label)
        if child is None or child.id != incoming.source:
            self._counters["aggregate_piece_late"] += 1
            return PieceTaken()  # so that it stops
        branch, kind = child.branch, child.branch.kind
        if message.index in child.held or len(child.held) >= PIECES_IN_FLIGHT or len(child.told) >= MAX_ANSWERS:
            self._counters["aggregate_piece_unheld"] += 1  # no more than an honest child has in flight
            return None
        if message.index not in child.told:
            entries: tuple[Answer | Missing, ...] = (*message.answers, *message.holes)
            for entry in entries:
                self._check(child, entry)
            value = kind.parse(message.value) if message.last and message.value and kind.reduce is not None else None
            child.told.add(message.index)
            for entry in entries:
                branch.up.add(entry)
            if message.last:
                self._child_ended(child, message.reached, value)
        child.held.add(message.index)

        def confirm() -> None:
            child.held.discard(message.index)
            incoming.reply(PieceTaken())

        branch.up.when_room(confirm)
        return None

    def _check(self, child: Child, entry: Answer | Missing) -> None:
        """Raises BadDatagram for what this child has no business to say."""
        if isinstance(entry, Missing):
            if not child.arc.covers(entry.arc) or (entry.id is not None and not child.arc.holds(place_of(entry.id))):
                raise BadDatagram("a hole in a part of the ring that was not handed out")
            return
        if child.branch.kind.reduce is not None or not child.arc.holds(place_of(entry.id)):
            raise BadDatagram("an answer from a part of the ring that was not handed out")
        child.branch.kind.parse(entry.value)

    def _child_ended(self, child: Child, reached: int, value: Any) -> None:
        branch, reduce = child.branch, child.branch.kind.reduce
        self._branching.drop(child)
        branch.reached = min(branch.reached + reached, MAX_REACHED)  # else our own word would be refused with a liar's
        if value is not None and reduce is not None:
            try:
                branch.value = value if branch.value is None else reduce(branch.value, value)
            except UNFIT:
                self._counters["aggregate_too_large"] += 1
                branch.up.add(Missing(child.id, child.arc, Reason.TOO_LARGE))
        self._settle(branch)

    # Ends

    def _settle(self, branch: Branch) -> None:
        if not branch.children and not branch.sought and branch.reached and not branch.ended:
            self._end(branch)

    def _cut_off(self, branch: Branch) -> None:
        """The time is over: what is missing is missing."""
        if branch.ended:
            return
        for child in list(branch.children.values()):
            branch.up.add(Missing(child.id, child.arc, Reason.LATE))
            self._branching.drop(child)
        for region in branch.sought:
            branch.up.add(Missing(None, region, Reason.UNREACHED))
        self._counters["aggregate_cut_off"] += 1
        self._end(branch)

    def _end(self, branch: Branch) -> None:
        branch.ended = True
        value = b""
        if branch.kind.reduce is not None and branch.value is not None and branch.about.hop is not None:
            value = self._packed(branch, branch.value)
        if branch.about.hop is None:
            self._close(branch)
        branch.up.end(branch.reached, value)

    def _close(self, branch: Branch) -> None:
        branch.ended = True
        for child in list(branch.children.values()):
            self._branching.drop(child)
        for timer in branch.timers.values():
            timer.cancel()
        if branch.about.hop is not None:
            branch.up.stop()

    def _forget(self, key: _Key) -> None:
        branch = self._branches.pop(key, None)
        if branch is not None:
            self._close(branch)
