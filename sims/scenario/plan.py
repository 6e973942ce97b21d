"""Reads a scenario: TOML into parts that are ready to run, or one line that says what is wrong, where, and what to do.

    name = "lookups"                   # of the results; the file's name by default
    description = "one line"           # what `p2pvpn-sim list` shows
    nodes = 200
    seeds = "1-10"                     # or a number: 10 is the same
    duration_s = 60                    # of measuring, after arrival
    drain_s = 10                       # for answers on their way

    [network]                          # loss, duplicate, jitter_ms, broken_links, up_kbit_per_s, down_kbit_per_s
    [[network.access]]                 # share, and what its line is like: up_kbit_per_s, ..., loss, jitter_ms
    [network.latency]                  # kind = "constant" (default, 100 ms), "matrix", "coordinates", ...
    [nat]                              # share of nodes behind each preset of sims.nat: port = 0.3; the rest is public
    [stack]                            # kind = "ring" or "vpn" (whole nodes with TAPs); crypto; aes
    [arrival]                          # kind = "one-by-one" (default), "together", "poisson"
    [churn]                            # kind, and reboot = "crash" or "leave"
    [attack]                           # kind, and fraction of the members that are hostile
    [[workload]]                       # kind, at_s; any number of them
    [[fault]]                          # kind, at_s
    [[probe]]                          # kind, every_s (0: once, at the end)

    [sweep]                            # every combination is a point: keys as for --set
    "attack.fraction" = [0.0, 0.1, 0.2]
    [[measure]]                        # a number per seed and point, from raw rows; see `schema.MeasureOptions`
    [[plot]]                           # see `schema.PlotOptions`
    [small]                            # other values for --small, which CI runs
    nodes = 20
    workload.lookups.count = 50        # an entry of an array is named by its `name`, or else its `kind`
    [full]                             # likewise for --full: the size of what was published

`p2pvpn-sim keys` prints every key of every kind. Two entries of one kind need names. It never opens a file: it is given
the text, and a function that finds the files that the text names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from itertools import product
from math import prod
from typing import Any

from sims.nat import PRESETS
from sims.scenario.catalogue import SHIPPED, Catalogue
from sims.scenario.fit import misfit
from sims.scenario.options import OptionReader, toml_text
from sims.scenario.overrides import SIZES, leaves, put
from sims.scenario.own import own_part, own_policy, source_file
from sims.scenario.parts import Arrival, Attack, Churn, Fault, Link, PolicyFor, Probe, Workload
from sims.scenario.recorded import flaw, rows_of, texts_of
from sims.scenario.schema import NAME, General, MeasureOptions, NetworkOptions, PlotOptions, StackOptions, name_after
from sims.toml_source import TomlSource, Where, suggestion

MAX_SEEDS = 10_000
MAX_POINTS = 10_000

Settings = dict[str, Any]  # dotted keys


class ScenarioError(Exception):
    """The scenario can't be used; the text says where and what to do."""


@dataclass(frozen=True)
class Timed:
    """A workload or fault and when, or a probe and how often."""

    name: str
    part: Any
    time_s: float


@dataclass(frozen=True)
class Scenario:
    """One point of a plan: everything that a run needs besides its seed."""

    general: General
    network: NetworkOptions
    link: Link
    nat: tuple[tuple[str, float], ...]  # preset, share
    stack: StackOptions
    routing: PolicyFor | None
    arrival: Arrival
    churn: Churn | None
    reboot: str
    attack: Attack | None
    hostile: float
    workloads: tuple[Timed, ...]
    faults: tuple[Timed, ...]
    probes: tuple[Timed, ...]

    def parts(self) -> list[Any]:
        """Every part."""
        return [part for _, part in self.placed()]

    def placed(self) -> list[tuple[Where, Any]]:
        """Every part, and where it stands in the document."""
        timed = {"workload": self.workloads, "fault": self.faults, "probe": self.probes}
        found: list[tuple[Where, Any]] = [
            ((key, place), each.part) for key, parts in timed.items() for place, each in enumerate(parts)
        ]
        found += [(("network", "latency"), self.link), (("arrival",), self.arrival)]
        found += [(("churn",), self.churn), (("attack",), self.attack)]
        return [(where, part) for where, part in found if part is not None]


@dataclass(frozen=True)
class Plan:
    """A scenario file: its points, its seeds, and what to make of the rows."""

    name: str
    description: str
    seeds: tuple[int, ...]
    points: tuple[tuple[Settings, Scenario], ...]
    measures: tuple[MeasureOptions, ...]
    plots: tuple[PlotOptions, ...]
    files: Mapping[str, str]  # where the files are that it names, and the modules of the reader's own
    named_at: Mapping[str, str]  # by path: where it names them, as errors say it
    small: bool = False
    full: bool = False


@dataclass(frozen=True)
class Wanted:
    """What the command line wants otherwise than the file."""

    small: bool = False
    seeds: tuple[int, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    full: bool = False


_TOP = ("network", "nat", "stack", "arrival", "churn", "attack", "workload", "fault", "probe")
_AROUND = ("seeds", "sweep", "measure", "plot", "small", "full")
_NOT_SWEPT = ("name", "description", *_AROUND)
_GENERAL = tuple(each.name for each in fields(General))


def read_scenario(
    text: str,
    file: str,
    find: Callable[[str], str | None],
    wanted: Wanted = Wanted(),
    catalogue: Catalogue = SHIPPED,
) -> Plan:
    """The plan in a text; `file` is what errors call it. Raises ScenarioError."""
    plan = _Reader(TomlSource(text, file, ScenarioError), find, catalogue).plan(wanted)
    if plan is None:
        size = "small" if wanted.small else "full"
        raise ScenarioError(f"{file}: there is no table [{size}]: run it without --{size}")
    if not wanted.settings:
        # A mistake in what is not wanted now is told all the same; files that it names are not needed now.
        for small, full in ((False, False), (True, False), (False, True)):
            if (small, full) != (wanted.small, wanted.full):
                reader = _Reader(TomlSource(text, file, ScenarioError), lambda name: find(name) or name, catalogue)
                reader.plan(Wanted(small, full=full), every_point=False)
    return plan


def seeds_of(text: str) -> tuple[int, ...]:
    """'1-10', '7', or several of these between commas. Raises ValueError."""
    seeds: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18}))?\s*", piece)
        if match is None:
            raise ValueError(f"'{text}' are no seeds: write them as 1-10, or 3, or 1-4,9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MAX_SEEDS:
            raise ValueError(f"'{piece.strip()}' are not 1 to {MAX_SEEDS} seeds, the lowest first")
        seeds.extend(range(first, last + 1))
    if len(seeds) > MAX_SEEDS or len(set(seeds)) != len(seeds):
        raise ValueError(f"'{text}' are more than {MAX_SEEDS} seeds, or name one twice")
    return tuple(seeds)


class _Reader:
    """Fills one plan in. Knows the text, to say where something is wrong."""

    def __init__(self, source: TomlSource, find: Callable[[str], str | None], catalogue: Catalogue) -> None:
        self._source, self._catalogue = source, catalogue
        self._options = OptionReader(source, find)

    def plan(self, wanted: Wanted, every_point: bool = True) -> Plan | None:
        """The plan; None where a size is wanted that the text doesn't have. Without `every_point`, each swept value is
        in some point, but not every combination is there."""
        document = self._source.document()
        self._source.known((), document, (*_GENERAL, *_TOP, *_AROUND))
        sizes = {size: self._table(size, document.pop(size, {})) for size in SIZES}
        asked = [size for size, is_asked in (("small", wanted.small), ("full", wanted.full)) if is_asked]
        if not all(sizes[size] for size in asked):
            return None
        origins = self._override(document, {size: sizes[size] for size in asked}, wanted.settings)
        seeds = wanted.seeds or self._seeds(document.pop("seeds", "1"))
        document.pop("seeds", None)
        measures = self._entries(document, "measure", MeasureOptions)
        plots = self._entries(document, "plot", PlotOptions)
        points = tuple(self._points(document, origins, every_point))
        general = points[0][1].general
        swept, parts = points[0][0], points[0][1].parts()
        texts = texts_of(parts, plots, swept)
        if found := flaw(measures, plots, rows_of(parts, self._catalogue.parts()), swept, texts):
            self._source.refuse(*found)
        return Plan(
            general.name,
            general.description,
            seeds,
            points,
            measures,
            plots,
            dict(self._options.files),
            dict(self._options.named_at),
            wanted.small,
            wanted.full,
        )

    def _override(
        self, document: dict[str, Any], sizes: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> dict[str, Where]:
        """Put the values of sizes and of the command line into the document. Returns where each swept key stands."""
        sweep = dict(leaves(self._table("sweep", document.get("sweep", {})), ("sweep",)))
        document["sweep"] = {key: values for key, (values, _) in sweep.items()}
        origins = {key: where for key, (_, where) in sweep.items()}
        for size, table in sizes.items():
            for key, (value, where) in leaves(table, (size,)):
                if key.startswith("sweep."):
                    document["sweep"][key.removeprefix("sweep.")] = value
                    origins[key.removeprefix("sweep.")] = where
                else:
                    put(self._source, document, key, value, self._source.place(where))
        for key, value in settings.items():
            swept = key.removeprefix("sweep.")
            if swept != key or key in document["sweep"]:
                # One value of what is swept else stays swept: plots and tables go by it.
                document["sweep"][swept] = value if swept != key else [value]
                origins[swept] = ("sweep", swept)
                self._source.comes_from(("sweep", swept), f"--set {key}")
            else:
                put(self._source, document, key, value, f"--set {key}")
        return origins

    def _points(
        self, document: dict[str, Any], origins: Mapping[str, Where], every: bool
    ) -> Iterator[tuple[Settings, Scenario]]:
        sweep: dict[str, list[Any]] = document.pop("sweep")
        for key, values in sweep.items():
            if key.split(".")[0] in _NOT_SWEPT:
                self._source.refuse(origins[key], f"'{key}' is the same for all points, and can't be swept")
            if not isinstance(values, list) or not values or not all(_plain(value) for value in values):
                self._source.refuse(origins[key], "this must be an array of the values to run with, such as [1, 2]")
            for place, value in enumerate(values):
                if value in values[:place]:
                    self._source.refuse(origins[key], f"{toml_text(value)} is there twice")
        count = prod(map(len, sweep.values()))
        if count > MAX_POINTS:
            self._source.refuse(("sweep",), f"{count} combinations are more than {MAX_POINTS}")
        most = max(map(len, sweep.values()), default=1)
        some = (tuple(values[place % len(values)] for values in sweep.values()) for place in range(most))
        for combination in product(*sweep.values()) if every else some:
            settings = dict(zip(sweep, combination, strict=True))
            swept = deepcopy(document)
            for key, value in settings.items():
                put(self._source, swept, key, value, self._source.place(origins[key]))
            yield settings, self._scenario(swept)

    def _scenario(self, document: dict[str, Any]) -> Scenario:
        read, catalogue = self._options.read, self._catalogue
        table = {"name": name_after(self._source.file), **document}
        general = read(General, table, (), besides=_TOP)
        if not NAME.fullmatch(general.name):
            self._source.refuse(("name",), f"'{general.name}' can't name results: use a-z, 0-9, - and _")
        network = self._table("network", document.get("network", {}))
        where = ("network", "latency")
        latency = self._source.table(where, network.get("latency", {"kind": "constant"}), '{ kind = "constant" }')
        attack = self._table("attack", document.get("attack", {}))
        churn = self._table("churn", document.get("churn", {}))
        arrival = self._table("arrival", document.get("arrival", {"kind": "one-by-one"}))
        reboot = churn.get("reboot", "crash")
        if reboot not in ("crash", "leave"):
            self._source.refuse(("churn", "reboot"), f"{toml_text(reboot)} is none of crash, leave")
        if attack and "fraction" not in attack:
            self._source.refuse(("attack", "fraction"), "this is missing: which share of the members is hostile")
        hostile = attack.get("fraction", 0.0)
        if isinstance(hostile, bool) or not isinstance(hostile, int | float) or not 0 <= hostile <= 1:
            self._source.refuse(("attack", "fraction"), f"{toml_text(hostile)} is not a number from 0 to 1")
        stack = read(StackOptions, self._table("stack", document.get("stack", {})), ("stack",))
        scenario = Scenario(
            general=general,
            network=read(NetworkOptions, network, ("network",), besides=("latency",)),
            link=self._part(where, latency, catalogue.links, Link),
            nat=self._nat(self._table("nat", document.get("nat", {}))),
            stack=stack,
            routing=self._routing(stack.routing) if stack.routing else None,
            arrival=self._part(("arrival",), arrival, catalogue.arrivals, Arrival),
            churn=self._part(("churn",), churn, catalogue.churns, Churn, ("reboot",)) if churn else None,
            reboot=reboot,
            attack=self._part(("attack",), attack, catalogue.attacks, Attack, ("fraction",)) if attack else None,
            hostile=float(hostile),
            workloads=self._timed(document, "workload", catalogue.workloads, Workload, "at_s", 0.0),
            faults=self._timed(document, "fault", catalogue.faults, Fault, "at_s", 0.0),
            probes=self._timed(document, "probe", catalogue.probes, Probe, "every_s", 0.0),
        )
        if found := misfit(scenario):
            self._source.refuse(*found)
        return scenario

    def _timed(
        self,
        document: Mapping[str, Any],
        key: str,
        kinds: Mapping[str, type[Any]],
        protocol: type,
        time_key: str,
        default_s: float,
    ) -> tuple[Timed, ...]:
        found: list[Timed] = []
        for place, table in enumerate(self._array(document, key)):
            where: Where = (key, place)
            time_s = table.get(time_key, default_s)
            if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not 0 <= time_s < float("inf"):
                self._source.refuse((*where, time_key), f"{toml_text(time_s)} is not a number of seconds, 0 or more")
            part = self._part(where, table, kinds, protocol, ("name", time_key))
            name = table.get("name", table["kind"])
            if not isinstance(name, str) or not name:
                self._source.refuse((*where, "name"), f"{toml_text(name)} is not a text between quotes")
            if any(other.name == name for other in found):
                self._source.refuse(where, f"there is another {key} '{name}': give this one a `name` of its own")
            found.append(Timed(name, part, float(time_s)))
        return tuple(found)

    def _part(
        self,
        where: Where,
        table: Mapping[str, Any],
        kinds: Mapping[str, type[Any]],
        protocol: type,
        besides: Sequence[str] = (),
    ) -> Any:
        if "kind" not in table:
            self._source.refuse((*where, "kind"), f"this is missing: one of {', '.join(kinds)}")
        kind = table["kind"]
        if isinstance(kind, str) and ":" in kind:
            part = own_part(self._source, (*where, "kind"), kind, protocol)
            self._note_file(kind)
        elif isinstance(kind, str) and kind in kinds:
            part = kinds[kind]
        else:
            self._source.refuse(
                (*where, "kind"), f"{toml_text(kind)} is none of {', '.join(kinds)}{suggestion(str(kind), list(kinds))}"
            )
        return self._options.read(part, table, where, (*besides, "kind"))

    def _routing(self, name: str) -> PolicyFor:
        policy = own_policy(self._source, ("stack", "routing"), name)
        self._note_file(name)
        return policy

    def _note_file(self, name: str) -> None:
        """Code of the reader's own belongs to what results depend on, as data files do."""
        if (file := source_file(name)) is not None:
            self._options.files[name] = file

    def _nat(self, table: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
        self._source.known(("nat",), table, sorted(PRESETS))
        for preset, value in table.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                self._source.refuse(("nat", preset), f"{toml_text(value)} is not a share from 0 to 1")
        if sum(table.values()) > 1 + 1e-9:
            self._source.refuse(("nat",), f"the shares add up to {sum(table.values()):g}, more than 1")
        return tuple((preset, float(value)) for preset, value in table.items())

    def _entries(self, document: dict[str, Any], key: str, kind: type[Any]) -> tuple[Any, ...]:
        tables = self._array(document, key)
        document.pop(key, None)
        return tuple(self._options.read(kind, table, (key, place)) for place, table in enumerate(tables))

    def _array(self, document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
        tables = document.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._source.refuse((key,), f"these must be tables in an array: write [[{key}]]")
        return tables

    def _table(self, key: str, value: Any) -> dict[str, Any]:
        return self._source.table((key,), value, f"[{key}]")

    def _seeds(self, value: Any) -> tuple[int, ...]:
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SEEDS:
            return tuple(range(1, value + 1))
        try:
            return seeds_of(value) if isinstance(value, str) else seeds_of("")
        except ValueError:
            self._source.refuse(("seeds",), f"{toml_text(value)} are no seeds: write 10, or '1-10', or '1-4,9'")


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
