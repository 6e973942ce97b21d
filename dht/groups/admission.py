"""How two members of a group prove to each other, inside their session, that they are.

    asker:  Admit(proof) ->                  checked: an edge at this end
            <- Admitted(proof)               checked: an edge at the other end
    anything that fails the check: no answer, counted

The asker proves first, so that who only has a network certificate learns nothing: it can't make the question, and its
guesses get silence. Both carry the newest notice that their sender knows, so that nobody is judged by an epoch that is
over. Both ends may ask at once: each answer makes the same edge. Repeating either changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.features import Feature
from dht.groups.edges import GroupEdge
from dht.groups.notice import MAX_NOTICE_BYTES
from dht.groups.right import MAX_PROOF_BYTES, Right
from dht.messages import Kind, Message, pack_control, split_control
from dht.packing import Fields, Value
from dht.peer import Peer
from dht.requests import Requests

TIMEOUTS_S = (0.8, 1.2, 2.0)


@dataclass(frozen=True, slots=True)
class Admit(Message):
    """The sender is a member (`joined`: with a place on the group's ring), as its proof shows; is the receiver?"""

    CODE = 48
    joined: bool
    proof: bytes
    notice: bytes

    def fields(self) -> dict[int, Value]:
        return {0: self.joined, 1: self.proof, 2: self.notice}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.flag(0), fields.octets(1, 0, MAX_PROOF_BYTES), fields.octets(2, 0, MAX_NOTICE_BYTES, b""))


@dataclass(frozen=True, slots=True)
class Admitted(Admit):
    """The receiver of an Admit is one, and takes its sender for one."""

    CODE = 49


class Admission:
    """Admission to one group. `joined()`: whether this node has its place on the group's ring; `notice()`: the newest
    that it knows, packed; `heed(notice)` takes one; `admit(peer, joined)` makes an edge, or None when there is no room;
    `up(edge)` is told once the other end has been, or is about to be, answered; `refused(reason)` is told."""

    def __init__(
        self,
        right: Right,
        requests: Requests,
        joined: Callable[[], bool],
        notice: Callable[[], bytes],
        heed: Callable[[bytes], None],
        admit: Callable[[Peer, bool], GroupEdge | None],
        up: Callable[[GroupEdge], None],
        refused: Callable[[str], None],
    ) -> None:
        self._requests = requests
        self.use(right)
        self._joined, self._notice, self._heed = joined, notice, heed
        self._admit, self._up, self._refused = admit, up, refused

    def use(self, right: Right) -> None:
        """Judge by another right from now on."""
        self._right, self._head = right, bytes((Inner.GROUP,)) + right.tag + bytes((Inner.ADMISSION,))

    def seek(self, peer: Peer, done: Callable[[GroupEdge | None], None]) -> None:
        """Prove ourselves to `peer`, and have it prove itself; None when it does not."""
        if not peer.features & Feature.GROUPS or not self._right.holds:
            done(None)
            return

        head, joined = self._head, self._joined()

        def answered(answer: Message | None) -> None:
            edge = None
            try:
                if isinstance(answer, Admitted) and peer.up and head == self._head:
                    edge = self._judge(peer, answer)
                if edge is not None:
                    edge.told_joined |= joined
                    self._up(edge)
            finally:  # a refused answer is an answer to who waits
                done(edge)

        def send(packed: bytes) -> None:
            peer.send(head + packed, expects_answer=True)

        question = Admit(joined, self._right.proof(peer), self._notice())
        self._requests.ask(send, question, (Admitted,), answered, TIMEOUTS_S)

    def received(self, peer: Peer, data: bytes) -> None:
        """Handle what a peer sent in the matter of admission. Raises BadDatagram."""
        control = split_control(data)
        if control.kind is Kind.ANSWER:
            self._requests.answered(control)
            return
        if control.kind is not Kind.ASK or control.code != Admit.CODE:
            raise BadDatagram(f"a message of code {control.code} in the matter of admission")
        edge = self._judge(peer, Admit.read(Fields.parse(control.body, "Admit")))
        if edge is not None:
            answer = Admitted(self._joined(), self._right.proof(peer), self._notice())
            peer.send(self._head + pack_control(answer, Kind.ANSWER, control.transaction))
            edge.told_joined |= answer.joined
            self._up(edge)

    def _judge(self, peer: Peer, message: Admit) -> GroupEdge | None:
        if message.notice:
            self._heed(message.notice)
        if not self._right.holds:
            self._refused("no_right")
        elif not self._right.accepts(peer, message.proof):
            self._refused("proof")
        else:
            return self._admit(peer, message.joined)
        return None
