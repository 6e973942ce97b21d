"""`p2pvpn-sim`: results that can be repeated, cited and taken up again; each mistake one line and its exit code."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

import sims.executor as executor_module
from sims.executor import DaskCluster, Done, ExecutorError, LocalProcesses, run_task
from sims.results import Results, ResultsError, described
from sims.runner import read_file, run_plan, tasks_of
from sims.scenario.plan import Wanted, read_scenario
from tests.patience import PATIENCE_S

SCENARIO = """
name = "tiny"
nodes = 3
seeds = "1-2"
duration_s = 1
drain_s = 1
[[workload]]
kind = "lookups"
count = 4
rate_per_s = 8
[sweep]
network.loss = [0.0, 0.02]
[[measure]]
name = "hops"
rows = "lookup"
value = "hops"
[[plot]]
name = "hops"
rows = "lookup"
x = "network.loss"
y = "hops"
reference = [{ label = "theirs", source = "a paper", points = [[0, 1], [0.02, 1]] }]
[[plot]]
name = "time"
kind = "cdf"
rows = "lookup"
y = "took_ms"
by = "network.loss"
[[plot]]
name = "all"
kind = "table"
measures = ["hops"]
"""
CLUSTER = """
import time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", processes=False, protocol="tcp")
    print(cluster.scheduler_address, flush=True)
    time.sleep(600)
"""
FAILING = 'nodes = 3\n[network]\nloss = 1.0\n[arrival]\nkind = "one-by-one"\nwhole_within_s = 2\n'


def sim(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sims.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(SCENARIO)
    return path


def rows_of(folder: Path) -> dict[str, bytes]:
    return {path.name: gzip.decompress(path.read_bytes()) for path in (folder / "rows").glob("*.gz")}


def test_a_run_leaves_all_that_it_takes_to_cite_and_repeat_it(scenario: Path, tmp_path: Path) -> None:
    ran = sim("run", scenario, "--out", "one", "--jobs", 2, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "network.loss = 0.02: hops" in ran.stdout and "results: one" in ran.stdout
    folder = tmp_path / "one"
    result, described = json.loads((folder / "result.json").read_text()), json.loads((folder / "run.json").read_text())
    assert result["complete"] and sorted(result["trace_hash"]) == ["1", "2"]
    assert [point["settings"] for point in result["points"]] == [{"network.loss": 0.0}, {"network.loss": 0.02}]
    hops = result["points"][0]["measures"]["hops"]
    assert hops["low"] <= hops["mean"] <= hops["high"] and sorted(hops["values"]) == ["1", "2"]
    assert {"commit", "dirty", "code_sha256", "data_sha256", "packages", "python", "seeds"} <= set(described)
    assert (folder / "scenario.toml").read_text() == SCENARIO
    for name in ("hops.png", "hops.svg", "time.png", "time.svg", "all.md"):
        assert (folder / "plots" / name).stat().st_size > 0
    assert "theirs" in (folder / "plots" / "hops.svg").read_text()

    drawn = (folder / "plots" / "hops.svg").read_bytes()
    again = sim("plot", "one", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (folder / "plots" / "hops.svg").read_bytes() == drawn

    refused = sim("run", scenario, "--out", "one", cwd=tmp_path)
    assert (refused.returncode, refused.stderr) == (
        1,
        "p2pvpn-sim: one holds results already: choose another folder with --out\n",
    )


def test_an_interrupted_run_is_taken_up_where_it_stopped(scenario: Path, tmp_path: Path) -> None:
    given = read_file(scenario, Wanted(settings={"network.loss": 0.0}))
    whole, broken = Results(tmp_path / "whole"), Results(tmp_path / "broken")
    with LocalProcesses(1) as executor:
        expected = run_plan(given, whole, executor, {}, [], resume=False)

        class Stop(Exception):
            """Somebody pressed Ctrl-C."""

        def stop(finished: int, wanted: int) -> None:
            if finished == 1:
                raise Stop

        with pytest.raises(Stop):
            run_plan(given, broken, executor, {}, [], resume=False, progress=stop)
        for _ in range(2):
            with pytest.raises(ResultsError, match="holds an interrupted run, 1 of 2 done: --resume takes it up"):
                run_plan(given, broken, executor, {}, [], resume=False)
            broken.conclude(given.plan, [])  # as `p2pvpn-sim plot` does, which makes it no more complete
        other = read_file(scenario, Wanted(seeds=(5,), settings={"network.loss": 0.0}))
        with pytest.raises(ResultsError, match="can't be taken up: 'seeds'"):
            run_plan(other, broken, executor, {}, [], resume=True)
        assert run_plan(given, broken, executor, {}, [], resume=True) == expected
    assert rows_of(tmp_path / "broken") == rows_of(tmp_path / "whole")


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@contextmanager
def endless_run(scenario: Path, out: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A command whose first run is over and whose second never ends."""
    command = [sys.executable, "-m", "sims.cli", "run", str(scenario), "--out", str(out), "--jobs", "1", *more]
    with subprocess.Popen(
        [*command, "--set", "sweep.duration_s=[1, 1000000]"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        gives_up = time.monotonic() + PATIENCE_S
        while not (out / "rows" / "point-0000.seed-1.json").exists() and time.monotonic() < gives_up:
            time.sleep(0.05)
        yield process


def test_ctrl_c_says_how_to_go_on(scenario: Path, tmp_path: Path) -> None:
    with endless_run(scenario, tmp_path / "out") as process:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert told.startswith("p2pvpn-sim: interrupted; ") and "--resume" in told and told.count("\n") == 1


def test_a_killed_worker_is_one_line_that_says_how_to_go_on(scenario: Path, tmp_path: Path) -> None:
    with endless_run(scenario, tmp_path / "out") as process:
        (worker,) = workers_of(process)
        os.kill(worker, signal.SIGKILL)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert told.startswith("p2pvpn-sim: a process that performed runs was killed, ") and "--resume" in told
    assert told.count("\n") == 1


def test_who_starts_runs_and_is_killed_leaves_nobody_running_and_a_folder_to_take_up(
    scenario: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with endless_run(scenario, out) as process:
        (worker,) = workers_of(process)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    gives_up = time.monotonic() + PATIENCE_S
    while is_running(worker) and time.monotonic() < gives_up:
        time.sleep(0.05)
    assert not is_running(worker)
    assert not (out / "result.json").exists()
    taken_up = sim(
        "run",
        scenario,
        "--out",
        out,
        "--set",
        "sweep.duration_s=[1, 1000000]",
        "--seeds",
        "9",
        "--resume",
        cwd=tmp_path,
    )
    assert taken_up.returncode == 1 and "can't be taken up: 'seeds' in run.json" in taken_up.stderr
    drawn = sim("plot", out, cwd=tmp_path)
    assert drawn.returncode == 0 and not json.loads((out / "result.json").read_text())["complete"]


def is_running(pid: int) -> bool:
    """Whether a process is there, and more than a grave that nobody has looked at."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_data_file_that_cannot_be_used_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "rtts.txt").write_text("0 10\n10 far\n")
    path = tmp_path / "measured.toml"
    path.write_text("nodes = 2\n[network.latency]\nkind = 'matrix'\nfile = 'rtts.txt'\n[sweep]\nnodes = [2, 3]\n")
    ran = sim("run", path, "--out", "out", "--seeds", "1-10", cwd=tmp_path)
    assert ran.returncode == 2
    assert "measured.toml, line 4: network.latency.file: " in ran.stderr and "'far' is not a number" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("run.json", b"{", "run.json: damaged: "),
        ("run.json", b"[]", "run.json: not what p2pvpn-sim writes"),
        ("run.json", b"{}", "run.json: not what p2pvpn-sim writes: 'points' is missing, or something else"),
        ("scenario.toml", b"\xff", "scenario.toml: damaged: this is no text in UTF-8"),
        ("result.json", b"{}", "result.json: not what p2pvpn-sim writes: 'failures' is missing"),
        (
            "rows/point-0000.seed-1.json",
            b"{}",
            "seed-1.json: not what p2pvpn-sim writes: 'point' is missing",
        ),
        ("rows/point-0000.seed-1.jsonl.gz", b"x", "point-0000.seed-1.jsonl.gz: damaged: "),
    ],
)
def test_damaged_results_are_refused_by_the_name_of_the_file(
    name: str, content: bytes, told: str, tmp_path: Path
) -> None:
    results = Results(tmp_path / "results")
    plan = read_scenario("nodes = 1\n", "tiny.toml", lambda name: None)
    results.begin("nodes = 1\n", described(plan, tmp_path / "x.toml", "nodes = 1\n", {}, []), resume=False)
    (task,) = tasks_of(plan)
    results.keep(task, Done(gzip.compress(b'{"kind": "x", "seed": 1}\n'), 1, "hash", 1, 1.0, 1.0, 1))
    results.conclude(plan, [])
    assert [row["kind"] for row in results.rows()] == ["x"]
    (results.folder / name).write_bytes(content)
    with pytest.raises(ResultsError) as caught:
        results.scenario_text()
        results.description()
        results.failures()
        list(results.rows())
    assert told in str(caught.value) and "\n" not in str(caught.value)


OWN = """
from dataclasses import dataclass
from sims.scenario.options import option
@dataclass(frozen=True, kw_only=True)
class Hello:
    times: int = option(1, "how often")
    def start(self, run):
        for _ in range(self.times):
            run.record.row("hello", up=len(run.population))
"""


def test_modules_of_ones_own_are_found_beside_the_scenario_and_belong_to_the_results(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "own_hello.py").write_text(OWN)
    (here / "own.toml").write_text(
        "nodes = 2\nduration_s = 1\ndrain_s = 0\n[[workload]]\nkind = 'own_hello:Hello'\ntimes = 3\n"
        "[[measure]]\nname = 'said'\nrows = 'hello'\nreduce = 'count'\n"
    )
    ran = sim("run", here / "own.toml", "--out", "out", "--seeds", "1-2", "--jobs", 1, cwd=there)
    assert ran.returncode == 0 and "own: said 3 ± 0" in ran.stdout, ran.stderr
    described = json.loads((there / "out" / "run.json").read_text())
    assert described["data_sha256"] == {"own_hello:Hello": sha256(OWN.encode()).hexdigest()}
    assert sim("plot", there / "out", cwd=tmp_path).returncode == 0
    (here / "own_hello.py").write_text(OWN + "# other\n")
    again = sim("run", here / "own.toml", "--out", "out", "--seeds", "1-2", "--resume", cwd=there)
    assert again.returncode == 1 and "can't be taken up: 'data_sha256'" in again.stderr


def test_a_folder_of_something_else_is_left_alone(scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with LocalProcesses(1) as executor, pytest.raises(ResultsError, match="is not empty, and holds no results"):
        run_plan(read_file(scenario, Wanted()), Results(tmp_path), executor, {}, [], resume=True)


def test_a_failing_seed_names_the_line_that_replays_it(tmp_path: Path) -> None:
    path = tmp_path / "failing.toml"
    path.write_text(FAILING)
    ran = sim("run", path, "--out", "out", "--seeds", "3", "--set", "duration_s=1", cwd=tmp_path)
    assert ran.returncode == 1
    assert "seed 3 failed: NeverHappened: seed 3: 2 s after the last start 6 of 6 near lists are not what" in ran.stderr
    assert f"again: p2pvpn-sim run {path} --seeds 3 --set duration_s=1" in ran.stderr
    assert not json.loads((tmp_path / "out" / "result.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "tiny.toml", "--seeds", "many"), "'many' are no seeds"),
        (("run", "tiny.toml", "--set", "nodes"), "--set: this needs KEY=VALUE"),
        (("run", "tiny.toml", "--set", "nods=1"), "--set nods: nods: no such key (did you mean 'nodes'?)"),
        (("run", "gone.toml"), "gone.toml: No such file or directory"),
        (("run", "gone"), "neither a file nor a shipped scenario; these are: "),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], told: str, scenario: Path, tmp_path: Path
) -> None:
    ran = sim(*arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert told in ran.stderr and ran.stderr.count("\n") == 1


def test_an_engine_that_is_none_is_refused(scenario: Path, tmp_path: Path) -> None:
    ran = sim("run", scenario, "--engine", "slurm", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (
        2,
        "p2pvpn-sim: Invalid value for --engine: 'slurm' is no engine: write local, or dask://HOST:PORT of a"
        " scheduler\n",
    )


def test_the_list_has_a_line_for_each_scenario(tmp_path: Path) -> None:
    ran = sim("list", cwd=tmp_path)
    assert ran.returncode == 0
    names = [line.split()[0] for line in ran.stdout.splitlines()]
    assert {"churn", "lookups", "partition"} <= set(names) and names == sorted(names)


def test_a_dask_cluster_gives_the_same_rows_as_this_machine(scenario: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    given = read_file(scenario, Wanted(seeds=(1,)))
    with LocalProcesses(1) as executor:
        here = run_plan(given, Results(tmp_path / "here"), executor, {}, [], resume=False)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        DaskCluster(cluster.scheduler_address) as executor,
    ):
        there = run_plan(given, Results(tmp_path / "there"), executor, {}, [], resume=False)
    assert here == there
    assert rows_of(tmp_path / "here") == rows_of(tmp_path / "there")


def test_a_cluster_without_workers_is_told_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(executor_module, "WORKERS_WITHIN_S", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        pytest.raises(ExecutorError, match="has no workers, and none came within"),
    ):
        DaskCluster(cluster.scheduler_address)


def test_a_scheduler_that_dies_is_one_line_that_says_how_to_go_on(scenario: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip().removeprefix("tcp://")
        with endless_run(scenario, tmp_path / "out", "--engine", f"dask://{address}") as process:
            cluster.kill()
            _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert told.startswith("p2pvpn-sim: the Dask scheduler at ") and "--resume" in told and told.count("\n") == 1


@pytest.mark.parametrize("other", ["code", "data"])
def test_who_has_other_code_or_data_performs_nothing(other: str, scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "rtts.txt").write_text("0 10\n10 0\n")
    scenario.write_text(SCENARIO + "[network.latency]\nkind = 'file'\nfile = 'rtts.txt'\n")
    task = tasks_of(read_file(scenario, Wanted(seeds=(1,))).plan)[0]
    assert run_task(task).row_count == 4
    if other == "code":
        task = replace(task, code="0" * 64)
    else:
        (tmp_path / "rtts.txt").write_text("0 20\n20 0\n")
    with pytest.raises(
        ExecutorError, match="other code of this program" if other == "code" else "is another file here"
    ):
        run_task(task)
