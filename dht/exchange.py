"""Control messages between nodes: who handles which, how answers find back, one hop or many.

A handler is registered for a message type and for the way it may come: over an edge or session (the sender is
proven), or routed over the ring (the sender's id is only claimed). Whatever comes another way is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Flag, auto
from functools import partial
from typing import NamedTuple, TypeVar

from dht.edge import Edge
from dht.envelope import Content, Envelope, Inner, Mode
from dht.errors import BadDatagram
from dht.host import Endpoint, Host
from dht.messages import Control, Kind, Message, pack_control, split_control
from dht.path import Path, endpoint_of
from dht.peer import Peer
from dht.requests import TIMEOUTS_S, Requests
from dht.router import Router

M = TypeVar("M", bound=Message)
Done = Callable[[Message | None], None]
_CONTROL = bytes((Inner.CONTROL,))


class Way(Flag):
    """How a message may come."""

    SESSION = auto()
    ROUTED = auto()


class Incoming(NamedTuple):
    """Where a message came from, and the way back. `peer` is None when it was routed, `endpoint` when it did not come
    straight from its sender."""

    source: int
    peer: Peer | None
    endpoint: Endpoint | None
    hops: int
    reply: Callable[[Message], None]


class Exchange:
    """The control messages of one node."""

    def __init__(self, host: Host, router: Router, counters: Counter[str]) -> None:
        self._router, self._counters = router, counters
        self._requests = Requests(host, counters)
        self._handlers: dict[int, tuple[type[Message], Way, Callable[..., Message | None]]] = {}

    def handle(
        self, message: type[M], way: Way, handler: Callable[[Incoming, M], Message | None], *, instead: bool = False
    ) -> None:
        """Let `handler(incoming, message)` take messages of this type; what it returns is the answer, if one was
        asked for. Raises ValueError for a code that is taken, unless this one is to work `instead`."""
        if message.CODE in self._handlers and not instead:
            raise ValueError(f"message code {message.CODE} is already registered")
        self._handlers[message.CODE] = (message, way, handler)

    def stop(self) -> None:
        self._requests.stop()

    # Sending

    def tell(self, edge: Edge, message: Message) -> bool:
        """Send a message that wants no answer over a session."""
        return edge.send(_CONTROL + pack_control(message, Kind.TELL))

    def ask(
        self,
        edge: Edge,
        message: Message,
        answers: Sequence[type[Message]],
        done: Done,
        timeouts_s: Sequence[float] = TIMEOUTS_S,
        *,
        vital: bool = False,
    ) -> None:
        """Ask over a session; `vital` as in Requests."""
        send = partial(edge.send, expects_answer=True)
        self._requests.ask(send, message, answers, done, timeouts_s, before=_CONTROL, vital=vital)

    def ask_nearest(
        self,
        target: int,
        message: Message,
        answers: Sequence[type[Message]],
        done: Done,
        timeouts_s: Sequence[float] = TIMEOUTS_S,
    ) -> None:
        """Ask whoever is nearest to `target` on the ring."""
        send = partial(self._router.send, Mode.NEAREST, Content.CONTROL, target)
        self._requests.ask(send, message, answers, done, timeouts_s)

    # Receiving

    def from_session(self, peer: Peer, data: bytes, path: Path | None, edge: Edge | None = None) -> None:
        """A control message came over a peer's session. `edge` is what the ring has of that peer, when that is not the
        peer itself. Raises BadDatagram."""
        control = split_control(data)
        if control.kind is Kind.ANSWER:
            self._requests.answered(control)
            return
        reply = partial(self._answer, peer if edge is None else edge, path, control.transaction)
        incoming = Incoming(peer.id, peer, endpoint_of(path), peer.hops, reply)
        self._handle(control, Way.SESSION, incoming)

    def from_ring(self, envelope: Envelope, hops: int) -> None:
        """A control message came to the end of its way over the ring. Raises BadDatagram."""
        control = split_control(envelope.payload)
        if control.kind is Kind.ANSWER:
            self._requests.answered(control)
            return
        reply = partial(self._answer_over_ring, envelope.source, control.transaction)
        self._handle(control, Way.ROUTED, Incoming(envelope.source, None, None, hops, reply))

    def _answer(self, edge: Edge, path: Path | None, transaction: int, message: Message) -> None:
        edge.answer(_CONTROL + pack_control(message, Kind.ANSWER, transaction), path)

    def _answer_over_ring(self, asker: int, transaction: int, message: Message) -> None:
        self._router.send(Mode.EXACT, Content.CONTROL, asker, pack_control(message, Kind.ANSWER, transaction))

    def _handle(self, control: Control, way: Way, incoming: Incoming) -> None:
        entry = self._handlers.get(control.code)
        if entry is None:
            self._counters["message_unknown"] += 1
            return
        message_type, allowed, handler = entry
        if allowed is not way and way not in allowed:
            raise BadDatagram(f"a {message_type.__name__} must not come this way")
        returned = handler(incoming, message_type.parse(control.body))
        if returned is not None and control.kind is Kind.ASK:
            incoming.reply(returned)
