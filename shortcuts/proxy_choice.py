"""Which relay a proxy tunnel should run through, of those that are known: the nearest, but not everybody the same one.

A relay's worth is the round trip over it: to it and from it to the far end, each measured by the end that has an edge
to it, or else predicted from coordinates. Among those that are about as near as the nearest, chance decides, so that
the neighbours of one node don't all burden one relay. Pure.
Source: IPOP's proxy selection (Ganguly et al., HPDC 2006 and 2008), which took the far end's closest neighbour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dht.coordinate import Coordinate, distance_ms
from dht.host import Rng

SPREAD: Final = 0.15  # a relay is about as near as the nearest within this share of its round trip
SPREAD_MS: Final = 2.0  # or this
WORTH_TRYING: Final = 0.8  # a relay must be predicted at this share of what a tunnel in hand takes, to replace it


class Option(NamedTuple):
    """A node that might relay. `predicted_ms`: the round trip to the far end over it, None when nothing is known;
    `common`: both ends have an edge to it; `ours`: we have one."""

    relay: int
    predicted_ms: float | None
    common: bool
    ours: bool


def leg_ms(measured_ms: float | None, one: Coordinate | None, other: Coordinate | None) -> float | None:
    """The round trip of one leg: as measured, or else as coordinates predict it."""
    if measured_ms is not None:
        return measured_ms
    return None if one is None or other is None else distance_ms(one, other)


def predicted_ms(near_ms: float | None, far_ms: float | None) -> float | None:
    """The round trip over a relay from those of its legs."""
    return None if near_ms is None or far_ms is None else near_ms + far_ms


def by_worth(options: Iterable[Option]) -> list[Option]:
    """The nearest first; those of which nothing is known last, in the order given."""
    return sorted(options, key=lambda each: (each.predicted_ms is None, each.predicted_ms or 0.0))


def pick(rng: Rng, options: Iterable[Option], *, at_once: bool) -> Option | None:
    """One to ask next. With `at_once`, a common neighbour is taken before any that must first be linked to, and one of
    ours before one of theirs."""
    remaining = list(options)
    if at_once:
        for group in ([each for each in remaining if each.common], [each for each in remaining if each.ours]):
            if group:
                remaining = group
                break
    return _one_of_the_nearest(rng, by_worth(remaining))


def worth_replacing(option: Option, worst_ms: float) -> bool:
    """Whether an option is clearly better than the worst tunnel in hand, which takes `worst_ms` as measured."""
    return option.predicted_ms is not None and option.predicted_ms < WORTH_TRYING * worst_ms


def _one_of_the_nearest(rng: Rng, sorted_options: Sequence[Option]) -> Option | None:
    if not sorted_options:
        return None
    best_ms = sorted_options[0].predicted_ms
    if best_ms is None:
        return sorted_options[0]
    limit_ms = max(best_ms * (1.0 + SPREAD), best_ms + SPREAD_MS)
    near = [each for each in sorted_options if each.predicted_ms is not None and each.predicted_ms <= limit_ms]
    return rng.choice(near)
