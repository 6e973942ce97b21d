"""The names by which scenarios call their parts: the one place to add one, see `sims.scenario.parts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sims.experiments import tables
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
    workloads={**tables.WORKLOADS},
    probes={**tables.PROBES},
    faults={**tables.FAULTS},
    arrivals={**tables.ARRIVALS},
    churns={**tables.CHURNS},
    attacks={**tables.ATTACKS},
    links={"constant": ConstantLink, "matrix": MatrixLink, "coordinates": CoordinateLink, **tables.LINKS},
)
