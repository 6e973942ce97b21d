"""Handshake counters that survive restarts: ours only grow, and a peer's is never accepted twice.

WireGuard stamps initiations with the clock; a clock set back then locks a host out (Donenfeld, WireGuard list,
2021-08). Ours start from what is on disk or from the clock, whichever is higher. What was accepted from each peer
goes to a journal before the answer is sent, so that a captured initiation stays worthless after a restart.
"""

from __future__ import annotations

from struct import Struct

from dht.storage import Storage

JOURNAL = "counters"
OWN = "epoch"
MAX_PEERS = 65_536
RESERVE = 1 << 20  # our counters are written in steps of this many
MAX_RESERVE = 1 << 63  # thousands of years at any rate of handshakes
COMPACT_AFTER = 4096  # entries appended before the journal is written anew
_ENTRY = Struct(">20sQ4s")
_MARK = b"ctr1"


class Greatest:
    """The greatest number accepted from each node, by node id, in the journal called `name`."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._greatest = self._read(storage.load(name) or b"")
        self._appended = 0
        self._compact()

    def of(self, node_id: int) -> int:
        """0 when none was accepted, or it was forgotten."""
        return self._greatest.get(node_id, 0)

    def accept(self, node_id: int, number: int) -> None:
        """Record `number` durably."""
        self._greatest.pop(node_id, None)
        if len(self._greatest) >= MAX_PEERS:
            del self._greatest[next(iter(self._greatest))]
        self._greatest[node_id] = number  # last in order: whoever was heard longest ago goes first
        self._storage.append(self._name, self._entry(node_id, number))
        self._appended += 1
        if self._appended >= COMPACT_AFTER:
            self._compact()

    def _compact(self) -> None:
        self._storage.save(self._name, b"".join(self._entry(*item) for item in self._greatest.items()))
        self._appended = 0

    @staticmethod
    def _entry(node_id: int, number: int) -> bytes:
        return _ENTRY.pack(node_id.to_bytes(20, "big"), number, _MARK)

    @staticmethod
    def _read(journal: bytes) -> dict[int, int]:
        greatest: dict[int, int] = {}
        # A crash or a full disk may leave half an entry, so whole ones are recognised by their mark.
        at = 0
        while at + _ENTRY.size <= len(journal):
            packed_id, number, mark = _ENTRY.unpack_from(journal, at)
            if mark != _MARK:
                at += 1
                continue
            node_id = int.from_bytes(packed_id, "big")
            greatest[node_id] = max(number, greatest.pop(node_id, 0))
            at += _ENTRY.size
        return dict(list(greatest.items())[-MAX_PEERS:])


class Counters:
    """Our own initiation counter and the greatest one accepted from each peer, by node id."""

    def __init__(self, storage: Storage, now: float) -> None:
        self._storage = storage
        self._next = max(self._read_reserve(storage.load(OWN) or b""), int(now * 1000) << 10)
        self._reserved = 0
        self._accepted = Greatest(storage, JOURNAL)

    @staticmethod
    def _read_reserve(stored: bytes) -> int:
        # A damaged file must not lift us to where no counter is left: whoever accepted one would never hear us again.
        reserved = int.from_bytes(stored, "big") if len(stored) == 8 else 0
        return reserved if reserved < MAX_RESERVE else 0

    def next(self) -> int:
        """A counter that no initiation of this identity has carried, from this state folder or by this clock."""
        self._next += 1
        if self._next >= self._reserved:
            self._reserved = self._next + RESERVE
            self._storage.save(OWN, self._reserved.to_bytes(8, "big"))
        return self._next

    def is_new(self, node_id: int, counter: int) -> bool:
        return counter > self._accepted.of(node_id)

    def accept(self, node_id: int, counter: int) -> None:
        """Record `counter` durably; everything up to it is refused from now on."""
        self._accepted.accept(node_id, counter)
