"""Which groups a node is in, and the newest epoch that it knows of each, on disk: neither a restart nor a SIGKILL
brings an old secret or a removed member back.

One packed map an entry, of groups that were left too, as their epochs must not be forgotten; the oldest of those go
when there are too many. Saved whole, atomically, at every change.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from dht.errors import BadDatagram
from dht.grants import GROUP_NAME, MAX_EPOCH
from dht.groups.notice import MAX_NOTICE_BYTES
from dht.groups.right import SECRET_BYTES, GroupSecret
from dht.packing import Fields, pack
from dht.storage import Storage

log = logging.getLogger(__name__)

FILE: Final = "groups"
VERSION: Final = 1
MAX_KEPT: Final = 256
_MAX_ENTRY_BYTES: Final = 300
_NAME, _JOINED, _SECRET, _EPOCH, _NOTICE = range(5)


@dataclass(slots=True)
class Kept:
    """What is known of one group. `secret`: None for one that certificates name."""

    name: str
    joined: bool
    secret: GroupSecret | None
    epoch: int = 0
    notice: bytes = b""


class Memory:
    """The groups of one node, by name, and whether a secret opens them: one name may stand for two groups."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept = {(kept.name, kept.secret is not None): kept for kept in self._load()}

    def joined(self) -> list[Kept]:
        return [kept for kept in self._kept.values() if kept.joined]

    def of(self, name: str, *, secret: bool) -> Kept | None:
        return self._kept.get((name, secret))

    def keep(self, kept: Kept) -> None:
        """Remember this in place of what was known of the group."""
        key = (kept.name, kept.secret is not None)
        self._kept.pop(key, None)
        self._kept[key] = kept
        for old, entry in list(self._kept.items()):
            if len(self._kept) <= MAX_KEPT:
                break
            if not entry.joined:
                del self._kept[old]
        self._save()

    def _save(self) -> None:
        entries = [
            pack(
                {
                    _NAME: kept.name,
                    _JOINED: kept.joined,
                    _SECRET: b"" if kept.secret is None else kept.secret.secret,
                    _EPOCH: kept.epoch,
                    _NOTICE: kept.notice,
                }
            )
            for kept in self._kept.values()
        ]
        self._storage.save(FILE, pack({0: VERSION, 1: entries}))

    def _load(self) -> list[Kept]:
        stored = self._storage.load(FILE)
        if stored is None:
            return []
        try:
            fields = Fields.parse(stored, "file of groups", max_bytes=1 << 17)
            if fields.integer(0, 0, 255) != VERSION:
                raise BadDatagram("another version wrote it")
            return [_kept(Fields.parse(entry)) for entry in fields.octets_list(1, MAX_KEPT, _MAX_ENTRY_BYTES)]
        except (BadDatagram, ValueError) as fault:
            log.warning("the file of groups is unreadable (%s): join them again", fault)
            return []


def _kept(fields: Fields) -> Kept:
    name, secret = fields.text(_NAME, 32), fields.octets(_SECRET, 0, SECRET_BYTES)
    epoch = fields.integer(_EPOCH, 0, MAX_EPOCH)
    if not GROUP_NAME.fullmatch(name):
        raise BadDatagram("it names what is no group")
    return Kept(
        name,
        fields.flag(_JOINED),
        GroupSecret(secret, epoch) if secret else None,
        epoch,
        fields.octets(_NOTICE, 0, MAX_NOTICE_BYTES),
    )
