"""Connectivity checks: whether one path to a peer works both ways, how long it takes, and from where the peer sees us.

    question: 0 | transaction (8)        answer: 1 | transaction (8) | our endpoint as seen, when the path is direct

A check travels inside the peers' session, so only they can ask and answer, and it is answered on the very path it came
by: an answer proves both directions. It never changes which path is in use; who asks decides that. An answer that
comes after its asker has given up still proves the path, and how slow it is.
Source: ICE (RFC 8445), section 7, without its roles: the session already says who is who.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.host import Endpoint, Host, Timer
from dht.path import Path, endpoint_of
from dht.peer import Peer
from dht.sessions import Sessions

CHECK_TIMEOUT_S = 1.0
LATE_S = 4.0  # an answer counts for so long after the question
MAX_PENDING = 4096
MAX_PENDING_A_PEER = 64
VITAL_A_PEER = 16  # beyond that, for the path in use: nobody may keep us from checking it
_QUESTION, _ANSWER = 0, 1
_TRANSACTION_BYTES = 8
_CHECK = bytes((Inner.CHECK,))


@dataclass(frozen=True, slots=True)
class Checked:
    """A check that was answered. `observed`: where the peer sees us on this path, when it is direct."""

    rtt_s: float
    observed: Endpoint | None


Done = Callable[[Checked | None], None]


@dataclass(slots=True, eq=False)
class _Pending:
    peer: Peer
    path: Path | None
    sent_at: float
    done: Done
    timer: Timer
    late: bool = False  # who asked has been told that there was no answer


class Checks:
    """The checks of one node. `heard(peer, path)` is told of every question that came by `path`."""

    def __init__(self, host: Host, sessions: Sessions, counters: Counter[str]) -> None:
        self._host, self._sessions, self._counters = host, sessions, counters
        self._pending: dict[int, _Pending] = {}
        self._of_peer: Counter[int] = Counter()
        self._stopped = False
        self.heard: Callable[[Peer, Path | None], None] = lambda peer, path: None
        self.answered: Callable[[Peer, Path | None, Checked], None] = lambda peer, path, checked: None
        self.arrived: Callable[[Path | None], None] = lambda path: None
        self.sent: Callable[[Path | None], None] = lambda path: None

    def check(
        self, peer: Peer, path: Path | None, done: Done, timeout_s: float = CHECK_TIMEOUT_S, *, vital: bool = False
    ) -> bool:
        """Send one question by `path` (None: over the overlay); `done` gets the answer, or None after `timeout_s`.
        False, and nothing follows, when there are too many already; a `vital` one, for the path in use, has room of
        its own."""
        if self._stopped:
            return False
        room = MAX_PENDING_A_PEER + VITAL_A_PEER * vital
        if self._of_peer[peer.id] >= room or (len(self._pending) >= MAX_PENDING and not vital):
            self._counters["checks_refused"] += 1
            return False
        transaction = self._host.rng.getrandbits(64)
        timer = self._host.call_later(timeout_s, lambda: self._give_up(transaction))
        self._pending[transaction] = _Pending(peer, path, self._host.now(), done, timer)
        self._of_peer[peer.id] += 1
        question = _CHECK + bytes((_QUESTION,)) + transaction.to_bytes(_TRANSACTION_BYTES, "big")
        self.sent(path)
        self._sessions.send_by(peer, path, question)
        return True

    def received(self, peer: Peer, body: bytes, path: Path | None) -> None:
        """Handle a check that came by `path`. Raises BadDatagram."""
        if len(body) < 1 + _TRANSACTION_BYTES:
            raise BadDatagram(f"a check of {len(body)} bytes")
        kind, transaction, rest = body[0], body[1 : 1 + _TRANSACTION_BYTES], body[1 + _TRANSACTION_BYTES :]
        if kind == _QUESTION and not rest:
            self.arrived(path)
            self.sent(path)
            here = endpoint_of(path)
            answer = bytes((_ANSWER,)) + transaction + (b"" if here is None else here.pack())
            self._sessions.send_by(peer, path, _CHECK + answer)
            self.heard(peer, path)
        elif kind == _ANSWER:
            self._take(peer, int.from_bytes(transaction, "big"), Endpoint.parse(rest) if rest else None, path)
        else:
            raise BadDatagram(f"no check is of kind {kind}")

    def stop(self) -> None:
        """Forget every question and ask no more; nobody is told."""
        self._stopped = True
        for pending in self._pending.values():
            pending.timer.cancel()
        self._pending.clear()
        self._of_peer.clear()

    def _take(self, peer: Peer, transaction: int, observed: Endpoint | None, path: Path | None) -> None:
        pending = self._pending.get(transaction)
        if pending is None or pending.peer is not peer:
            self._counters["check_late_or_unasked"] += 1
            return
        if pending.path != path:
            # A NAT sent the answer from elsewhere; that path must be checked for itself.
            self._counters["check_answered_elsewhere"] += 1
            self.heard(peer, path)
            return
        pending.timer.cancel()
        self._forget(transaction)
        checked = Checked(self._host.now() - pending.sent_at, observed)
        self.answered(peer, path, checked)
        if not pending.late:
            pending.done(checked)

    def _give_up(self, transaction: int) -> None:
        pending = self._pending.get(transaction)
        if pending is None:
            return
        left_s = pending.sent_at + LATE_S - self._host.now()
        if pending.late or left_s <= 0 or self._of_peer[pending.peer.id] > MAX_PENDING_A_PEER // 2:
            self._forget(transaction)
        else:
            pending.timer = self._host.call_later(left_s, lambda: self._give_up(transaction))
        if not pending.late:
            pending.late = True
            pending.done(None)

    def _forget(self, transaction: int) -> None:
        peer_id = self._pending.pop(transaction).peer.id
        self._of_peer[peer_id] -= 1
        if self._of_peer[peer_id] <= 0:
            del self._of_peer[peer_id]
