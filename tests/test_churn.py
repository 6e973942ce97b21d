"""Sessions and traces: the distributions are what they say, and worlds begin as if they had always been."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable
from math import exp, log
from pathlib import Path
from random import Random
from statistics import fmean, median

import pytest

from sims.churn import (
    HOUR_S,
    PRESETS,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    Segment,
    Sessions,
    Transition,
    Weibull,
    load_trace,
    replay,
    sessions,
)
from sims.scenario.lives import DrawnLives
from sims.scenario.plan import ScenarioError, read_scenario
from tests.evaluation import evaluation_file

DISTRIBUTIONS: list[Distribution] = [
    Exponential(3600.0),
    Weibull(0.64, 3600.0),
    Weibull(2.0, 3600.0),
    LogNormal(3600.0, 0.98),
    Gamma(0.53, 3600.0),
    Gamma(3.0, 3600.0),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_a_distribution_has_the_mean_that_it_names(distribution: Distribution) -> None:
    rng = Random(1)
    drawn = [distribution.draw_s(rng) for _ in range(40_000)]
    assert min(drawn) >= 0.0
    assert fmean(drawn) == pytest.approx(distribution.mean_s, rel=0.04)
    assert distribution.scaled(0.25).mean_s == pytest.approx(distribution.mean_s / 4)
    rng = Random(1)
    assert distribution.scaled(2.0).draw_s(rng) == pytest.approx(2 * drawn[0])


def test_quantiles_are_those_of_the_formulas() -> None:
    rng = Random(2)
    weibull = Weibull(0.64, 10.86)
    assert median(weibull.draw_s(rng) for _ in range(20_000)) == pytest.approx(10.86 * log(2) ** (1 / 0.64), rel=0.05)
    lognormal = sorted(LogNormal(5.0, 1.5).draw_s(rng) for _ in range(20_000))
    assert lognormal[10_000] == pytest.approx(5.0, rel=0.05)
    assert lognormal[int(0.8413 * 20_000)] == pytest.approx(5.0 * exp(1.5), rel=0.06)


def test_presets_say_what_was_published() -> None:
    assert PRESETS["skype-exponential"].up.mean_s == 16.27 * HOUR_S
    # Two fits of the same data come near the same mean.
    assert PRESETS["skype"].up.mean_s == pytest.approx(PRESETS["skype-exponential"].up.mean_s, rel=0.1)
    assert PRESETS["skype-gamma"].up.mean_s == pytest.approx(16.27 * HOUR_S, rel=0.01)
    assert PRESETS["overnet"].up.mean_s == pytest.approx(2.29 * HOUR_S, rel=0.05)
    assert PRESETS["overnet"].availability < 0.3 < 0.5 < PRESETS["skype"].availability < 0.6
    rng = Random(3)
    stays_h = sorted(PRESETS["ipfs"].up.draw_s(rng) / HOUR_S for _ in range(20_000))
    assert stays_h[10_000] == pytest.approx(2.0, rel=0.05)
    assert stays_h[16_000] == pytest.approx(8.0, rel=0.06)


def test_presets_are_the_fits_of_the_failure_trace_archive() -> None:
    names = {"skype06": "skype", "overnet03": "overnet", "pl05": "planetlab"}
    names |= {"microsoft99": "microsoft", "ldns04": "name-servers"}
    made: dict[str, Callable[..., Distribution]] = {
        "exponential_mean": lambda mean: Exponential(mean * HOUR_S),
        "weibull_shape_scale": lambda shape, scale: Weibull(shape, scale * HOUR_S),
        "lognormal_mu_sigma": lambda mu, sigma: LogNormal(exp(mu) * HOUR_S, sigma),
        "gamma_shape_scale": lambda shape, scale: Gamma(shape, scale * HOUR_S),
    }
    with evaluation_file("params/fta_churn_fits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 16
    for row in rows:
        family = row["family"].split("_")[0]
        preset = PRESETS[names[row["trace"]] + ("" if family == "weibull" else f"-{family}")]
        for sort, found in (("avail", preset.up), ("unavail", preset.down)):
            values = [float(row[key]) for key in (f"{sort}_p1", f"{sort}_p2") if row[key]]
            assert found == made[row["family"]](*values), row


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("{ family = 'exponential', mean_s = 60 }", Exponential(60.0)),
        ("{ family = 'weibull', shape = 0.5, scale_s = 60 }", Weibull(0.5, 60.0)),
        ("{ family = 'lognormal', median_s = 60, sigma = 1.5 }", LogNormal(60.0, 1.5)),
        ("{ family = 'gamma', shape = 0.5, scale_s = 60 }", Gamma(0.5, 60.0)),
    ],
)
def test_a_scenario_names_any_distribution(table: str, expected: Distribution) -> None:
    churn = churn_of(f"up = {table}\ndown = {{ family = 'exponential', mean_s = 20 }}\n")
    assert churn.up.distribution == expected and churn.down.distribution == Exponential(20.0)
    transitions = [Transition(*each) for each in churn.transitions(200, 2000.0, Random(1))]
    assert transitions == list(sessions(Sessions(expected, Exponential(20.0)), 200, 2000.0, Random(1)))


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("{ family = 'weibul' }", "churn.up.family: 'weibul' is none of exponential, weibull, lognormal, gamma (did"),
        ("{ family = 'weibull', shape = 0.5 }", "churn.up.scale_s: family 'weibull' needs it, and it is missing"),
        (
            "{ family = 'exponential', mean_s = 9, sigma = 1 }",
            "churn.up.sigma: family 'exponential' has no such value; it has: mean_s",
        ),
        ("{ family = 'gamma', shape = 0, scale_s = 9 }", "churn.up.shape: 0 is less than 0.15"),
        ("3", "churn.up: this must be a table"),
    ],
)
def test_a_distribution_that_is_none_is_refused_by_line_and_key(table: str, told: str) -> None:
    with pytest.raises(ScenarioError, match=r"my\.toml, line 4: " + re.escape(told)):
        churn_of(f"up = {table}\ndown = {{ family = 'exponential', mean_s = 20 }}\n")


def churn_of(text: str) -> DrawnLives:
    text = "nodes = 3\n[churn]\nkind = 'sessions'\n" + text
    churn = read_scenario(text, "my.toml", lambda name: None).points[0][1].churn
    assert isinstance(churn, DrawnLives)
    return churn


def up_share(transitions: list[Transition], nodes: int, duration_s: float) -> float:
    since: dict[int, float] = {}
    total = 0.0
    for at, number, up in transitions:
        if up:
            since[number] = at
        else:
            total += at - since.pop(number)
    return (total + sum(duration_s - at for at in since.values())) / nodes / duration_s


@pytest.mark.parametrize("preset", ["skype", "overnet-exponential", "ipfs"])
def test_a_world_begins_in_the_middle_of_its_nodes_lives(preset: str) -> None:
    model = PRESETS[preset]
    for begin_s, end_s in ((0.0, 600.0), (20 * HOUR_S, 22 * HOUR_S)):
        transitions = list(sessions(model, 3000, end_s, Random(4)))
        late = [max(at, begin_s) for at, _, _ in transitions]
        clipped = [Transition(at - begin_s, each.number, each.up) for at, each in zip(late, transitions, strict=True)]
        share = up_share(clipped, 3000, end_s - begin_s)
        assert share == pytest.approx(model.availability, abs=0.05), f"in {begin_s} to {end_s} s"


def test_every_node_comes_and_goes_in_turn_and_in_order_of_time() -> None:
    transitions = list(sessions(PRESETS["overnet"], 50, 30 * HOUR_S, Random(5)))
    assert [at for at, _, _ in transitions] == sorted(at for at, _, _ in transitions)
    states: dict[int, bool] = {}
    for at, number, up in transitions:
        assert 0 <= at <= 30 * HOUR_S
        assert 0 <= number < 50
        assert up is not states.get(number, False), f"node {number} at {at:.0f} s"
        states[number] = up
    assert transitions == list(sessions(PRESETS["overnet"], 50, 30 * HOUR_S, Random(5)))
    assert transitions != list(sessions(PRESETS["overnet"], 50, 30 * HOUR_S, Random(6)))


def test_a_fresh_world_begins_with_nobody() -> None:
    model = Sessions(Exponential(100.0), Exponential(50.0))
    first = next(sessions(model, 20, 1000.0, Random(7), fresh=True))
    assert first.up
    assert first.time_s > 0
    with pytest.raises(ValueError, match="positive factor"):
        model.scaled(0.0)


TRACE = "a/user 1 1402358400000 2 2000 1000 500\n\nuser2 0 1402358400000 -5 0 4000 1000\n"


def test_a_trace_alternates_from_its_first_state(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    for content in (TRACE.encode(), gzip.compress(TRACE.encode())):
        path.write_bytes(content)
        segments = load_trace(str(path))
        assert segments == [Segment(True, (2.0, 3.0, 3.5)), Segment(False, (0.0, 4.0, 5.0))]
    one = list(replay(segments[:1], 1, 3.2, Random(1)))
    assert one == [(0.0, 0, True), (2.0, 0, False), (3.0, 0, True)]
    assert list(replay(segments[:1], 1, 10.0, Random(1), skip_s=2.5)) == [(0.5, 0, True), (1.0, 0, False)]
    assert list(replay(segments[1:], 1, 10.0, Random(1))) == [(0.0, 0, True), (4.0, 0, False), (5.0, 0, True)]
    both = list(replay(segments, 2, 10.0, Random(1)))
    assert len(both) == 7
    assert {number for _, number, _ in both} == {0, 1}
    with pytest.raises(ValueError, match="2 segments, fewer than 3 nodes"):
        next(replay(segments, 3, 1.0, Random(1)))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no line of a trace"),
        ("u 1 0 2\n", "line 1: 4 fields"),
        ("\nu 2 0 2 5\n", "line 2: the first state is 0 or 1, not '2'"),
        ("u 1 0 2 5 x\n", "line 1: 'x' is not a whole number"),
        ("u 1 0 2 5 -5\n", "line 1: a duration is negative"),
    ],
)
def test_a_trace_that_is_none_is_refused_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_trace(str(path))


def test_phones_come_and_go_as_recorded() -> None:
    segments = load_trace(str(evaluation_file("churn/peersim_session_80.txt.gz")))
    assert len(segments) == 4334
    transitions = list(replay(segments, 400, 86_400.0, Random(1)))
    assert [at for at, _, _ in transitions] == sorted(at for at, _, _ in transitions)
    # The preface of the data set: mean availability 0.353.
    assert 0.2 < up_share(transitions, 400, 86_400.0) < 0.5
