"""How often `p2pvpn ping` asks, and when it has seen enough. Pure: clock, pause and node are given to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

INTERVAL_S = 1.0
DEFAULT_COUNT = 10
ENOUGH_SILENT = 3  # when nobody said how many
MIN_TIMEOUT_S = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """`count` and `timeout_s` are None where nobody said; `until_direct` stops at the first direct reply."""

    count: int | None = None
    until_direct: bool = True
    timeout_s: float | None = None


def replies(
    limits: Limits,
    ask: Callable[[float | None], dict[str, Any] | None],
    now: Callable[[], float],
    pause: Callable[[float], None],
) -> Iterator[dict[str, Any]]:
    """What the node says of each ping. `ask(within_s)` pings once; None when there was no answer within that time."""
    ends_at = None if limits.timeout_s is None else now() + limits.timeout_s
    number, silent = 0, True
    while True:
        number += 1
        reply = ask(None if ends_at is None else max(MIN_TIMEOUT_S, ends_at - now()))
        if reply is None:
            return
        yield {"sequence": number, **reply}
        silent = silent and reply["rtt_ms"] is None
        if limits.until_direct and reply["path"] == "direct":
            return
        if limits.count is not None and number >= limits.count:
            return
        if limits.count is None and ends_at is None and number >= (ENOUGH_SILENT if silent else DEFAULT_COUNT):
            return
        if ends_at is not None and now() + INTERVAL_S >= ends_at:
            return
        pause(INTERVAL_S)
