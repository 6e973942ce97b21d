"""The names by which scenarios call their parts: the one place to add one, see `sims.scenario.parts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sims.scenario.links import ConstantLink, CoordinateLink, MatrixLink


@dataclass(frozen=True)
class Catalogue:
    """Tables of part classes by kind, one table for each sort of part."""

    workloads: Mapping[str, type[Any]]
    probes: Mapping[str, type[Any]]
    faults: Mapping[str, type[Any]]
    arrivals: Mapping[str, type[Any]]
    churns: Mapping[str, type[Any]]
    attacks: Mapping[str, type[Any]]
    links: Mapping[str, type[Any]]


SHIPPED = Catalogue(
    workloads={},
    probes={},
    faults={},
    arrivals={},
    churns={},
    attacks={},
    links={"constant": ConstantLink, "matrix": MatrixLink, "coordinates": CoordinateLink},
)
