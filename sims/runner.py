"""† Runs a whole plan: every point with every seed, by an executor, into a results folder."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sims.checksums import code_sha256, file_sha256
from sims.executor import Done, Executor, Failed, Task
from sims.results import Results, described
from sims.scenario.measures import shown
from sims.scenario.plan import Plan, ScenarioError, Wanted, read_scenario
from sims.toml_source import suggestion

SCENARIOS = Path(__file__).with_name("scenarios")


@dataclass(frozen=True)
class Given:
    """A scenario as the user named it, and what it says."""

    path: Path
    text: str
    plan: Plan


def find_scenario(name: str) -> Path:
    """The file itself, or the shipped scenario of that name. Raises ScenarioError."""
    path = Path(name)
    if path.exists() or "/" in name or name.endswith(".toml"):
        return path
    shipped = SCENARIOS / f"{name}.toml"
    if not shipped.exists():
        names = [each.stem for each in shipped_scenarios()]
        raise ScenarioError(
            f"{name}: neither a file nor a shipped scenario{suggestion(name, names)}; these are: {', '.join(names)}"
        )
    return shipped


def shipped_scenarios() -> list[Path]:
    return sorted(SCENARIOS.glob("*.toml"))


def find_modules(path: Path) -> None:
    """From now on, modules that the scenario names are found in the working directory and beside it, by processes that
    we start as well; but what was found without them stays what it is."""
    for place in (str(Path.cwd()), str(path.parent.resolve())):
        if place not in sys.path:
            sys.path.append(place)


def read_file(path: Path, wanted: Wanted) -> Given:
    """Raises ScenarioError."""
    try:
        text = path.read_text("utf-8-sig")  # editors on Windows put a mark at the beginning
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path}: this is no text in UTF-8") from None
    return Given(path, text, read_scenario(text, str(path), finder(path.parent), wanted))


def try_files(plan: Plan) -> None:
    """Read every data file that a plan names, once, as its runs will. Raises ScenarioError for one that they can't use,
    so that it is told once and at once."""
    tried: list[tuple[object, int]] = []
    for _, scenario in plan.points:
        for part in scenario.parts():
            nodes = scenario.general.nodes
            trial: Callable[[int], None] | None = getattr(part, "trial", None)
            if trial is None or (part, nodes) in tried:
                continue
            tried.append((part, nodes))
            try:
                trial(nodes)
            except (ValueError, OSError) as error:
                raise ScenarioError(f"{plan.named_at[part.file]}: {error}") from None


def finder(beside: Path) -> Callable[[str], str | None]:
    """Finds the data files of a scenario: beside it, or in the directory that P2PVPN_DATA names."""
    places = [beside]
    if data := os.environ.get("P2PVPN_DATA"):
        places.append(Path(data))

    def find(name: str) -> str | None:
        try:
            return next((str((place / name).resolve()) for place in places if (place / name).is_file()), None)
        except OSError:  # a name that is too long for this system, or a folder that nobody may look into
            return None

    return find


def tasks_of(plan: Plan) -> list[Task]:
    """Every run of a plan: all points with the first seed, then all with the second, so that an interruption leaves
    something of each."""
    checksums = {path: file_sha256(path) for path in plan.files.values()}
    return [
        Task(number, seed, settings, scenario, checksums, code_sha256())
        for seed in plan.seeds
        for number, (settings, scenario) in enumerate(plan.points)
    ]


def replay(given: Given, settings: Mapping[str, Any], task: Task) -> str:
    """The command that repeats one run alone."""
    command = ["p2pvpn-sim", "run", str(given.path), "--seeds", str(task.seed)]
    if given.plan.small:
        command.append("--small")
    if given.plan.full:
        command.append("--full")
    for key, value in {**settings, **task.settings}.items():
        command += ["--set", f"{key}={shown(value)}"]
    return shlex.join(command)


def run_plan(
    given: Given,
    results: Results,
    executor: Executor,
    settings: Mapping[str, Any],
    command: Sequence[str],
    resume: bool,
    progress: Callable[[int, int], None] = lambda finished, wanted: None,
) -> dict[str, Any]:
    """Perform what is not finished yet, and write the results. Returns the content of result.json. Raises ResultsError
    and ExecutorError."""
    results.begin(given.text, described(given.plan, given.path, given.text, settings, command), resume)
    tasks = tasks_of(given.plan)
    left = [task for task in tasks if not results.finished(task)]
    finished = len(tasks) - len(left)
    failures: list[dict[str, Any]] = []
    progress(finished, len(tasks))
    for task, outcome in executor.perform(left):
        finished += 1
        match outcome:
            case Done():
                results.keep(task, outcome)
            case Failed():
                failures.append(
                    {
                        "seed": task.seed,
                        "settings": task.settings,
                        "error": outcome.error,
                        "replay": replay(given, settings, task),
                    }
                )
        progress(finished, len(tasks))
    failures.sort(key=lambda failure: (str(failure["settings"]), failure["seed"]))
    return results.conclude(given.plan, failures)
