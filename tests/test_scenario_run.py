"""Runs of scenarios: the same for the same seed, whoever performs them; what parts do to a world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from random import Random
from typing import Any

import pytest

from sims.errors import NeverHappened
from sims.link import AccessLink
from sims.scenario.perform import Performed, perform
from sims.scenario.plan import ScenarioError, read_scenario
from sims.scenario.population import access_links

BUSY = """
nodes = 6
duration_s = 8
drain_s = 4
[network]
loss = 0.01
jitter_ms = 3
[churn]
kind = "exponential"
up_s = 8
down_s = 4
[[workload]]
kind = "lookups"
count = 12
rate_per_s = 3
[[workload]]
kind = "pings"
count = 4
rate_per_s = 2
"""


def run(text: str, seed: int = 1) -> Performed:
    return perform(read_scenario(text, "test.toml", lambda name: None).points[0][1], seed)


def rows(performed: Performed, kind: str) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, performed.rows) if row["kind"] == kind]


def test_a_seed_gives_one_run_whatever_python_hashes_with() -> None:
    here = run(BUSY)
    program = (
        "import sys; from tests.test_scenario_run import BUSY, run; r = run(BUSY);"
        "print(r.trace_hash); sys.stdout.write('\\n'.join(r.rows))"
    )
    for seed in ("1", "77"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        assert there.stdout.splitlines() == [here.trace_hash, *here.rows]
    assert run(BUSY, seed=2).trace_hash != here.trace_hash


def test_without_cryptography_a_run_is_the_same() -> None:
    plain = run(BUSY + '[stack]\ncrypto = "plain"\n')
    real = run(BUSY)
    assert (plain.trace_hash, plain.rows) == (real.trace_hash, real.rows)


def test_an_access_link_holds_up_what_it_carries() -> None:
    text = """
nodes = 2
duration_s = 4
drain_s = 4
[network]
{link}
[[workload]]
kind = "lookups"
count = 8
rate_per_s = 2
"""

    def slowest_ms(link: str) -> float:
        return max(float(row["took_ms"]) for row in rows(run(text.format(link=link)), "lookup") if row["ok"])

    free = slowest_ms("")
    # A question and its answer, each over 50 bytes with headers, at 64 kbit/s: an eighth of a millisecond a byte.
    assert slowest_ms("up_kbit_per_s = 64") > free + 12
    assert slowest_ms("down_kbit_per_s = 64") > free + 12


def test_shares_of_the_nodes_have_lines_of_their_own() -> None:
    text = """
nodes = 8
duration_s = 5
drain_s = 4
[network]
up_kbit_per_s = 8_000
[[network.access]]
name = "dsl"
share = 0.5
up_kbit_per_s = 512
down_kbit_per_s = 4_000
[[network.access]]
name = "radio"
share = 0.25
loss = 0.2
jitter_ms = 20
[[workload]]
kind = "lookups"
count = 10
rate_per_s = 2
[[probe]]
kind = "counters"
[sweep]
"network.access.radio.loss" = [0.0, 0.2]
"""
    points = read_scenario(text, "test.toml", lambda name: None).points
    network = points[1][1].network
    links = access_links(network, 8, Random(1))
    dsl = AccessLink(512_000.0, 4_000_000.0)
    radio = AccessLink(None, None, loss=0.2, jitter_s=0.02)
    assert Counter(links) == {dsl: 4, radio: 2, AccessLink(8_000_000.0): 2}
    assert access_links(network, 8, Random(2)) != links
    lossless, lossy = (perform(scenario, 1) for _, scenario in points)
    lost = [sum(row["total"] for row in rows(each, "network") if row["name"] == "lost") for each in (lossless, lossy)]
    assert lost[0] == 0 < lost[1]
    assert all(row["ok"] for row in rows(lossless, "lookup"))


def test_watching_changes_nothing() -> None:
    watched = BUSY + "".join(
        f"[[probe]]\nkind = '{kind}'\nevery_s = {every_s}\n"
        for kind, every_s in (("ring", 1), ("traffic", 1), ("counters", 0), ("joins", 0))
    )
    one, other = run(BUSY), run(watched)
    assert one.trace_hash == other.trace_hash
    assert rows(one, "lookup") == rows(other, "lookup")
    kinds = Counter(json.loads(row)["kind"] for row in other.rows)
    assert kinds["ring"] == 8 and kinds["traffic"] == 8 and kinds["join"] >= 6 and kinds["counter"] > 0


def test_a_partition_splits_the_ring_and_mending_makes_it_one_again() -> None:
    performed = run(
        "nodes = 6\nduration_s = 60\n[[fault]]\nkind = 'partition'\nat_s = 1\nfor_s = 20\n"
        "[[probe]]\nkind = 'ring'\nevery_s = 1\n"
    )
    whole = {round(row["t_s"]): row["whole"] for row in rows(performed, "ring")}
    assert whole[1] and not whole[20] and whole[60]


def test_faults_befall_as_many_as_they_say() -> None:
    performed = run(
        "nodes = 8\nduration_s = 6\n[[fault]]\nkind = 'crash'\nat_s = 1\nfraction = 0.5\n"
        "[[fault]]\nkind = 'start'\nat_s = 3\n[[fault]]\nkind = 'loss'\nat_s = 5\nloss = 1.0\n"
        "[[probe]]\nkind = 'ring'\nevery_s = 1\n"
        "[[probe]]\nkind = 'counters'\n"
    )
    nodes = {round(row["t_s"]): row["nodes"] for row in rows(performed, "ring")}
    assert (nodes[2], nodes[4]) == (4, 8)
    assert {row["name"] for row in rows(performed, "network")} >= {"lost", "unaddressed"}


def test_whole_vpn_nodes_pass_packets_behind_boxes() -> None:
    performed = run(
        "nodes = 4\nduration_s = 3\ndrain_s = 12\n[stack]\nkind = 'vpn'\n[nat]\nport = 0.5\n"
        "[[workload]]\nkind = 'packets'\ncount = 3\nrate_per_s = 1\n"
    )
    packets = rows(performed, "packet")
    assert len(packets) == 3 and all(row["ok"] for row in packets)


def test_packets_of_a_ring_without_taps_are_refused() -> None:
    with pytest.raises(ScenarioError, match=r"line 4: workload\.0\.kind: this needs whole VPN nodes"):
        run("nodes = 2\nduration_s = 60\n[[workload]]\nkind = 'packets'\n")


@pytest.mark.parametrize("kind", ["one-by-one", "together", "poisson", "well-known"])
def test_who_is_away_at_first_by_the_churn_is_not_started_by_the_arrival(kind: str) -> None:
    performed = run(
        f"nodes = 12\nduration_s = 1\ndrain_s = 0\n[arrival]\nkind = '{kind}'\nwhole_within_s = 0\nsettle_s = 0\n"
        "[churn]\nkind = 'fitted'\npreset = 'overnet-exponential'\n[[probe]]\nkind = 'ring'\nevery_s = 1\n"
    )
    (row, *_) = rows(performed, "ring")
    # Overnet's are up for a sixth of the time.
    assert row["nodes"] < 9


def test_an_arrival_begins_with_somebody_whom_others_can_reach() -> None:
    text = (
        "nodes = 6\nduration_s = 1\ndrain_s = 0\n[nat]\nport = 0.8\n"
        "[churn]\nkind = 'fitted'\npreset = 'planetlab-exponential'\n[[probe]]\nkind = 'ring'\n"
    )
    ran = []
    for seed in range(1, 9):
        try:
            (row,) = rows(run(text, seed), "ring")
        except ValueError as error:
            assert "none can be reached from outside" in str(error)
        else:
            assert row["whole"], f"seed {seed}"
            ran.append(seed)
    assert len(ran) >= 4


def test_a_ring_that_takes_too_long_says_what_to_change() -> None:
    with pytest.raises(
        NeverHappened, match=r"seed 1: 2 s after the last start 6 of 6 near lists .* whole_within_s = 0"
    ):
        run("nodes = 3\n[network]\nloss = 1.0\n[arrival]\nkind = 'one-by-one'\nwhole_within_s = 2\n")


def test_unanswered_lookups_are_counted_as_failed() -> None:
    performed = run(
        "nodes = 4\nduration_s = 2\ndrain_s = 0\n[[fault]]\nkind = 'loss'\nloss = 1.0\n"
        "[[workload]]\nkind = 'lookups'\nat_s = 1.9\ncount = 10\nrate_per_s = 1000\n"
    )
    lookups = rows(performed, "lookup")
    assert len(lookups) == 10
    assert any(not row["answered"] for row in lookups)
