"""What one node of a tree sends to its parent: entries in pieces, a few at a time, then the last piece.

    FLOWING -> end() -> ENDING (all pieces taken? then the last one) -> OVER (taken, or the parent does not answer)

Entries wait a moment for others to share a piece with. A parent that has no room for more leaves pieces without an
answer; so do we, towards our children, by `full`. Holds at most what a few pieces of each child amount to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from dht.branch_messages import MAX_ENTRIES, Answer, Missing, Piece
from dht.host import Host, Timer

PIECE_BYTES: Final = 4096  # above which a piece is closed; one more answer may come on top
PIECES_IN_FLIGHT: Final = 4
LINGER_S: Final = 0.05
MAX_WAITING_BYTES: Final = 64 << 10
_HOLE_BYTES: Final = 40


class Flow(Enum):
    FLOWING = auto()
    ENDING = auto()
    OVER = auto()


class Upstream:
    """The way up of one branch. `send(piece, done)` asks the parent, `done(True)` when it took the piece; `over(ok)` is
    called once, at the end."""

    def __init__(
        self,
        host: Host,
        label: int,
        send: Callable[[Piece, Callable[[bool], None]], None],
        over: Callable[[bool], None],
    ) -> None:
        self._host, self._label, self._send, self._over = host, label, send, over
        self._flow = Flow.FLOWING
        self._waiting: deque[Answer | Missing] = deque()
        self._waiting_bytes = 0
        self._index = self._in_flight = 0
        self._held: deque[Callable[[], None]] = deque()
        self._last: tuple[int, bytes] | None = None
        self._timer: Timer | None = None

    @property
    def full(self) -> bool:
        """Whether those below should wait."""
        return self._waiting_bytes > MAX_WAITING_BYTES

    def when_room(self, then: Callable[[], None]) -> None:
        """Call `then` as soon as there is room, perhaps at once."""
        if self.full:
            self._held.append(then)
        else:
            then()

    def add(self, entry: Answer | Missing) -> None:
        """One more entry for the parent."""
        if self._flow is not Flow.FLOWING:
            return
        self._waiting.append(entry)
        self._waiting_bytes += _size(entry)
        if self._waiting_bytes >= PIECE_BYTES:
            self._pump()
        elif self._timer is None:
            self._timer = self._host.call_later(LINGER_S, self._lingered)

    def end(self, reached: int, value: bytes) -> None:
        """There will be no more entries: `reached` members answered, `value` is what their answers were reduced to."""
        if self._flow is Flow.FLOWING:
            self._flow = Flow.ENDING
            self._last = reached, value
            self._pump()

    def stop(self) -> None:
        """Send no more; nobody is told."""
        self._flow = Flow.OVER
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self._held.clear()

    def _lingered(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        while self._waiting and self._in_flight < PIECES_IN_FLIGHT:
            self._send_piece(self._next())
        if not self.full:
            while self._held:
                self._held.popleft()()
        if self._flow is Flow.ENDING and not self._waiting and not self._in_flight and self._last is not None:
            (reached, value), self._last = self._last, None
            self._send_piece(Piece(self._label, self._index, last=True, reached=reached, value=value))

    def _next(self) -> Piece:
        answers: list[Answer] = []
        holes: list[Missing] = []
        size = 0
        while self._waiting and size < PIECE_BYTES and max(len(answers), len(holes)) < MAX_ENTRIES:
            entry = self._waiting[0]
            if size and size + _size(entry) > PIECE_BYTES:
                break
            self._waiting.popleft()
            size += _size(entry)
            if isinstance(entry, Answer):
                answers.append(entry)
            else:
                holes.append(entry)
        self._waiting_bytes -= size
        return Piece(self._label, self._index, tuple(answers), tuple(holes))

    def _send_piece(self, piece: Piece) -> None:
        self._index += 1
        self._in_flight += 1

        def done(taken: bool) -> None:
            self._in_flight -= 1
            if self._flow is Flow.OVER:
                return
            if not taken or piece.last:
                self.stop()
                self._over(taken)
            else:
                self._pump()

        self._send(piece, done)


def _size(entry: Answer | Missing) -> int:
    return _HOLE_BYTES if isinstance(entry, Missing) else len(entry.value) + 24
