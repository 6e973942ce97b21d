"""The names by which scenarios call their parts: the one place to add one, see `sims.scenario.parts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sims.experiments import tables
from sims.scenario.arrivals import OneByOne, Poisson, Together
from sims.scenario.faults import Crash, Cut, Freeze, Heal, Loss, Partition, Rebind, Start
from sims.scenario.flows import Flows
from sims.scenario.links import ConstantLink, CoordinateLink, MatrixLink
from sims.scenario.lives import DrawnLives, ExponentialLives
from sims.scenario.probes import CounterProbe, InvariantProbe, JoinProbe, RingProbe, TrafficProbe
from sims.scenario.workloads import FirstPackets, Lookups, Pings


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

    def parts(self) -> set[type[Any]]:
        """All of them."""
        return {part for field in fields(self) for part in getattr(self, field.name).values()}


SHIPPED = Catalogue(
    workloads={"lookups": Lookups, "pings": Pings, "packets": FirstPackets, "flows": Flows, **tables.WORKLOADS},
    probes={
        "ring": RingProbe,
        "invariants": InvariantProbe,
        "traffic": TrafficProbe,
        "counters": CounterProbe,
        "joins": JoinProbe,
        **tables.PROBES,
    },
    faults={
        "crash": Crash,
        "start": Start,
        "partition": Partition,
        "heal": Heal,
        "freeze": Freeze,
        "cut": Cut,
        "loss": Loss,
        "rebind": Rebind,
        **tables.FAULTS,
    },
    arrivals={"one-by-one": OneByOne, "together": Together, "poisson": Poisson, **tables.ARRIVALS},
    churns={"exponential": ExponentialLives, "sessions": DrawnLives, **tables.CHURNS},
    attacks={**tables.ATTACKS},
    links={"constant": ConstantLink, "matrix": MatrixLink, "coordinates": CoordinateLink, **tables.LINKS},
)
