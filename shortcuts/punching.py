"""Whether two NATs can be expected to let two nodes through to each other, and which ports to guess when not.

Each end first sends to the other's known outside endpoint. The hole is open when one end's packet passes the other's
filter, and the answer, sent to wherever that packet came from, passes the first one's. Only advice: a pair that is
said to have no chance is still tried now and then, for verdicts can be wrong. Pure.
Sources: RFC 5128 section 3.3; RFC 4787; Takeda, "Symmetric NAT traversal using STUN" (2003), for sequential ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from itertools import pairwise
from typing import Final

from dht.host import Rng
from shortcuts.nat import Answer, Filtering, Mapping, Nat

MAX_PREDICTED: Final = 16  # ports tried beside those known, a peer and a try
MAX_GUESSED: Final = 256  # random ports in the last resort, a peer and a try; pace them
MAX_STEP: Final = 16  # between two ports that a NAT gives one after another
MAX_SKIPPED: Final = 4.0  # mappings that other hosts take between two of ours, on average
FIRST_PORT: Final = 1024
LAST_PORT: Final = 65_535


class Expectation(Enum):
    """What to expect of trying to reach each other directly."""

    YES = "yes"
    MAYBE = "not enough is known"
    BY_GUESSING_PORTS = "only by guessing ports"
    NO = "no"


def expectation(a: Nat, b: Nat, *, same_outside: bool = False) -> Expectation:
    """What to expect between nodes behind NATs `a` and `b`; `same_outside`: both have the same outside address, so
    that this NAT must hairpin, or the two find each other by host candidates. Symmetric in `a` and `b`."""
    hairpins = (a.hairpins, b.hairpins)
    if same_outside and Mapping.NONE not in (a.mapping, b.mapping) and Answer.YES not in hairpins:
        return Expectation.NO if Answer.NO in hairpins else Expectation.MAYBE
    if _opens(_worst(a), _worst(b)):
        return Expectation.YES
    if _opens(_best(a), _best(b)):
        return Expectation.MAYBE
    if _is_dependent(a) != _is_dependent(b):
        return Expectation.BY_GUESSING_PORTS
    return Expectation.NO


def predicted_ports(seen: Sequence[int], budget: int = MAX_PREDICTED) -> list[int]:
    """The ports that a NAT with dependent mapping will likely use next, likeliest first, at most `budget` of them
    (and MAX_PREDICTED). `seen`: its ports so far, the latest last. Empty when they follow no order."""
    budget = min(budget, MAX_PREDICTED)
    if len(seen) < 3 or budget < 1:
        return []
    gaps = [later - earlier for earlier, later in pairwise(seen)]
    rising = sum(gap > 0 for gap in gaps) * 2 > len(gaps)
    sizes = sorted(abs(gap) for gap in gaps if gap and (gap > 0) == rising)
    # Reports come in about the order in which mappings were made: some gaps have the other sign, none is long.
    if 3 * len(sizes) < 2 * len(gaps):
        return []
    step = sizes[0]
    if step > MAX_STEP or sizes[len(sizes) // 2] > MAX_STEP * MAX_SKIPPED:
        return []
    last = max(seen[-3:]) if rising else min(seen[-3:])
    span = LAST_PORT - FIRST_PORT + 1
    sign = 1 if rising else -1
    return [FIRST_PORT + (last + sign * step * number - FIRST_PORT) % span for number in range(1, budget + 1)]


def guessed_ports(rng: Rng, budget: int = MAX_GUESSED) -> list[int]:
    """Different random ports, at most `budget` (and MAX_GUESSED): the birthday paradox needs many on both sides."""
    return rng.sample(range(FIRST_PORT, LAST_PORT + 1), min(budget, MAX_GUESSED))


def _opens(a: Nat, b: Nat) -> bool:
    return _gets_through(a, b) or _gets_through(b, a)


def _gets_through(sender: Nat, receiver: Nat) -> bool:
    """Whether a packet to the receiver's known outside endpoint gets in, and the answer to it back."""
    match receiver.filtering:
        case Filtering.NONE | Filtering.ENDPOINT_INDEPENDENT:
            gets_in = True
        case Filtering.ADDRESS_DEPENDENT:
            # The receiver sent to the sender's address, but only from its known endpoint if it has one for all.
            gets_in = not _is_dependent(receiver)
        case _:
            gets_in = not _is_dependent(receiver) and not _is_dependent(sender)
    answer_gets_back = not _is_dependent(receiver) or sender.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT
    return gets_in and answer_gets_back


def _is_dependent(nat: Nat) -> bool:
    return nat.mapping in (Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)


def _worst(nat: Nat) -> Nat:
    return _with(nat, Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)


def _best(nat: Nat) -> Nat:
    return _with(nat, Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)


def _with(nat: Nat, mapping: Mapping, filtering: Filtering) -> Nat:
    """The same, with what is unknown filled in."""
    return replace(nat, mapping=nat.mapping or mapping, filtering=nat.filtering or filtering)
