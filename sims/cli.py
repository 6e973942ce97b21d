"""The `p2pvpn-sim` command †: scenarios on simulated worlds, and what came of them.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Everything heavy is imported by the command that needs it.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import json
import os
import sys
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

# The parser's own exception, which typer has under different names: its click is inside of it, or beside it.
_WrongUsage: Any = typer.BadParameter.__base__

INTERRUPTED = 130  # as a shell says of Ctrl-C

app = typer.Typer(
    help="Runs the product's own nodes in simulated worlds, as a scenario file says.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="A TOML file, or a shipped scenario's name.")],
    seeds: Annotated[str | None, typer.Option(metavar="A-B", help="Instead of the file's.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="For the results; results/NAME-TIME else.")] = None,
    small: Annotated[bool, typer.Option("--small", help="With the values of [small].")] = False,
    full: Annotated[bool, typer.Option("--full", help="With those of [full]: the published sizes.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    engine: Annotated[str, typer.Option(metavar="ENGINE", help="local, or dask://HOST:PORT.")] = "local",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value: nodes=50, or sweep.nodes=[50,100]."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up what was interrupted in DIR.")] = False,
    plots: Annotated[bool, typer.Option(help="Draw the plots at the end.")] = True,
) -> None:
    """Run a scenario with every seed at every swept point. Prints each measure, and where the results are."""
    from sims.executor import ExecutorError, NoEngine, executor_for
    from sims.plots import draw_all
    from sims.results import Results
    from sims.runner import find_modules, find_scenario, read_file, run_plan, try_files
    from sims.scenario.plan import Wanted, seeds_of

    if small and full:
        raise typer.BadParameter("either --small or --full")
    try:
        wanted_seeds = seeds_of(seeds) if seeds is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--seeds") from None
    try:
        settings = dict(_setting(each) for each in setting or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from None
    path = find_scenario(scenario)
    find_modules(path)
    given = read_file(path, Wanted(small, wanted_seeds, settings, full))
    try_files(given.plan)
    if resume and out is None:
        raise typer.BadParameter("it needs --out DIR, the folder of the interrupted run", param_hint="--resume")
    folder = out or Path("results") / f"{given.plan.name}-{datetime.now():%Y%m%d-%H%M%S}"
    results = Results(folder)
    try:
        with executor_for(engine, jobs) as executor, _Bar(given.plan.name) as bar:
            result = run_plan(given, results, executor, settings, sys.argv, resume, bar.show)
    except KeyboardInterrupt:
        _fail(f"interrupted; {_how_to_go_on(folder)}", INTERRUPTED)
    except NoEngine as error:
        raise typer.BadParameter(str(error), param_hint="--engine") from None
    except ExecutorError as error:
        # Before anything began there is nothing to take up.
        _fail(f"{error}; {_how_to_go_on(folder)}" if results.begun else str(error), 1)
    _tell(result)
    for failure in result["failures"]:
        print(f"seed {failure['seed']} failed: {failure['error']}\n  again: {failure['replay']}", file=sys.stderr)
    print(f"results: {folder}")
    if result["failures"]:
        raise typer.Exit(1)
    if plots and result["complete"]:
        draw_all(given.plan, results, result)


@app.command(name="list")
def list_() -> None:
    """One line for each shipped scenario."""
    from sims.runner import read_file, shipped_scenarios
    from sims.scenario.plan import ScenarioError, Wanted

    shipped = shipped_scenarios()
    width = max(len(path.stem) for path in shipped) + 2
    for path in shipped:
        try:
            told = read_file(path, Wanted()).plan.description
        except ScenarioError:
            # Its data files may not be on this machine: the line is there all the same.
            told = tomllib.loads(path.read_text("utf-8")).get("description", "")
        print(f"{path.stem:<{width}}{told}")


@app.command()
def plot(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results of a run.")]) -> None:
    """Draw the plots of earlier results again."""
    from sims.plots import draw_all
    from sims.results import Results
    from sims.runner import find_modules, finder
    from sims.scenario.plan import Wanted, read_scenario

    results = Results(folder)
    description = results.description()
    # The data files are not needed any more: their rows are there.
    find = finder(folder)
    find_modules(Path(description["scenario_file"]))
    plan = read_scenario(
        results.scenario_text(),
        str(folder / "scenario.toml"),
        lambda name: find(name) or name,
        Wanted(description["small"], tuple(description["seeds"]), description["settings"], description["full"]),
    )
    result = results.conclude(plan, results.failures())
    for name in draw_all(plan, results, result):
        print(folder / "plots" / name)


@app.command()
def keys() -> None:
    """Every key that a scenario may have."""
    from sims.scenario.keys import listing

    print(listing())


class _Bar:
    """How many runs are done, and how long the others will take. On a terminal only."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("runs,"))
        self._progress = Progress(
            *columns, TimeRemainingColumn(), TextColumn("left"), console=console, disable=not console.is_terminal
        )
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, finished: int, wanted: int) -> None:
        self._progress.update(self._task, completed=finished, total=wanted)


def _setting(text: str) -> tuple[str, Any]:
    """`key=value`, the value as TOML has it; a bare word is a text. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"this needs KEY=VALUE, not '{text}'")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _how_to_go_on(folder: Path) -> str:
    return (
        f"what is finished is in {folder}: the same command with --resume --out {folder} takes it up, "
        f"`p2pvpn-sim plot {folder}` draws what there is"
    )


def _tell(result: dict[str, Any]) -> None:
    from sims.scenario.measures import shown

    for point in result["points"]:
        settings = ", ".join(f"{key} = {shown(value)}" for key, value in point["settings"].items())
        told = []
        for name, estimate in point["measures"].items():
            if estimate is None:
                told.append(f"{name} -")
                continue
            half = "" if estimate["high"] is None else f" ± {estimate['high'] - estimate['mean']:.3g}"
            told.append(f"{name} {estimate['mean']:.4g}{half}")
        print(f"{settings or result['name']}: {'; '.join(told) or json.dumps(point['trace_hash'])}")


def _fail(message: str, code: int) -> NoReturn:
    print(f"p2pvpn-sim: {message}", file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """The entry point."""
    from sims.executor import ExecutorError
    from sims.results import ResultsError
    from sims.scenario.plan import ScenarioError

    try:
        status = app(sys.argv[1:] or ["--help"], prog_name="p2pvpn-sim", standalone_mode=False)
    except _WrongUsage as error:
        _fail(error.format_message(), 2)
    except ScenarioError as error:
        _fail(str(error), 2)
    except (ResultsError, ExecutorError) as error:
        _fail(str(error), 1)
    except typer.Abort:
        _fail("interrupted", INTERRUPTED)
    raise SystemExit(status or 0)


if __name__ == "__main__":
    main()
