"""The NATs of the laboratory and those in memory are the same, type by type and pair by pair, by the same probe."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement

import pytest

from sims.lab.natlab import NatLab
from sims.lab.natprobe import DEPENDENCES, NatBehaviour, Probes
from sims.lab.plan_file import parse_plan
from sims.nat import PRESETS
from tests.test_nat_boxes import Internet

PLANS = {
    "public": 'ip = "ipv4"',
    "full": 'nat = "full"',
    "addr": 'nat = "addr"',
    "port": 'nat = "port"',
    "sym": 'nat = "sym"',
    "cgnat(port,port)": 'nat = "port"\ncarrier = "port"',
    "cgnat(port,sym)": 'nat = "port"\ncarrier = "sym"',
    "ipv6-only": 'ip = "ipv6"',
    "dual-stack": "",
    "port-dual-stack": 'nat = "port"\nip = "dual"',
    "firewalled": 'firewall = "stateful"\nip = "ipv4"',
    "udp-blocked": 'nat = "port"\nfirewall = "no-udp"',
}
NUMBERS = {preset: number for number, preset in enumerate(PLANS)}


def name(preset: str, copy: int) -> str:
    """Of a host behind that type: names in a plan are simpler than those of presets."""
    return f"host{NUMBERS[preset]}-{copy}"


@pytest.fixture(scope="module")
def probes(able: None) -> Iterator[Probes]:
    hosts = [(name(preset, copy), plan) for preset, plan in PLANS.items() for copy in (1, 2)]
    text = "".join(f"[host.{host}]\n{plan}\n" for host, plan in hosts)
    with NatLab(parse_plan(text, "this test", "both worlds")) as lab, Probes(lab) as made:
        yield made


def in_memory(preset: str) -> NatBehaviour | None:
    internet = Internet()
    host = internet.behind(preset)
    verdict = internet.classify(host, internet.beside(host))
    if verdict.outer is None:
        return None
    return NatBehaviour(
        DEPENDENCES[verdict.mapping.value],
        DEPENDENCES[verdict.filtering.value],
        verdict.translated,
        verdict.preserves_port,
        bool(verdict.hairpins),
    )


def test_every_type_is_built_in_both_worlds() -> None:
    assert set(PLANS) == set(PRESETS)


def test_every_type_is_classified_alike_in_both_worlds(probes: Probes) -> None:
    found = probes.classify([probes.lab.host(name(preset, 1)) for preset in PLANS])
    assert {preset: found[name(preset, 1)] for preset in PLANS} == {preset: in_memory(preset) for preset in PLANS}


def test_every_pair_of_types_punches_alike_in_both_worlds(probes: Probes) -> None:
    pairs = list(combinations_with_replacement(PLANS, 2))
    real = probes.punch([(name(one, 1), name(other, 2)) for one, other in pairs])
    expected = {}
    for one, other in pairs:
        internet = Internet()
        expected[one, other] = internet.punches(internet.behind(one), internet.behind(other))
    assert dict(zip(pairs, real.values(), strict=True)) == expected
