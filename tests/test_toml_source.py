"""Where keys stand in a TOML text, which tomllib doesn't say."""

from __future__ import annotations

import pytest

from sims.toml_source import TomlSource, Where

TEXT = '''name = "x"                # 1
[network]
loss = 0.1
network.latency = { kind = "matrix", file = "m.gz" }   # 4, not valid TOML of a scenario, but a place all the same
[network.latency]
kind = "constant"
[[workload]]
kind = "lookups"
description = """
[not.a.table]
count = 3
"""
[[workload]]
kind = "pings"
options = [
  [1, 2],
  "]",
]
rate = 2
[workload.inner]
deep.key = 1
[[workload.list]]
a = 1
[["quoted"]]
'key' = 1
'''


class Refused(Exception):
    """What this test's source raises."""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (("name",), 1),
        (("network",), 2),
        (("network", "loss"), 3),
        (("network", "latency", "kind"), 6),
        (("workload", 0), 7),
        (("workload", 0, "kind"), 8),
        (("workload", 0, "count"), 7),
        (("workload", 1), 13),
        (("workload", 1, "kind"), 14),
        (("workload", 1, "options", 1), 15),
        (("workload", 1, "rate"), 19),
        (("workload", 1, "inner"), 20),
        (("workload", 1, "inner", "deep", "key"), 21),
        (("workload", 1, "list", 0, "a"), 23),
        (("quoted", 0, "key"), 25),
        (("nowhere",), None),
    ],
)
def test_a_key_is_found_or_else_the_table_around_it(where: Where, line: int | None) -> None:
    assert TomlSource(TEXT, "x.toml", Refused).line(where) == line


def test_keys_of_a_table_on_one_line_are_on_that_line() -> None:
    source = TomlSource("a = 1\nlatency = { kind = 'matrix', file.name = 'm' }\n", "x.toml", Refused)
    assert source.line(("latency", "kind")) == 2
    assert source.line(("latency", "file", "name")) == 2


def test_a_refusal_names_file_line_and_key() -> None:
    with pytest.raises(Refused, match=r"^x\.toml, line 3: network\.loss: too much$"):
        TomlSource(TEXT, "x.toml", Refused).refuse(("network", "loss"), "too much")


def test_a_value_from_elsewhere_is_refused_there() -> None:
    source = TomlSource(TEXT, "x.toml", Refused)
    source.comes_from(("network", "loss"), "--set network.loss")
    with pytest.raises(Refused, match=r"^--set network\.loss: network\.loss: too much$"):
        source.refuse(("network", "loss"), "too much")


def test_what_is_no_toml_is_refused_with_its_line() -> None:
    with pytest.raises(Refused, match=r"^x\.toml, line 2: Invalid value: b = = 2$"):
        TomlSource("a = 1\nb = = 2\n", "x.toml", Refused).document()
    with pytest.raises(Refused, match=r"^x\.toml: .*end of document"):
        TomlSource('a = "', "x.toml", Refused).document()
    with pytest.raises(Refused, match=r"^x\.toml: .* too deep"):
        TomlSource(f"a = {'[' * 5000}{']' * 5000}", "x.toml", Refused).document()
