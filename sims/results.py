"""† The folder of a scenario's results: written so that a run can be cited, repeated, and taken up after an
interruption.

    run.json        what is run: settings, points, seeds, commit, versions, checksums of code and data, in full
    scenario.toml   the file as it was
    rows/KEY.jsonl.gz, rows/KEY.json      of each finished run: its raw rows, and its facts (trace hash, events, time)
    result.json     trace hash per seed, measures with 95 % confidence intervals, failures; once every run has ended
    plots/          PNG and SVG; tables as Markdown

Files appear whole or not at all: each is written beside its place and moved there; a run's facts come after its rows,
and only then does it count as finished.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sims.checksums import ROOT, code_sha256, file_sha256
from sims.executor import Done, Task
from sims.scenario.measures import Estimate, Row
from sims.scenario.plan import Plan
from sims.scenario.schema import MeasureOptions

PACKAGES = ("cryptography", "msgpack", "numpy", "matplotlib", "distributed")
# Of run.json, what must be the same for an interrupted run to be taken up.
SAME = ("scenario_sha256", "settings", "small", "full", "points", "seeds", "code_sha256", "data_sha256", "python")
# What is read again, and what it must be.
DESCRIPTION: Mapping[str, type] = {
    "points": list,
    "seeds": list,
    "settings": dict,
    "small": bool,
    "full": bool,
    "scenario_file": str,
}
FACTS: Mapping[str, type] = {"point": int, "seed": int, "trace_hash": str, "events": int}


class ResultsError(Exception):
    """The folder can't be used; the text says why and what to do."""


def commit() -> tuple[str | None, bool]:
    """The commit that the program is of, and whether anything was changed since; (None, True) outside of git."""
    try:
        head = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
        changes = subprocess.run(
            ["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None, True
    return head.stdout.strip(), bool(changes.stdout.strip())


def described(plan: Plan, path: Path, text: str, settings: Mapping[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """The content of run.json."""
    head, dirty = commit()
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "name": plan.name,
        "command": list(command),
        "scenario_file": str(path.resolve()),
        "scenario_sha256": sha256(text.encode()).hexdigest(),
        "settings": dict(settings),
        "small": plan.small,
        "full": plan.full,
        "points": [
            {"settings": swept, "scenario": json.loads(json.dumps(asdict(scenario), default=str))}
            for swept, scenario in plan.points
        ],
        "seeds": list(plan.seeds),
        "commit": head,
        "dirty": dirty,
        "code_sha256": code_sha256(),
        "data_sha256": {name: file_sha256(path) for name, path in sorted(plan.files.items())},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "packages": versions,
    }


class Results:
    """One folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def begun(self) -> bool:
        """Whether there are any, of a run that is over or not."""
        return (self.folder / "run.json").exists()

    def begin(self, text: str, description: Mapping[str, Any], resume: bool) -> None:
        """Make the folder ready, or take up what was interrupted there. Raises ResultsError."""
        described_at = self.folder / "run.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            empty = not any(self.folder.iterdir())
        except OSError as error:
            raise ResultsError(f"{self.folder}: {error.strerror or error}") from None
        if empty:
            (self.folder / "rows").mkdir()
            self._write("scenario.toml", text.encode())
            self._write("run.json", _json(description))
            return
        if not described_at.exists():
            raise ResultsError(f"{self.folder} is not empty, and holds no results: choose another with --out")
        earlier = self.description()
        wanted = len(earlier["points"]) * len(earlier["seeds"])
        finished = len(list((self.folder / "rows").glob("*.json")))
        if not resume:
            if finished >= wanted:
                raise ResultsError(f"{self.folder} holds results already: choose another folder with --out")
            raise ResultsError(
                f"{self.folder} holds an interrupted run, {finished} of {wanted} done: --resume takes it up, --out"
                " chooses another folder"
            )
        for key in SAME:
            if earlier.get(key) != json.loads(json.dumps(description[key])):
                raise ResultsError(
                    f"{self.folder} can't be taken up: '{key}' in run.json is not the same now; choose another folder"
                    " with --out"
                )

    def finished(self, task: Task) -> bool:
        return (self.folder / "rows" / f"{task.key}.json").exists()

    def keep(self, task: Task, done: Done) -> None:
        """A run has ended well."""
        facts = {
            "point": task.point,
            "seed": task.seed,
            "trace_hash": done.trace_hash,
            "events": done.events,
            "rows": done.row_count,
            "rows_sha256": sha256(gzip.decompress(done.rows)).hexdigest(),
            "simulated_s": done.simulated_s,
            "wall_s": round(done.wall_s, 3),
            "events_per_s": round(done.events / done.wall_s),
            "peak_memory_bytes": done.peak_memory_bytes,
        }
        self._write(f"rows/{task.key}.jsonl.gz", done.rows)
        self._write(f"rows/{task.key}.json", _json(facts))

    def facts(self) -> list[dict[str, Any]]:
        """Of every finished run, by point and seed."""
        found = [self._json(path, FACTS) for path in (self.folder / "rows").glob("*.json")]
        return sorted(found, key=lambda facts: (facts["point"], facts["seed"]))

    def rows(self, point: int | None = None) -> Iterator[Row]:
        """The raw rows of every finished run, or of one point's."""
        for facts in self.facts():
            if point is not None and facts["point"] != point:
                continue
            path = self.folder / "rows" / f"point-{facts['point']:04d}.seed-{facts['seed']}.jsonl.gz"
            try:
                with gzip.open(path, "rt", encoding="utf-8") as lines:
                    for line in lines:
                        yield json.loads(line)
            except (OSError, EOFError, ValueError) as error:
                raise ResultsError(f"{path}: damaged: {error}") from None

    def description(self) -> dict[str, Any]:
        """run.json. Raises ResultsError."""
        return self._json(self.folder / "run.json", DESCRIPTION)

    def scenario_text(self) -> str:
        """Raises ResultsError."""
        path = self.folder / "scenario.toml"
        try:
            return path.read_text("utf-8")
        except OSError as error:
            raise ResultsError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ResultsError(f"{path}: damaged: this is no text in UTF-8") from None

    def failures(self) -> list[dict[str, Any]]:
        """Those that result.json tells of; none before there is one."""
        path = self.folder / "result.json"
        return list(self._json(path, {"failures": list})["failures"]) if path.exists() else []

    def conclude(self, plan: Plan, failures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Write result.json, and return what is in it. Raises ResultsError where a measure can't be taken."""
        description = self.description()
        facts = self.facts()
        points = []
        for number, (settings, _) in enumerate(plan.points):
            own = [each for each in facts if each["point"] == number]
            points.append(
                {
                    "settings": settings,
                    "trace_hash": {str(each["seed"]): each["trace_hash"] for each in own},
                    "events": {str(each["seed"]): each["events"] for each in own},
                    "measures": self._measured(plan.measures, number),
                }
            )
        result = {
            "name": plan.name,
            "complete": not failures and len(facts) == len(plan.points) * len(plan.seeds),
            "trace_hash": _trace_hashes(points),
            "seeds": list(plan.seeds),
            "commit": description.get("commit"),
            "dirty": description.get("dirty"),
            "points": points,
            "failures": list(failures),
        }
        self._write("result.json", _json(result))
        return result

    def write_plot(self, name: str, content: bytes) -> None:
        """A file of the folder `plots`."""
        (self.folder / "plots").mkdir(exist_ok=True)
        self._write(f"plots/{name}", content)

    def _measured(self, measures: Sequence[MeasureOptions], point: int) -> dict[str, Any]:
        by_seed: dict[int, list[Row]] = {}
        kinds = {measure.rows for measure in measures}
        for row in self.rows(point):
            own = by_seed.setdefault(row["seed"], [])
            if row["kind"] in kinds:
                own.append(row)
        measured: dict[str, Any] = {}
        for measure in measures:
            chosen = measure.selection
            values: dict[str, float] = {}
            for seed, rows in sorted(by_seed.items()):
                try:
                    number = chosen.number(rows)
                except ValueError as error:
                    raise ResultsError(f"measure '{measure.name}': {error}") from None
                if number is not None:
                    values[str(seed)] = number
            estimate = asdict(Estimate.of(list(values.values()))) if values else None
            if estimate is not None:
                estimate["values"] = values
            measured[measure.name] = estimate
        return measured

    def _json(self, path: Path, expected: Mapping[str, type]) -> dict[str, Any]:
        """An object with at least the `expected` values."""
        try:
            found = json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ResultsError(f"{self.folder} holds no results of p2pvpn-sim: there is no {path.name}") from None
        except OSError as error:
            raise ResultsError(f"{path}: {error.strerror or error}") from None
        except ValueError as error:
            raise ResultsError(f"{path}: damaged: {error}") from None
        if not isinstance(found, dict):
            raise ResultsError(f"{path}: not what p2pvpn-sim writes")
        for key, kind in expected.items():
            if not isinstance(found.get(key), kind):
                raise ResultsError(f"{path}: not what p2pvpn-sim writes: '{key}' is missing, or something else")
        return found

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            raise ResultsError(f"{path}: {error.strerror or error}") from None


def _trace_hashes(points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """One for each seed: the run's own, or where there are several points, a hash over theirs, in order."""
    if len(points) == 1:
        return dict(points[0]["trace_hash"])
    seeds = {seed for point in points for seed in point["trace_hash"]}
    return {
        seed: sha256("".join(point["trace_hash"].get(seed, "-") for point in points).encode()).hexdigest()[:32]
        for seed in sorted(seeds, key=int)
    }


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n").encode()
