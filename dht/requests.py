"""Questions that want an answer: transaction numbers, repetition, timeouts.

Asking again must be harmless: every handler in this package may see the same question twice. The transaction
number is random, so that only who saw the question can answer it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from dht.errors import BadDatagram
from dht.host import Host, Timer
from dht.messages import Control, Kind, Message, pack_control

TIMEOUTS_S = (1.0, 1.5, 2.5)
MAX_PENDING = 4096


class _Pending:
    __slots__ = ("answer", "done", "packed", "send", "timeouts_s", "timer", "tries")

    def __init__(
        self,
        packed: bytes,
        send: Callable[[bytes], object],
        answer: Sequence[type[Message]],
        done: Callable[[Message | None], None],
        timeouts_s: Sequence[float],
    ) -> None:
        self.packed, self.send, self.answer, self.done, self.timeouts_s = packed, send, answer, done, timeouts_s
        self.tries = 0
        self.timer: Timer | None = None


class Requests:
    """The questions of one node that have no answer yet."""

    def __init__(self, host: Host, counters: Counter[str]) -> None:
        self._host = host
        self._counters = counters
        self._pending: dict[int, _Pending] = {}
        self._stopped = False

    @property
    def pending(self) -> int:
        """How many questions wait for an answer."""
        return len(self._pending)

    def ask(
        self,
        send: Callable[[bytes], object],
        message: Message,
        answer: type[Message] | Sequence[type[Message]],
        done: Callable[[Message | None], None],
        timeouts_s: Sequence[float] = TIMEOUTS_S,
        *,
        before: bytes = b"",
        vital: bool = False,
    ) -> None:
        """Send `message`, behind `before`, now and after each timeout but the last, until an `answer` comes:
        `done(answer)`; or `done(None)` after the last timeout. A `vital` question finds room in a full table: only for
        what is bounded by itself, such as one ping a peer."""
        if self._stopped or (len(self._pending) >= MAX_PENDING and not vital):
            self._counters["requests_refused"] += 1
            if not self._stopped:
                self._host.call_later(0.0, lambda: done(None))
            return
        transaction = self._host.rng.getrandbits(64)
        answers = (answer,) if isinstance(answer, type) else tuple(answer)
        packed = before + pack_control(message, Kind.ASK, transaction)
        pending = _Pending(packed, send, answers, done, timeouts_s)
        self._pending[transaction] = pending
        self._try(transaction, pending)

    def answered(self, control: Control) -> None:
        """Handle a control message of kind ANSWER. Raises BadDatagram."""
        pending = self._pending.get(control.transaction)
        if pending is None:
            self._counters["answer_late_or_unasked"] += 1
            return
        for kind in pending.answer:
            if control.code == kind.CODE:
                message = kind.parse(control.body)
                break
        else:
            raise BadDatagram(f"a message of code {control.code} does not answer what was asked")
        del self._pending[control.transaction]
        if pending.timer is not None:
            pending.timer.cancel()
        pending.done(message)

    def stop(self) -> None:
        """Forget every question and ask no more; nobody is told."""
        self._stopped = True
        for pending in self._pending.values():
            if pending.timer is not None:
                pending.timer.cancel()
        self._pending.clear()

    def _try(self, transaction: int, pending: _Pending) -> None:
        if pending.tries >= len(pending.timeouts_s):
            del self._pending[transaction]
            self._counters["request_timeout"] += 1
            pending.done(None)
            return
        timeout_s = pending.timeouts_s[pending.tries]
        pending.tries += 1
        pending.timer = self._host.call_later(timeout_s, partial(self._try, transaction, pending))
        pending.send(pending.packed)
