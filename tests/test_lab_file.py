"""The laboratory's TOML file: what it means, and that every mistake is one line that says where and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from sims.lab.cli import EXAMPLES, plan_path
from sims.lab.impairment import Impairment
from sims.lab.plan import Family, Firewall, HostPlan, NatType, SitePlan
from sims.lab.plan_file import LabFileError, parse_plan, read_plan

SERVER = "[host.server]\n"


def error_of(text: str) -> str:
    with pytest.raises(LabFileError) as caught:
        parse_plan(text, "my.toml", "my")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_host_without_a_site_has_one_of_its_own() -> None:
    plan = parse_plan(SERVER + "[host.bob]\nnat = 'port'\ncarrier = 'sym'\nudp_timeout_s = 20\n", "my.toml", "my")
    assert plan.name == "my"
    assert plan.sites == (
        SitePlan("server"),
        SitePlan("bob", NatType.PORT, NatType.SYM, ip=Family.IPV4, udp_timeout_s=20),
    )
    assert plan.hosts == (HostPlan("server", "server"), HostPlan("bob", "bob"))


def test_hosts_share_a_site_and_have_wires_of_their_own() -> None:
    text = """
    subnet = "10.9.0.0/16"
    [site.home]
    nat = "full"
    hairpin = true
    ip = "dual"
    firewall = "no-udp"
    wire = { delay_ms = 8, rate_mbit = 50.5 }
    [host.laptop]
    site = "home"
    wire = {}
    [host.nas]
    site = "home"
    [host.server]
    bootstrap = true
    """
    plan = parse_plan(text, "my.toml", "my")
    home, server = plan.sites
    assert (home.nat, home.hairpin, home.ip, home.firewall) == (NatType.FULL, True, Family.DUAL, Firewall.NO_UDP)
    assert home.wire == Impairment(delay_ms=8, rate_mbit=50.5)
    assert server.wire is None
    assert [(host.name, host.site, host.wire) for host in plan.hosts] == [
        ("laptop", "home", Impairment()),
        ("nas", "home", None),
        ("server", "server", None),
    ]
    assert plan.subnet == "10.9.0.0/16"


def test_the_bootstraps_are_those_marked_or_else_the_first_that_can_be_reached() -> None:
    hosts = "[host.hidden]\nnat = 'sym'\n[host.walled]\nfirewall = 'stateful'\n[host.one]\n[host.two]\n"
    assert parse_plan(hosts, "my.toml", "my").bootstraps == ("one",)
    assert parse_plan(hosts + "bootstrap = true\n", "my.toml", "my").bootstraps == ("two",)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_every_example_can_be_read(file: Path) -> None:
    assert read_plan(file).hosts
    assert plan_path(file.stem) == file


def test_the_grid_has_every_kind_of_nat() -> None:
    sites = read_plan(EXAMPLES / "grid.toml").sites
    assert {site.nat for site in sites} == set(NatType)
    assert {(site.nat, site.carrier) for site in sites if site.carrier} == {
        (NatType.PORT, NatType.PORT),
        (NatType.PORT, NatType.SYM),
    }
    assert any(site.ip is Family.IPV6 for site in sites)
    assert any(site.firewall is Firewall.STATEFUL for site in sites)


@pytest.mark.parametrize(
    "text, message",
    [
        ("subnett = 'x'", "my.toml, line 1: subnett: no such key (did you mean 'subnet'?); there are:"),
        ("[host.a]\nnatt = 'port'", "my.toml, line 2: host.a.natt: no such key (did you mean 'nat'?); there are: nat,"),
        ("[host.a]\nnat = 'prt'", "my.toml, line 2: host.a.nat: 'prt' is none of public, full, addr, port, sym (did"),
        ("[host.a]\nnat = 3", "my.toml, line 2: host.a.nat: 3 is none of"),
        ("[host.a]\nfirewall = 'on'", "host.a.firewall: 'on' is none of open, stateful, no-udp"),
        ("[host.a]\n\n\nwire = { delay = 3 }", "my.toml, line 4: host.a.wire.delay: no such key (did you mean"),
        (
            "[host.a]\n[host.a.wire]\nloss_percent = 'no'",
            "my.toml, line 3: host.a.wire.loss_percent: 'no' is no number",
        ),
        (
            "[host.a]\nwire = { loss_percent = 101 }",
            "line 2: host.a.wire: loss_percent is 101: it must be from 0 to 100",
        ),
        ("[host.a]\nwire = { delay_ms = nan }", "delay_ms is nan"),
        ("[host.a]\nwire = { delay_ms = 1, jitter_ms = 2 }", "jitter_ms is 2, more than delay_ms"),
        ("[host.a]\nwire = 3", "host.a.wire: this must be a table, such as { delay_ms = 10 }"),
        ("[host.a]\nsite = 'hme'\n[site.home]", "my.toml, line 2: host.a.site: there is no site 'hme' (did you mean"),
        ("[host.a]\nsite = 3\n[site.home]", "there is no site 3"),
        ("[site.home]\n[host.a]\nsite = 'home'\nnat = 'sym'", "line 4: host.a.nat: this belongs to the site: move it"),
        ("[site.a]\n[host.a]", "my.toml, line 2: host.a: there is a site of that name, too: add site = 'a'"),
        ("[site.home]\nsite = 'x'\n[host.a]", "site.home.site: a site is in no other"),
        ("[host.a]\ncarrier = 'sym'", "line 2: host.a.carrier: a carrier's NAT is in front of a site's own: set nat"),
        ("[host.a]\nnat = 'sym'\ncarrier = 'public'", "host.a.carrier: a carrier without NAT is none"),
        ("[host.a]\nhairpin = true", "host.a.hairpin: only a NAT can hairpin"),
        ("[host.a]\nhairpin = 1", "host.a.hairpin: 1 is neither true nor false"),
        ("[host.a]\nnat = 'port'\nip = 'ipv6'", "line 3: host.a.ip: the NATs here translate IPv4"),
        ("[host.a]\nudp_timeout_s = 0", "host.a.udp_timeout_s: 0 is no whole number of seconds from 1"),
        ("[host.a]\nnat = 'sym'\nbootstrap = true", "host.a.bootstrap: the others can't reach it"),
        ("[host.a]\nnat = 'sym'", "my.toml: nobody can be the bootstrap: add a host"),
        ("", "my.toml: there is no host: add one, such as [host.alice]"),
        ("host = 3", "my.toml, line 1: host: this must be tables with a name"),
        ("[host.Alice]", "my.toml, line 1: host.Alice: 'Alice' is no name here"),
        ("[host.internet]", "'internet' is no name here"),
        ("subnet = '10.0.0.1/8'\n[host.a]", "subnet: '10.0.0.1/8' is no IPv4 subnet"),
        ("[host.a]\n[host.b", "my.toml: Expected ']'"),
        ("".join(f"[host.h{n}]\n" for n in range(101)), "101 hosts are more than the 100"),
    ],
)
def test_a_mistake_is_one_line_that_says_where_and_what_to_do(text: str, message: str) -> None:
    assert message in error_of(text)


def test_a_file_that_is_not_there_or_no_text_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(LabFileError, match="none.toml: No such file"):
        read_plan(tmp_path / "none.toml")
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(LabFileError, match="no text in UTF-8"):
        read_plan(tmp_path / "noise.toml")
    with pytest.raises(LabFileError, match=r"gird: neither a file nor an example \(did you mean 'grid'\?\)"):
        plan_path("gird")
