"""What members of a group tell each other beyond what members of any ring do. Never sends anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dht.groups.notice import MAX_NOTICE_BYTES
from dht.messages import Message
from dht.packing import Fields, Value


@dataclass(frozen=True, slots=True)
class Rekeyed(Message):
    """The authority says that the group's members were decided anew: an EpochNotice, packed."""

    CODE = 50
    notice: bytes

    def fields(self) -> dict[int, Value]:
        return {0: self.notice}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.octets(0, 1, MAX_NOTICE_BYTES))
