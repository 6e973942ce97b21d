"""Control messages of the search for direct paths. Codes 32 to 63 are theirs.

Sent inside a session, over whatever path it has: the sender is proven, what it says is its own claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dht.messages import Message
from dht.packing import Fields, Value
from shortcuts.candidates import MAX_CANDIDATE_BYTES, MAX_CANDIDATES, Candidate
from shortcuts.nat import NAT_BYTES, Nat

FIRST_CODE: Final = 32
LAST_CODE: Final = 63
NONCE_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """Where the sender may be reached, and what its NATs do, a family each; answered by the receiver's own Offer with
    the same nonce, and both ends begin their checks. `nonce` tells one try from another."""

    CODE = 32
    nonce: bytes
    candidates: tuple[Candidate, ...]
    nat4: Nat
    nat6: Nat

    def fields(self) -> dict[int, Value]:
        return {
            0: self.nonce,
            1: [candidate.pack() for candidate in self.candidates[:MAX_CANDIDATES]],
            2: self.nat4.pack(),
            3: self.nat6.pack(),
        }

    @classmethod
    def read(cls, fields: Fields) -> Offer:
        return cls(
            fields.octets(0, NONCE_BYTES, NONCE_BYTES),
            tuple(map(Candidate.parse, fields.octets_list(1, MAX_CANDIDATES, MAX_CANDIDATE_BYTES))),
            Nat.parse(fields.octets(2, NAT_BYTES, NAT_BYTES)),
            Nat.parse(fields.octets(3, NAT_BYTES, NAT_BYTES)),
        )
