"""The names by which scenarios call the parts of the experiments; `sims.scenario.catalogue` adds them to its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sims.experiments.lookups import Finds, Records
from sims.experiments.machines import Coordinates, Proxies
from sims.experiments.members import (
    Constructed,
    Drop,
    FileLink,
    FittedChurn,
    Lie,
    Misroute,
    SyntheticLink,
    TracedChurn,
    Turn,
    WellKnown,
)
from sims.experiments.paths import Routability, Walks
from sims.experiments.ring import Joins, Newcomers, Replicas, Ring
from sims.experiments.traffic import Messages, Traffic

WORKLOADS: Final[Mapping[str, type[Any]]] = {
    "finds": Finds,
    "records": Records,
    "newcomers": Newcomers,
    "coordinates": Coordinates,
    "proxies": Proxies,
}
PROBES: Final[Mapping[str, type[Any]]] = {
    "shape": Ring,
    "join-times": Joins,
    "replicas": Replicas,
    "bandwidth": Traffic,
    "message-types": Messages,
    "walks": Walks,
    "routability": Routability,
}
FAULTS: Final[Mapping[str, type[Any]]] = {"turn": Turn}
ARRIVALS: Final[Mapping[str, type[Any]]] = {"well-known": WellKnown, "constructed": Constructed}
CHURNS: Final[Mapping[str, type[Any]]] = {"fitted": FittedChurn, "trace": TracedChurn}
ATTACKS: Final[Mapping[str, type[Any]]] = {"drop": Drop, "misroute": Misroute, "lie": Lie}
LINKS: Final[Mapping[str, type[Any]]] = {"synthetic": SyntheticLink, "file": FileLink}
