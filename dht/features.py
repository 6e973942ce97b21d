"""What a node understands beyond what every node does. Each end says it in the handshake, under its seal.

A peer is sent nothing that it did not say it understands, so that older and newer nodes share a ring. Bits that this
node does not know are of no use to it, and no fault. Pure names; decides nothing.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final


class Feature(IntFlag):
    """One bit each; a number once given is never given again."""

    SEGMENTS = 1  # takes Inner.SEGMENT and Inner.PARTIAL; other peers get whole packets
    ECN = 2  # hands congestion marks of the outer header on to the inner one (RFC 6040); to others, none are invited
    SIZE = 4  # answers Inner.SIZE
    GROUPS = 8  # takes Inner.GROUP
    DELEGATION = 16  # answers FetchFor and StoreFor
    TREES = 32  # takes Inner.BROADCAST, and questions for everybody (`dht.aggregate`)


ALL_FEATURES: Final = (
    Feature.SEGMENTS | Feature.ECN | Feature.SIZE | Feature.GROUPS | Feature.DELEGATION | Feature.TREES
)
MAX_FEATURES: Final = (1 << 32) - 1
