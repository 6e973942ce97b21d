"""Latency files of any known format, told apart by their first line that says something."""

from __future__ import annotations

import re

from sims.latency.king import load_king
from sims.latency.models import Euclid, Latency, Matrix, Missing
from sims.latency.text import lines

_PAIR = re.compile(r"\d+,\d+\s+\S+$")  # and its delay, as in a topology; where a matrix has commas, nothing else parts


def load(path: str, unit_ms: float | None = None, missing: Missing = Missing.REFUSE) -> Latency:
    """The model in a file: an OverSim node list, a p2psim topology (King), or a square matrix of round trips, between
    blanks or commas.

    `unit_ms` is what one number of a matrix or topology is: by default 1 in a matrix, and as `load_king` finds in a
    topology. Raises ValueError, and OSError when there is no such file.
    """
    first = next((text.strip() for _, text in lines(path) if text.strip() and not text.startswith("#")), "")
    if first.startswith("<"):
        return Euclid.load(path)
    if first.startswith(("topology", "node")) or _PAIR.match(first):
        return load_king(path, unit_ms, missing)
    return Matrix.load(path, 1.0 if unit_ms is None else unit_ms, missing)
