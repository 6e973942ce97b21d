"""Which of the proven paths to a peer carries its packets, and why: direct before proxy before overlay.

    the path in use fails or lapses        -> the best other one, at once
    a path of a better class is proven     -> that one
    one of the same class is clearly faster, by an absolute and a relative margin -> that one
    otherwise                              -> no change

A path that has failed must have been quiet about it for a while before it is preferred again, so that one that works
every other second doesn't take the traffic to and fro. When the path in use begins to fail, what was proven before says
little: the paths of a peer often share a link, and die together. Then only those are preferred that have answered
since. Overlay needs no proof: the ring keeps its own. Pure: one function of what is known now; it neither checks paths
nor switches anything.
Source: RFC 8445 section 8.1 for choosing among checked pairs by preference first and round trip second.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from math import inf
from typing import Final, Generic, TypeVar

P = TypeVar("P", bound=Hashable)

FRESH_S: Final = 30.0  # a path must have been proven this lately to be switched to
LAPSE_S: Final = 90.0  # and this lately to be kept
RETAKE_S: Final = 2.5  # after its last failure, a path is not preferred to one that works; twice that a relapse
MAX_RETAKE_S: Final = 20.0  # a path that is back for good is taken again within half a minute
FASTER_MS: Final = 5.0
FASTER_SHARE: Final = 0.2  # of the present round trip


class PathClass(IntEnum):
    """The smaller the better."""

    DIRECT = 0
    PROXY = 1
    OVERLAY = 2


class Reason(Enum):
    """Why this path."""

    NO_PATH = "no path is known"
    FIRST = "the first path known"
    BETTER_CLASS = "a better kind of path was proven"
    FASTER = "clearly faster"
    FAILED = "the path in use failed its checks"
    LAPSED = "the path in use was not proven for too long"
    GONE = "the path in use is gone"
    NO_REASON_TO_CHANGE = "none is better by enough"
    LAST_RESORT = "no path works; this one failed least"


@dataclass(frozen=True)  # Python 3.11 can't instantiate a generic one with slots by its full name
class ProvenPath(Generic[P]):
    """A path to a peer over which authenticated answers have come. `rtt_ms` is smoothed, None before the first sample;
    `proven_at` the time of the last answer; `failures` how many checks in a row have had none; `failed_at` when the
    last check of all failed, None when none did; `relapses` how often it has gone from proven to failed of late."""

    path: P
    kind: PathClass
    rtt_ms: float | None
    proven_at: float
    failures: int = 0
    failed_at: float | None = None
    relapses: int = 0


@dataclass(frozen=True)
class Choice(Generic[P]):
    """The path to use (None: there is none), why, and the one to keep warm beside it."""

    chosen: ProvenPath[P] | None
    reason: Reason
    spare: ProvenPath[P] | None


def choose(now: float, paths: Iterable[ProvenPath[P]], current: P | None, doubted_at: float | None = None) -> Choice[P]:
    """The path for a peer whose packets take `current` now. None is as good a name for a path (the overlay) as any;
    where no path has this name, it says that there was none. Of two entries for one path, the later counts.
    `doubted_at`: when a path in use last began to fail; None: never."""
    fresh_since = max(now - FRESH_S, -inf if doubted_at is None else doubted_at)
    known: dict[P | None, ProvenPath[P]] = {each.path: each for each in paths}
    everything = sorted(known.values(), key=lambda each: _worth(now, each, fresh_since))
    present = known.get(current)
    chosen, reason = _choose(now, everything, present, fresh_since, had_one=current is not None)
    others = [each for each in everything if each is not chosen]
    return Choice(chosen, reason, others[0] if others and _works(now, others[0]) else None)


def _choose(
    now: float, by_worth: list[ProvenPath[P]], present: ProvenPath[P] | None, fresh_since: float, *, had_one: bool
) -> tuple[ProvenPath[P] | None, Reason]:
    if not by_worth:
        return None, Reason.NO_PATH
    best = by_worth[0]
    if present is None:
        if not _works(now, best):
            return best, Reason.LAST_RESORT
        return best, Reason.GONE if had_one else Reason.FIRST
    if not _works(now, present):
        if best is present or not _works(now, best):
            return best, Reason.LAST_RESORT
        return best, Reason.FAILED if present.failures else Reason.LAPSED
    rivals = [
        each for each in by_worth if each is not present and _is_fresh(each, fresh_since) and _is_settled(now, each)
    ]
    if rivals and rivals[0].kind < present.kind:
        return rivals[0], Reason.BETTER_CLASS
    if rivals and rivals[0].kind == present.kind and _is_clearly_faster(rivals[0], present):
        return rivals[0], Reason.FASTER
    return present, Reason.NO_REASON_TO_CHANGE


def _works(now: float, path: ProvenPath[P]) -> bool:
    return path.failures == 0 and (path.kind is PathClass.OVERLAY or now - path.proven_at <= LAPSE_S)


def _is_fresh(path: ProvenPath[P], since: float) -> bool:
    return path.failures == 0 and (path.kind is PathClass.OVERLAY or path.proven_at >= since)


def _is_settled(now: float, path: ProvenPath[P]) -> bool:
    wait_s = min(MAX_RETAKE_S, RETAKE_S * 2.0 ** min(path.relapses, 16))
    return path.failed_at is None or now - path.failed_at >= wait_s


def _is_clearly_faster(rival: ProvenPath[P], present: ProvenPath[P]) -> bool:
    mine, other = _rtt_ms(rival), _rtt_ms(present)
    return mine < inf and mine <= other - FASTER_MS and mine <= other * (1.0 - FASTER_SHARE)


def _rtt_ms(path: ProvenPath[P]) -> float:
    return inf if path.rtt_ms is None else path.rtt_ms


def _worth(now: float, path: ProvenPath[P], fresh_since: float) -> tuple[bool, int, bool, PathClass, float, float]:
    """What paths are sorted by, the best first: those that work, freshly proven and settled ones before others."""
    works = _works(now, path)
    doubtful = not (_is_fresh(path, fresh_since) and _is_settled(now, path))
    return not works, 0 if works else path.failures, works and doubtful, path.kind, _rtt_ms(path), -path.proven_at
