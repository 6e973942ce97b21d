"""What a crawl shows, as JSON objects. Programs depend on these names: add fields, never change them."""

from __future__ import annotations

from typing import Any

from dht.aggregate import Missing
from dht.arcs import place_of
from dht.branch_messages import Reason
from dht.coordinate import Coordinate
from dht.crawl import Crawled, Sight
from ipop.status import hex_id, rounded

PLACE_DIGITS = 16
REASONS = {
    Reason.SILENT: "silent",
    Reason.DIED: "died",
    Reason.UNKNOWN: "older version",
    Reason.BUSY: "busy",
    Reason.SUSPECT: "suspected dead",
    Reason.LATE: "late",
    Reason.CUT: "no time left",
    Reason.UNREACHED: "nobody reached",
    Reason.GARBLED: "garbled",
    Reason.TOO_LARGE: "too large",
}


def crawl_object(crawled: Crawled, *, sequential: bool) -> dict[str, Any]:
    """`p2pvpn crawl --json`. `missing`: `alone` says whether it is that one node, or perhaps all whose ids begin with
    `from` to before `to`; `consistency`: of the first two predecessors of every node, the share that are right."""
    return {
        "sequential": sequential,
        "complete": crawled.complete,
        "took_s": round(crawled.took_s, 3),
        "consistency": round(crawled.consistency, 6),
        "nodes": [_node_object(sight) for sight in crawled.nodes],
        "missing": [_missing_object(hole) for hole in sorted(crawled.missing, key=_place)],
    }


def _place(hole: Missing) -> int:
    return hole.arc.low if hole.id is None else place_of(hole.id)


def _node_object(sight: Sight) -> dict[str, Any]:
    return {
        "name": sight.name,
        "id": hex_id(sight.id),
        "version": sight.version,
        "coordinate": None if sight.coordinate is None else _coordinate_object(sight.coordinate),
        "successors": [hex_id(node_id) for node_id in sight.successors],
        "predecessors": [hex_id(node_id) for node_id in sight.predecessors],
        "fingers": [hex_id(node_id) for node_id in sight.fingers],
        "edges": sight.edges,
    }


def _coordinate_object(coordinate: Coordinate) -> dict[str, Any]:
    return {
        "x_ms": rounded(coordinate.x_ms),
        "y_ms": rounded(coordinate.y_ms),
        "height_ms": rounded(coordinate.height_ms),
        "error": round(coordinate.error, 4),
    }


def _missing_object(hole: Missing) -> dict[str, Any]:
    return {
        "id": None if hole.id is None else hex_id(hole.id),
        "reason": REASONS[hole.reason],
        "alone": hole.alone,
        "from": f"{hole.arc.low:0{PLACE_DIGITS}x}",
        "to": f"{hole.arc.high:0{PLACE_DIGITS}x}",
    }
