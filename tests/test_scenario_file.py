"""The scenario file: what it means, and that every mistake is one line that says where and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sims.runner import finder, read_file, shipped_scenarios
from sims.scenario.arrivals import OneByOne, Poisson
from sims.scenario.catalogue import SHIPPED
from sims.scenario.faults import Crash
from sims.scenario.keys import listing
from sims.scenario.links import ConstantLink, MatrixLink
from sims.scenario.options import options_of
from sims.scenario.plan import Plan, ScenarioError, Wanted, read_scenario, seeds_of
from sims.scenario.workloads import Lookups, Pings

BASE = "nodes = 5\n"
AS_IT_IS = Wanted()


def read(text: str, wanted: Wanted = AS_IT_IS) -> Plan:
    return read_scenario(text, "my.toml", {"here.txt": "/data/here.txt"}.get, wanted)


def error_of(text: str, wanted: Wanted = AS_IT_IS) -> str:
    with pytest.raises(ScenarioError) as caught:
        read(text, wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_least_scenario_has_defaults_for_everything_else() -> None:
    plan = read(BASE)
    ((settings, scenario),) = plan.points
    assert (plan.name, plan.seeds, settings) == ("my", (1,), {})
    assert (scenario.link, scenario.arrival) == (ConstantLink(), OneByOne())
    assert scenario.churn is None and scenario.attack is None and scenario.routing is None


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a/b/my.toml", "my"),
        ("My Exp.v2.toml", "my-exp-v2"),
        ("größe.toml", "gr-e"),
        ("__.toml", "scenario"),
        ("x" * 99, "x" * 61),
    ],
)
def test_results_are_called_after_the_file(file: str, name: str) -> None:
    assert read_scenario(BASE, file, lambda name: None).name == name


def test_every_part_is_read_into_its_options() -> None:
    plan = read(
        """
        name = "whole"
        nodes = 10
        seeds = "3-4,9"
        [network]
        loss = 0.01
        jitter_ms = 5
        [network.latency]
        kind = "matrix"
        file = "here.txt"
        [nat]
        sym = 0.2
        [arrival]
        kind = "poisson"
        rate_per_s = 4
        [[workload]]
        kind = "lookups"
        at_s = 5
        count = 7
        [[fault]]
        name = "half"
        kind = "crash"
        fraction = 0.5
        [[probe]]
        kind = "ring"
        every_s = 2.5
        """
    )
    assert (plan.name, plan.seeds, plan.files) == ("whole", (3, 4, 9), {"here.txt": "/data/here.txt"})
    scenario = plan.points[0][1]
    assert isinstance(scenario.link, MatrixLink) and scenario.link.file == "/data/here.txt"
    assert scenario.nat == (("sym", 0.2),)
    assert scenario.arrival == Poisson(rate_per_s=4.0)
    assert [(each.name, each.time_s, each.part) for each in (*scenario.workloads, *scenario.faults)] == [
        ("lookups", 5.0, Lookups(count=7)),
        ("half", 0.0, Crash(fraction=0.5)),
    ]
    assert scenario.probes[0].time_s == 2.5


def test_a_sweep_is_every_combination() -> None:
    plan = read(BASE + "[[workload]]\nkind='lookups'\n[sweep]\nnodes = [5, 6]\nworkload.lookups.count = [1, 2]\n")
    assert [settings for settings, _ in plan.points] == [
        {"nodes": nodes, "workload.lookups.count": count} for nodes in (5, 6) for count in (1, 2)
    ]
    assert [(each.general.nodes, each.workloads[0].part.count) for _, each in plan.points] == [
        (5, 1),
        (5, 2),
        (6, 1),
        (6, 2),
    ]


def test_the_small_values_replace_the_others_and_the_command_line_replaces_both() -> None:
    text = (
        BASE
        + "seeds = 10\n[[workload]]\nkind = 'lookups'\n[sweep]\nnodes = [50, 60]\nnetwork.loss = [0.1, 0.2]\n"
        + "[small]\nseeds = '1-2'\nworkload.lookups.count = 3\nsweep.nodes = [2, 3]\n"
    )
    full, small = read(text), read(text, Wanted(small=True))
    assert len(full.seeds) == 10 and full.points[0][1].general.nodes == 50
    assert small.seeds == (1, 2) and small.points[0][1].workloads[0].part.count == 3
    assert [settings["nodes"] for settings, _ in small.points] == [2, 2, 3, 3]
    mine = read(text, Wanted(True, (7,), {"nodes": 4, "workload.lookups.count": 9}))
    assert mine.seeds == (7,)
    assert [(settings, each.general.nodes) for settings, each in mine.points] == [
        ({"nodes": 4, "network.loss": 0.1}, 4),
        ({"nodes": 4, "network.loss": 0.2}, 4),
    ]
    assert mine.points[0][1].workloads[0].part.count == 9


MISTAKES = [
    ("nodes = 5\nnods = 6\n", "my.toml, line 2: nods: no such key (did you mean 'nodes'?)"),
    ("name = 'x'\n", "my.toml: nodes: this is missing: how many nodes there are, up or not"),
    ("nodes = 0\n", "my.toml, line 1: nodes: 0 is less than 1"),
    ("nodes = 2.5\n", "my.toml, line 1: nodes: 2.5 is not a whole number (at least 1, at most 1,000,000)"),
    ("nodes = true\n", "my.toml, line 1: nodes: true is not a whole number"),
    (BASE + "duration_s = -1\n", "my.toml, line 2: duration_s: -1 is less than 0"),
    (BASE + "duration_s = inf\n", "my.toml, line 2: duration_s: inf is not a finite number"),
    (BASE + "seeds = 'many'\n", "my.toml, line 2: seeds: 'many' are no seeds: write 10, or '1-10', or '1-4,9'"),
    (BASE + "seeds = 0\n", "my.toml, line 2: seeds: 0 are no seeds"),
    (BASE + "name = 'a/b'\n", "my.toml, line 2: name: 'a/b' can't name results: use a-z, 0-9, - and _"),
    (BASE + "network = 3\n", "my.toml, line 2: network: this must be a table, such as [network]"),
    (BASE + "[network]\nlos = 1\n", "my.toml, line 3: network.los: no such key (did you mean 'loss'?)"),
    (BASE + "[network]\nloss = 2\n", "my.toml, line 3: network.loss: 2 is more than 1"),
    (
        BASE + "[network.latency]\nkind = 'matrx'\n",
        "my.toml, line 3: network.latency.kind: 'matrx' is none of constant, matrix, coordinates",
    ),
    (BASE + "[network.latency]\nkind = 'matrix'\n", "my.toml, line 2: network.latency.file: this is missing"),
    (
        BASE + "[network.latency]\nkind = 'matrix'\nfile = 'gone.txt'\n",
        "my.toml, line 4: network.latency.file: there is no file 'gone.txt' beside the scenario, nor in the"
        " directory that P2PVPN_DATA names",
    ),
    (BASE + "[nat]\nsymm = 0.1\n", "my.toml, line 3: nat.symm: no such key (did you mean 'sym'?)"),
    (BASE + "[nat]\nsym = 0.6\nport = 0.6\n", "my.toml, line 2: nat: the shares add up to 1.2, more than 1"),
    (BASE + "workload = 1\n", "my.toml, line 2: workload: these must be tables in an array: write [[workload]]"),
    (BASE + "[[workload]]\ncount = 1\n", "my.toml, line 2: workload.0.kind: this is missing: one of lookups, "),
    (BASE + "[[workload]]\nkind = 'lookup'\n", "'lookup' is none of lookups, "),
    (
        BASE + "[[probe]]\nkind = 'ring'\n[[probe]]\nkind = 'traffic'\nevery = 1\n",
        "my.toml, line 6: probe.1.every: no such key (did you mean 'every_s'?); there are: name, every_s, kind",
    ),
    (BASE + "[[fault]]\nkind = 'crash'\nat_s = 'soon'\n", "my.toml, line 4: fault.0.at_s: 'soon' is not a number of"),
    (
        BASE + "[[probe]]\nkind = 'ring'\n[[probe]]\nkind = 'ring'\n",
        "my.toml, line 4: probe.1: there is another probe 'ring': give this one a `name` of its own",
    ),
    (BASE + "[attack]\nfraction = 0.1\n", "my.toml, line 2: attack.kind: this is missing"),
    (BASE + "[churn]\nkind = 'exponential'\nreboot = 'no'\n", "my.toml, line 4: churn.reboot: 'no' is none of crash"),
    (BASE + "[sweep]\nnodes = 3\n", "my.toml, line 3: sweep.nodes: this must be an array of the values to run with"),
    (BASE + "[sweep]\nnodes = [3, 0]\n", "my.toml, line 3: nodes: 0 is less than 1"),
    (
        BASE + "[sweep]\nworkload.lookup.count = [3]\n",
        "my.toml, line 3: workload.lookup.count: there is no workload 'lookup'; there are: none",
    ),
    (
        BASE + "[[workload]]\nkind='lookups'\n[sweep]\nworkload.lookup.count = [3]\n",
        "my.toml, line 5: workload.lookup.count: there is no workload 'lookup' (did you mean 'lookups'?)",
    ),
    (
        BASE + "[[measure]]\nname = 'm'\nrows = 'x'\nreduce = 'averge'\n",
        "my.toml, line 5: measure.0.reduce: 'averge' is none of mean, median,",
    ),
    (
        BASE + "[[measure]]\nname = 'm'\nrows = 'x'\n",
        "my.toml, line 2: measure.0.value: this is missing: what is to be",
    ),
    (
        BASE + "[[plot]]\nname = 'p'\nrows = 'x'\ny = 'v'\n",
        "my.toml, line 2: plot.0.x: this is missing: a line needs it",
    ),
    (
        BASE + "[[plot]]\nname = 'p'\nkind = 'table'\nmeasures = ['m']\n",
        "my.toml, line 5: plot.0.measures: there is no measure 'm'",
    ),
    (
        BASE + "[[workload]]\nkind = 'no.such.module:Thing'\n",
        "my.toml, line 3: workload.0.kind: 'no.such.module:Thing' can't be imported: No module named 'no'",
    ),
    (
        BASE + "[[workload]]\nkind = 'sims.scenario.faults:Crash'\n",
        "my.toml, line 3: workload.0.kind: 'sims.scenario.faults:Crash' is no dataclass with a method 'start'",
    ),
    (
        BASE + "[[workload]]\nkind = 'lookups'\n[[measure]]\nname = 'm'\nrows = 'lokup'\nreduce = 'count'\n",
        "my.toml, line 6: measure.0.rows: nothing in this scenario records rows of kind 'lokup' (did you mean",
    ),
    (
        BASE + "[[workload]]\nkind = 'lookups'\n[[measure]]\nname = 'm'\nrows = 'lookup'\nvalue = 'hpos'\n",
        "my.toml, line 7: measure.0.value: no row of kind 'lookup' has 'hpos' (did you mean 'hops'?); there are: ok, ",
    ),
    (
        BASE + "[[probe]]\nkind = 'ring'\n[[plot]]\nname = 'p'\nrows = 'ring'\nx = 't_s'\ny = 'whole'\nby = 'loss'\n",
        "my.toml, line 9: plot.0.by: no row of kind 'ring' has 'loss'",
    ),
    (
        BASE + "[[measure]]\nname = 'm'\nrows = 'x'\nreduce = 'count'\n",
        "my.toml, line 4: measure.0.rows: nothing in this scenario records rows of kind 'x'; there are none",
    ),
    (
        BASE + "[arrival]\nkind = 'constructed'\nstart = 6\n",
        "my.toml, line 4: arrival.start: 6 can't start, for `nodes` is 5",
    ),
    (BASE + "[stack]\nrouting = 'x'\n", "my.toml, line 3: stack.routing: 'x' can't be imported"),
]


@pytest.mark.parametrize(("text", "told"), MISTAKES, ids=[told[:60] for _, told in MISTAKES])
def test_a_mistake_is_one_line_that_names_line_and_key(text: str, told: str) -> None:
    assert told in error_of(text)


LATE = "nodes = 5\nduration_s = 2\ndrain_s = 1\n"
MORE_MISTAKES = [
    (BASE + f"duration_s = {'9' * 400}\n", "my.toml, line 2: duration_s: 99999999999999999999 is not a finite number"),
    (BASE + "duration_s = 1e300\n", "my.toml, line 2: duration_s: 1e+300 is more than 315,576,000"),
    (BASE + "[network]\njitter_ms = 1e9\n", "my.toml, line 3: network.jitter_ms: 1,000,000,000 is more than 600,000"),
    (
        BASE + "[[network.access]]\nshare = 0.6\n[[network.access]]\nshare = 0.6\n",
        "my.toml, line 2: network.access: the shares add up to 1.2, more than 1",
    ),
    (BASE + "[[network.access]]\nshare = 1\n[[network.access]]\n", "my.toml, line 4: network.access.1.share: this is"),
    (BASE + "[[network.access]]\nshare = 1\nlos = 1\n", "my.toml, line 4: network.access.0.los: no such key (did you"),
    (
        BASE + "[[network.access]]\nname = 'dsl'\nshare = 1\n[sweep]\nnetwork.access.dls.loss = [0.1]\n",
        "my.toml, line 6: network.access.dls.loss: there is no access 'dls' (did you mean 'dsl'?)",
    ),
    (
        BASE + "[[workload]]\nkind = 'pings'\n[[plot]]\nname = 'p'\nrows = 'ping'\nx = 'path'\ny = 'ok'\n"
        "log_x = true\n",
        "my.toml, line 7: plot.0.x: 'path' is a text: a logarithmic axis and published figures need numbers",
    ),
    (
        BASE + "[[workload]]\nkind = 'pings'\n[sweep]\narrival.kind = ['poisson', 'together']\n[[plot]]\nname = 'p'\n"
        "rows = 'ping'\nx = 'arrival.kind'\ny = 'ok'\nlog_x = true\n",
        "my.toml, line 9: plot.0.x: 'arrival.kind' is a text: a logarithmic axis",
    ),
    (BASE + "[small]\nnods = 1\n", "my.toml, line 3: nods: no such key (did you mean 'nodes'?)"),
    (BASE + "[full]\nnodes = -1\n", "my.toml, line 3: nodes: -1 is less than 1"),
    (BASE + "[full]\nsweep.'network.los' = [1]\n", "my.toml, line 3: network.los: no such key"),
    (BASE + "[small]\nsweep = 3\n", "my.toml, line 3: sweep: this can't be set: write sweep.KEY=[value, ...]"),
    (BASE + "[sweep]\nseeds = [1, 2]\n", "my.toml, line 3: sweep.seeds: 'seeds' is the same for all points"),
    (BASE + "[sweep]\n'measure.m' = [1]\n", "my.toml, line 3: sweep.measure.m: 'measure.m' is the same for all"),
    (BASE + "[sweep]\nname = ['a', 'b']\n", "my.toml, line 3: sweep.name: 'name' is the same for all points"),
    (BASE + "[sweep]\nnodes = [3, 4, 3]\n", "my.toml, line 3: sweep.nodes: 3 is there twice"),
    (BASE + "[sweep]\n'network..loss' = [1]\n", "my.toml, line 3: network.: no such key"),
    (BASE + "[sweep]\nattack.fraction = [0.1]\n", "my.toml, line 3: attack.kind: this is missing"),
    (BASE + "[attack]\nkind = 'drop'\n", "my.toml, line 2: attack.fraction: this is missing: which share of the"),
    (BASE + "[stack]\nrouting = 'os:sep'\n", "my.toml, line 3: stack.routing: 'os:sep' is no function that gives"),
    (BASE + "[stack]\nrouting = '.x:y'\n", "my.toml, line 3: stack.routing: '.x:y' can't be imported: write 'pack"),
    (
        LATE + "[[workload]]\nkind = 'lookups'\nat_s = 3\n",
        "my.toml, line 6: workload.0.at_s: measuring is over by then: `duration_s` is 2",
    ),
    (
        LATE + "[[workload]]\nkind = 'lookups'\ncount = 1000\nrate_per_s = 100\n",
        "my.toml, line 4: workload.0: it would not be over before 9.99 s, but the run is: `duration_s` is 2",
    ),
    (LATE + "[[fault]]\nkind = 'crash'\nat_s = 3\n", "my.toml, line 6: fault.0.at_s: measuring is over by then"),
    (LATE + "[[probe]]\nkind = 'ring'\nevery_s = 3\n", "my.toml, line 6: probe.0.every_s: nothing would be observed"),
    (BASE + "[[probe]]\nkind = 'replicas'\nof = 'r'\n", "my.toml, line 4: probe.0.of: no workload of kind 'records'"),
    (
        BASE + "[[probe]]\nkind = 'counters'\n[[measure]]\nname = 'm'\nrows = 'counter'\nvalue = 'name'\n",
        "my.toml, line 7: measure.0.value: 'name' of rows of kind 'counter' is a text, which can be counted only",
    ),
    (
        BASE + "[arrival]\nkind = 'well-known'\nstart = 3\n[churn]\nkind = 'exponential'\n",
        "my.toml, line 4: arrival.start: how many are up at first, the churn says",
    ),
    (
        BASE + "[arrival]\nkind = 'constructed'\n[churn]\nkind = 'fitted'\npreset = 'skype'\n",
        "my.toml, line 5: churn.kind: a constructed ring can't be had with this",
    ),
]


@pytest.mark.parametrize(("text", "told"), MORE_MISTAKES, ids=[told[:60] for _, told in MORE_MISTAKES])
def test_what_would_come_to_nothing_is_told_before_anything_runs(text: str, told: str) -> None:
    assert told in error_of(text)


def test_files_that_another_size_names_are_not_needed_now() -> None:
    text = BASE + "[network.latency]\nkind = 'constant'\n[full]\nnetwork.latency.kind = 'file'\n"
    text += "network.latency.file = 'gone.txt'\n"
    with pytest.raises(ScenarioError, match="there is no file 'gone.txt'"):
        read(text, Wanted(full=True))
    assert not read(text).files


def test_a_module_of_ones_own_that_does_not_import_is_told_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_raises.py").write_text("\nraise RuntimeError('one\\ntwo')\n")
    (tmp_path / "own_garbled.py").write_text("class X(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = BASE + "[[workload]]\nkind = '{}:X'\n"
    told = error_of(text.format("own_raises"))
    assert told.startswith(
        "my.toml, line 3: workload.0.kind: 'own_raises:X' can't be imported: RuntimeError: one two ("
    )
    assert told.endswith("own_raises.py, line 2)")
    assert "can't be imported: invalid syntax (own_garbled.py, line 1)" in error_of(text.format("own_garbled"))


def test_a_mark_at_the_beginning_and_names_too_long_for_a_file_are_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "marked.toml"
    path.write_bytes(b"\xef\xbb\xbfnodes = 5\r\n")
    assert read_file(path, AS_IT_IS).plan.points[0][1].general.nodes == 5
    assert finder(tmp_path)("x" * 5000) is None and finder(tmp_path)("a\0b") is None


def test_a_mistake_on_the_command_line_is_found_there() -> None:
    assert error_of(BASE, Wanted(settings={"nodes": -3})) == "--set nodes: nodes: -3 is less than 1"
    assert "no such key" in error_of(BASE, Wanted(settings={"network.los": 1}))
    assert error_of(BASE + "[small]\nnodes = -1\n", Wanted(small=True)) == "my.toml, line 3: nodes: -1 is less than 1"


def test_one_value_of_what_is_swept_leaves_plots_and_tables_what_they_go_by() -> None:
    text = (
        BASE
        + "[[workload]]\nkind = 'lookups'\n[sweep]\nnetwork.loss = [0.1, 0.2]\n"
        + "[[measure]]\nname = 'm'\nrows = 'lookup'\nreduce = 'count'\n"
        + "[[plot]]\nname = 't'\nkind = 'table'\nx = 'network.loss'\nmeasures = ['m']\n"
    )
    ((settings, scenario),) = read(text, Wanted(settings={"network.loss": 0.3})).points
    assert settings == {"network.loss": 0.3} and scenario.network.loss == 0.3


def test_the_published_size_is_a_table_of_its_own() -> None:
    text = BASE + "[small]\nnodes = 3\n[full]\nnodes = 900\n"
    full = read(text, Wanted(full=True))
    assert (full.points[0][1].general.nodes, full.full, read(text).points[0][1].general.nodes) == (900, True, 5)
    assert error_of(BASE, Wanted(full=True)) == "my.toml: there is no table [full]: run it without --full"
    assert error_of(BASE, Wanted(small=True)) == "my.toml: there is no table [small]: run it without --small"


def test_the_command_line_replaces_a_sweep_by_another() -> None:
    text = BASE + "[sweep]\nnodes = [3, 4]\n"
    assert [settings for settings, _ in read(text, Wanted(settings={"sweep.nodes": [5, 6]})).points] == [
        {"nodes": 5},
        {"nodes": 6},
    ]
    added = read(text, Wanted(settings={"sweep.network.loss": [0.0, 0.1]}))
    assert len(added.points) == 4 and added.points[3][1].network.loss == 0.1
    told = error_of(text, Wanted(settings={"sweep.nodes": 5}))
    assert told.startswith("--set sweep.nodes: ") and "array" in told
    told = error_of(text, Wanted(settings={"sweep.nodes": [0]}))
    assert told == "--set sweep.nodes: nodes: 0 is less than 1"


@pytest.mark.parametrize(
    "besides",
    [
        '[stack]\nkind = "vpn"\n',
        "[nat]\nsym = 0.5\n",
        "[network]\nbroken_links = 0.1\n",
        '[attack]\nkind = "drop"\nfraction = 0.1\n',
    ],
)
def test_a_ring_that_nobody_joined_refuses_what_it_cannot_have(besides: str) -> None:
    told = error_of(BASE + '[arrival]\nkind = "constructed"\n' + besides)
    assert re.match(r"my.toml, line \d: ", told) and "choose another [arrival]" in told


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-3", "1-99999999", "1,1", "1-3,2"])
def test_what_are_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(f"'{text}")):
        seeds_of(text)


def test_a_part_of_ones_own_is_named_by_its_module() -> None:
    text = BASE + "[[workload]]\nname = 'mine'\nkind = 'sims.scenario.workloads:Pings'\ncount = 3\n"
    (workload,) = read(text).points[0][1].workloads
    assert (workload.name, workload.part) == ("mine", Pings(count=3))
    assert "workload.0.cont: no such key (did you mean 'count'?)" in error_of(text.replace("count", "cont"))


@pytest.mark.parametrize("path", shipped_scenarios(), ids=lambda path: path.stem)
def test_the_shipped_scenarios_are_right_or_say_which_file_they_miss(path: Path) -> None:
    for wanted in (Wanted(), Wanted(small=True), Wanted(full=True)):
        try:
            plan = read_file(path, wanted).plan
        except ScenarioError as error:
            assert "there is no file" in str(error)
            continue
        assert plan.description and plan.plots and plan.name == path.stem
    assert finder(path.parent)(path.name) == str(path)


def test_every_kind_explains_itself_and_its_options() -> None:
    told = listing()
    for kinds in (SHIPPED.workloads, SHIPPED.probes, SHIPPED.faults, SHIPPED.arrivals, SHIPPED.churns, SHIPPED.links):
        for kind, part in kinds.items():
            assert f"kind = '{kind}'" in told
            assert (part.__doc__ or "").strip() and not (part.__doc__ or "").startswith(part.__name__ + "(")
            for view in options_of(part):
                assert view.meaning, f"{kind}.{view.key} says nothing"
