"""p2psim's topology files, in which the King data set is published: one-way delays of pairs.

    topology E2EGraph 1740
    failure_model NullFailureModel
    node 1
    ...
    1,2 37          the delay of a packet between nodes 1 and 2, either way, unless 2,1 has a line of its own

Blank lines and lines that begin with # say nothing. The unit is not in the file: King's `mking-t` holds milliseconds,
`uking-t` microseconds; where no unit is given, a median above MOST_MS_MEDIAN means microseconds. A negative or absent
delay is missing (p2psim put 100 s in its place; here it is refused or filled).
Sources: p2psim's E2EGraph and E2EAsymGraph (topologies/ of the archived sit/dht repository) for the format and for
delays being one way; the King data set's index page (pdos.csail.mit.edu/archive/p2psim/kingdata) for the two units.
"""

from __future__ import annotations

import re
from math import isnan, nan
from statistics import median

from sims.latency.models import MAX_ROWS, Matrix, Missing, filled
from sims.latency.text import integer, lines, number

MOST_MS_MEDIAN = 5000.0  # No network has a median of 5 s, and none of 5 ms among servers all over the world.
_PAIR = re.compile(r"(\d+),(\d+)")


def load_king(path: str, unit_ms: float | None = None, missing: Missing = Missing.REFUSE) -> Matrix:
    """Reads a p2psim topology, gzipped or not. `unit_ms`: what one of its numbers is, 0.001 for microseconds; None:
    told by the median. Raises ValueError."""
    size = 0
    nodes: set[int] = set()
    delays: dict[tuple[int, int], float] = {}
    for line, content in lines(path):
        words = content.split()
        if not words or words[0].startswith("#") or words[0] == "failure_model":
            continue
        if words[0] == "topology":
            if len(words) != 3 or size:
                raise ValueError(f"{path}, line {line}: expected one 'topology E2EGraph NODES'")
            size = integer(words[2], path, line)
            if not 1 <= size <= MAX_ROWS:
                raise ValueError(f"{path}, line {line}: a topology has 1 to {MAX_ROWS} nodes, not {size}")
        elif words[0] == "node" and len(words) >= 2:
            # Nodes of other topologies have a place behind a comma: 'node 1 3,4'.
            nodes.add(integer(words[1], path, line))
        elif len(words) == 2 and (pair := _PAIR.fullmatch(words[0])):
            a, b = int(pair[1]), int(pair[2])
            if (a, b) in delays:
                raise ValueError(f"{path}, line {line}: the pair {a},{b} for the second time")
            delays[a, b] = number(words[1], path, line)
        else:
            raise ValueError(f"{path}, line {line}: '{content.strip()[:40]}' is not part of a p2psim topology")
    count = size or max(nodes, default=0)
    if not count or not delays:
        raise ValueError(f"{path}: no 'topology E2EGraph NODES', or no pair with a delay")
    outside = [pair for pair in delays if not (1 <= pair[0] <= count and 1 <= pair[1] <= count)]
    if outside or any(not 1 <= node <= count for node in nodes):
        raise ValueError(f"{path}: a node beyond 1 to {count}" + (f" in pair {outside[0]}" if outside else ""))
    return Matrix(filled(_square(delays, count, unit_ms, missing, path), path))


def _square(
    delays: dict[tuple[int, int], float], count: int, unit_ms: float | None, missing: Missing, path: str
) -> list[list[float]]:
    """Round trips in ms; nan where there is none and `missing` allows it."""
    if unit_ms is None:
        unit_ms = 0.001 if median(delays.values()) > MOST_MS_MEDIAN else 1.0
    rtt_ms = [[0.0 if a == b else nan for b in range(count)] for a in range(count)]
    for (a, b), delay in delays.items():
        if a != b and delay >= 0:
            rtt_ms[a - 1][b - 1] = 2 * delay * unit_ms
    for a in range(count):
        for b in range(a):
            one, other = rtt_ms[a][b], rtt_ms[b][a]
            if isnan(one) and isnan(other) and missing is Missing.REFUSE:
                raise ValueError(
                    f"{path}: no delay for the pair {b + 1},{a + 1}; ask for filling (missing = 'fill'), or give one"
                )
            rtt_ms[a][b] = other if isnan(one) else one
            rtt_ms[b][a] = one if isnan(other) else other
    return rtt_ms
