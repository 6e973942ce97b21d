"""How long tests wait, and what they make of the seconds that the product promises.

A machine that does other things too is no bug. A test waits for a condition up to `PATIENCE_S`. Where the product
promises seconds, the figure is reported at the end of the run, and insisted on with `SLACK`, half a minute at least:
with 17 processes at two cores, starts that take half a second took eleven. P2PVPN_STRICT=1, for a quiet machine,
insists on the promises themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable

PATIENCE_S = 60.0
STRICT = os.environ.get("P2PVPN_STRICT") == "1"
SLACK = 8.0
LEAST_S = 30.0
FIGURE = "figure"  # The name of the property under which a report carries one.


def patient(promised_s: float) -> float:
    """The limit to insist on for what the product promises within `promised_s` seconds."""
    return promised_s if STRICT else max(LEAST_S, promised_s * SLACK)


class Promises:
    """What one test measures. `record(name, value)` attaches a property to the test's report."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def measured(self, what: str, took_s: float, promised_s: float) -> None:
        """Report a figure, and fail when it is beyond all patience."""
        self._record(FIGURE, f"{what}: {took_s:.1f} s, promised {promised_s:g} s")
        limit_s = patient(promised_s)
        assert took_s < limit_s, f"{what}: {took_s:.1f} s, promised {promised_s:g} s, insisted on {limit_s:g} s"
