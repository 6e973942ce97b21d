"""Asks peers how long a plaintext passes on the path in use, and answers them.

    much to send -> room_bytes -> `dht.sizes` says that a question is due -> sent whole, or refused by our own link
    question (padded to the length in question) -> answer: so many bytes came

When to ask, and what follows from answers and from silence, `dht.sizes` decides. No timer, no state but each peer's.
"""

from __future__ import annotations

from collections.abc import Callable

from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.features import Feature
from dht.host import Host
from dht.path import Path
from dht.peer import Peer
from dht.session import NoKeypair
from dht.sizes import DEFAULT_BYTES, FLOOR_BYTES, plaintext_bytes

_QUESTION, _ANSWER = 0, 1


class SizeQuestions:
    """Those of one node. `send_by(peer, path, plaintext)` seals and sends; `carry_whole(datagram, path)` moves a
    datagram in one piece or not at all, False when our own link can't carry it."""

    def __init__(self, host: Host, send_by: Callable[[Peer, Path | None, bytes], bool]) -> None:
        self._host, self._send_by = host, send_by
        self.carry_whole: Callable[[bytes, Path], bool] = lambda datagram, path: True
        self.longest_bytes = DEFAULT_BYTES  # of a plaintext, as far as this node's own links go

    def room_bytes(self, peer: Peer) -> int:
        """The longest plaintext that an edge surely carries in one datagram. To be asked when there is much to send:
        now and then that makes sure, or tries whether more would pass."""
        size = peer.size
        if size.path != peer.path:
            knows = peer.features & Feature.SIZE
            ceiling = min(self.longest_bytes, plaintext_bytes(peer.datagram_bytes)) if knows else FLOOR_BYTES
            size.begin(peer.path, ceiling, self._host.now())
        if self._host.now() >= size.due_at:
            self._ask(peer)
        return size.proven_bytes

    def take(self, peer: Peer, plaintext: bytes, path: Path) -> None:
        """Handle a question of how long a plaintext passes, or its answer. Raises BadDatagram."""
        if len(plaintext) >= 3 and plaintext[1] == _QUESTION:
            answer = bytes((Inner.SIZE, _ANSWER, plaintext[2])) + len(plaintext).to_bytes(2, "big")
            self._send_by(peer, path, answer)
        elif len(plaintext) == 5 and plaintext[1] == _ANSWER:
            if peer.size.epoch == plaintext[2]:
                peer.size.answered(int.from_bytes(plaintext[3:], "big"), self._host.now())
        else:
            raise BadDatagram(f"{len(plaintext)} bytes about the length of plaintexts")

    def _ask(self, peer: Peer) -> None:
        now, path = self._host.now(), peer.path
        while path is not None and (size := peer.size.question(now, peer.rtt_s or 0.0)) is not None:
            try:
                question = bytes((Inner.SIZE, _QUESTION, peer.size.epoch)).ljust(size, b"\0")
                datagram = peer.session.seal(question, now)
            except NoKeypair:
                return
            if self.carry_whole(datagram, path):
                return
            peer.size.refused(now)  # Our own link is too narrow: no need to wait.
