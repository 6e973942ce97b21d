"""One node's share of the ring's records: a bounded table that takes `now` and returns what became of an offer.

A lower sequence never replaces a higher one of the same owner, not even after the higher has expired: its number
is remembered as a floor for as long as an older record could still be alive. What one owner may take up (count,
bytes, rate) is bounded, so that one member can fill nobody's table. Only records that change something use up
an owner's rate: replaying what is already held can't silence it. Keeps proven records only (`Record` can't be
had otherwise). Never sends, never schedules, never reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from hashlib import blake2s
from typing import Final

from dht.ids import id_bytes, in_open_closed
from dht.records import CLOCK_TOLERANCE_S, MAX_LIFETIME_S, REPLICAS, Record, replica_points

MAX_RECORDS: Final = 16384
MAX_OWNER_RECORDS: Final = 192  # what a node publishes at most, as few nodes may share all records
MAX_OWNER_BYTES: Final = 192 * 1024
MAX_KEY_OWNERS: Final = 256
# A node renews its 192 records at most every few minutes; a burst lets it do so in one go, twice.
OWNER_RATE_PER_S: Final = 2.0
OWNER_BURST: Final = 384
SWEEP_INTERVAL_S: Final = 5.0
DIGEST_BYTES: Final = 16


class Outcome(IntEnum):
    """What became of an offered record. The values travel in messages: never renumber."""

    STORED = 0
    SAME = 1  # already held; as good as stored
    OLDER = 2  # its sequence is lower than one seen before, or equal with another content
    TAKEN = 3  # the name is exclusively another's, or exclusivity is asked for a name that another has
    FULL = 4  # the owner, the key or the whole table has no room
    LIMITED = 5  # the owner's records change too often; try again later
    EXPIRED = 6


class _Account:
    """What one owner takes up, its rate, and the floors its expired records left."""

    __slots__ = ("floors", "records", "refilled_at", "size_bytes", "tokens")

    def __init__(self, now: float) -> None:
        self.records = 0
        self.size_bytes = 0
        self.floors: dict[int, tuple[int, float]] = {}  # key -> sequence, until when; oldest first
        self.tokens = float(OWNER_BURST)
        self.refilled_at = now

    def take(self, now: float) -> bool:
        """Use up one token, when there is one."""
        self.tokens = min(OWNER_BURST, self.tokens + (now - self.refilled_at) * OWNER_RATE_PER_S)
        self.refilled_at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def rests(self) -> bool:
        """Whether nothing is lost by forgetting this account."""
        return not self.records and not self.floors


class RecordStore:
    """Records by key and owner, at most one of each."""

    def __init__(self, max_records: int = MAX_RECORDS) -> None:
        self._max_records = max_records
        self._records: dict[int, dict[int, Record]] = {}
        self._accounts: dict[int, _Account] = {}
        self._count = 0
        self._swept_at = float("-inf")

    def __len__(self) -> int:
        return self._count

    def offer(self, record: Record, now: float) -> Outcome:
        """Keep `record` if the rules allow it; the outcome says which rule decided."""
        if record.expires_at <= now:
            return Outcome.EXPIRED
        if now >= self._swept_at + SWEEP_INTERVAL_S:
            self.expire(now)
        owner_id = record.owner.id
        owners = self._records.get(record.key, {})
        held = owners.get(owner_id)
        if held is not None and held.sequence == record.sequence and held.body == record.body:
            return Outcome.SAME
        if record.sequence <= self._floor(record.key, owner_id):
            return Outcome.OLDER
        for other in owners.values():
            if other is not held and other.expires_at > now and (record.exclusive or other.exclusive):
                return Outcome.TAKEN
        if not self._has_room(record, held, owners):
            return Outcome.FULL
        account = self._accounts.get(owner_id) or _Account(now)
        if not account.take(now):
            return Outcome.LIMITED
        self._accounts[owner_id] = account
        if held is not None:
            self._remove(held)
        account.floors.pop(record.key, None)
        account.records += 1
        account.size_bytes += len(record.raw)
        self._count += 1
        self._records.setdefault(record.key, {})[owner_id] = record
        return Outcome.STORED

    def find(self, key: int, now: float) -> list[Record]:
        """The live records under `key`, one an owner, highest sequence first."""
        live = [record for record in self._records.get(key, {}).values() if record.expires_at > now]
        return sorted(live, key=lambda record: (-record.sequence, record.owner.id))

    def sequence(self, key: int, owner_id: int) -> int:
        """The highest sequence seen of this owner under `key`, as far as it matters still; 0 for none."""
        return max(0, self._floor(key, owner_id))

    def expire(self, now: float) -> int:
        """Drop what has expired; how many records that were."""
        self._swept_at = now
        everything = [record for owners in self._records.values() for record in owners.values()]
        expired = [record for record in everything if record.expires_at <= now]
        for owner_id, account in list(self._accounts.items()):
            for key, (_, until) in list(account.floors.items()):
                if until <= now:
                    del account.floors[key]
            if account.rests():
                del self._accounts[owner_id]
        for record in expired:
            self._remove(record)
            self._leave_floor(record, now)
        return len(expired)

    def between(self, left: int, right: int, now: float, replicas: int = REPLICAS) -> Iterator[tuple[int, Record]]:
        """The live records of which a replica point lies in (left, right], each with that point: what a node
        taking over this part of the ring should be given. The whole ring when left == right."""
        for key, owners in list(self._records.items()):
            for point in replica_points(key, replicas):
                if in_open_closed(point, left, right):
                    for record in list(owners.values()):
                        if record.expires_at > now:
                            yield point, record

    def digest(self, keys: Iterable[int], now: float) -> bytes:
        """16 bytes that are equal on two stores exactly when both hold the same live records under `keys`."""
        summary = blake2s(digest_size=DIGEST_BYTES)
        for key in sorted(set(keys)):
            for record in sorted(self.find(key, now), key=lambda record: record.owner.id):
                body = record.body
                summary.update(id_bytes(record.owner.id) + len(body).to_bytes(2, "big"))
                summary.update(body)  # names its key and its sequence
        return summary.digest()

    def _floor(self, key: int, owner_id: int) -> int:
        """The highest sequence of this owner that a new record must exceed; -1 for none."""
        held = self._records.get(key, {}).get(owner_id)
        if held is not None:
            return held.sequence
        account = self._accounts.get(owner_id)
        return account.floors.get(key, (-1, 0.0))[0] if account else -1

    def _has_room(self, record: Record, held: Record | None, owners: dict[int, Record]) -> bool:
        account = self._accounts.get(record.owner.id)
        records, size_bytes = (account.records, account.size_bytes) if account else (0, 0)
        if held is not None:
            return size_bytes - len(held.raw) + len(record.raw) <= MAX_OWNER_BYTES
        return (
            records < MAX_OWNER_RECORDS
            and size_bytes + len(record.raw) <= MAX_OWNER_BYTES
            and len(owners) < MAX_KEY_OWNERS
            and self._count < self._max_records
        )

    def _remove(self, record: Record) -> None:
        owners = self._records[record.key]
        del owners[record.owner.id]
        if not owners:
            del self._records[record.key]
        account = self._accounts[record.owner.id]
        account.records -= 1
        account.size_bytes -= len(record.raw)
        self._count -= 1

    def _leave_floor(self, record: Record, now: float) -> None:
        floors = self._accounts[record.owner.id].floors
        if len(floors) >= MAX_OWNER_RECORDS:
            # Bounded by owner, not in total: else a few members could make us forget everybody's floors.
            del floors[next(iter(floors))]
        # Nobody takes a record that lives longer than this, so any older one is dead by then.
        floors[record.key] = (record.sequence, now + MAX_LIFETIME_S + CLOCK_TOLERANCE_S)
