"""The examples of simulations run as they are, and come to what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "nodes", "told"),
    [
        ("sim_lookups", 8, "500 of 500 lookups were answered by the nearest node"),
        ("sim_partition", 9, "0 wrong near lists, inconsistency 0.000"),
        ("sim_routing", 8, "clockwise only: 300 of 300 lookups right"),
        ("sim_shards", 12, "500 of 500 lookups were answered by the nearest node"),
    ],
)
def test_an_example_runs(name: str, nodes: int, told: str) -> None:
    ran = subprocess.run(
        [sys.executable, f"examples/{name}.py", str(nodes)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert told in ran.stdout
