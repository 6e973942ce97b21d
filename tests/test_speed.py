"""The speed report at tiny sizes: it is of the world that ran, and nothing but its arguments decides the hash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sims import speed
from sims.errors import NeverHappened

ROOT = Path(__file__).parent.parent
TINY = ("--nodes", "8", "--steady", "5", "--lookups", "20", "--json")


def run(arguments: Sequence[str], hash_seed: str) -> dict[str, Any]:
    """In a process of its own, with this PYTHONHASHSEED."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "sims.speed", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=300)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("how", [(), ("--plain", "--constructed")], ids=["grown", "constructed"])
def test_one_seed_gives_one_trace_hash_whatever_pythonhashseed_is(how: Sequence[str]) -> None:
    first, second = (run((*TINY, *how, "--seed", "3"), hash_seed) for hash_seed in ("0", "4242"))
    other = run((*TINY, *how, "--seed", "4"), "0")
    assert first["trace_hash"] == second["trace_hash"] != other["trace_hash"]
    assert [phase["events"] for phase in first["phases"]] == [phase["events"] for phase in second["phases"]]
    assert first["lookups_failed"] == 0 and first["hops"] >= 0


def test_the_plain_suite_makes_the_same_world() -> None:
    real, plain = (speed.measure(8, 3, plain=plain, lookups=10, steady_s=5) for plain in (False, True))
    assert real.trace_hash == plain.trace_hash
    assert [phase.events for phase in real.phases] == [phase.events for phase in plain.phases]


def test_the_report_is_of_the_world_that_ran() -> None:
    found = speed.measure(12, 2, constructed=True, plain=True, lookups=30, steady_s=20)
    assert [phase.name for phase in found.phases] == ["identities", "ring", "steady", "lookups"]
    assert found.phases[2].simulated_s == pytest.approx(20.0, abs=0.01)
    assert all(phase.wall_s > 0 for phase in found.phases)
    assert found.peers_per_node >= 10 and found.events_per_s > 0 and found.memory_mib > 10
    assert found.trace_hash in found.text() and "30 lookups, 0 failed" in found.text()


def test_the_report_of_several_processes_is_of_all_of_them() -> None:
    alone, shared = (speed.measure(40, 2, constructed=True, plain=True, steady_s=60, processes=n) for n in (1, 2))
    assert [phase.name for phase in shared.phases] == ["identities", "ring", "steady"] and shared.processes == 2
    assert shared.phases[2].simulated_s == pytest.approx(60.0, abs=0.01)
    assert shared.phases[2].events == pytest.approx(alone.phases[2].events, rel=0.1)
    assert shared.peers_per_node == pytest.approx(alone.peers_per_node, rel=0.1)
    assert shared.phases[2].cpu_s > 0 and shared.memory_mib > 10 and shared.trace_hash != alone.trace_hash


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "1"], "must be 2 or more"),
        (["--nodes", "4", "--processes", "2", "--lookups", "1"], "for one process"),
        (["--nodes", "4", "--constructed", "--processes", "5"], "4 nodes can't be shared out among 5"),
        (["--steady", "0"], "must be 1 or more"),
        (["--matrix", "/nonexistent/matrix"], "/nonexistent/matrix"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        speed.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_failure_prints_the_line_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        raise NeverHappened("seed 9: 'whole' did not hold within 300 simulated seconds")

    monkeypatch.setattr(speed, "grow", never)
    assert speed.main(["--nodes", "4", "--seed", "9"]) == 1
    said = capsys.readouterr().err
    assert "seed 9" in said and "python -m sims.speed --nodes 4 --seed 9" in said
