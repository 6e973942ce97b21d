"""A port opened at a real router (miniupnpd): outsiders get in, also after the router restarted, until the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sims.lab.lab import wait_until
from sims.lab.namespace import missing_tools
from tests.e2e.home import LIMIT_S, PORT, ROUTER_WAN, Home

EXTERNAL = f"{ROUTER_WAN}:{PORT}"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    if missing := missing_tools(["miniupnpd", "nft", "ss"]):
        pytest.skip(f"these commands are missing: {' '.join(missing)}")
    with Home(tmp_path) as made:
        yield made
        print(made.log()[-6000:])  # shown when the test fails


def opened_again(home: Home) -> bool:
    """the router leads the port to the host again"""
    return bool(home.opened()) and home.reaches(PORT)


@pytest.mark.parametrize("method", ["PCP", "NAT-PMP", "UPnP"])
def test_the_outside_gets_in_by_each_protocol_also_after_a_restart_and_not_after_the_end(
    home: Home, method: str
) -> None:
    upnp = method == "UPnP"
    home.open_ports(upnp=upnp, pcp=not upnp)
    assert not home.reaches(PORT)
    # Refreshed so seldom that only the router's own announcement can tell; one that speaks UPnP alone makes none.
    host = home.start(method, refresh_s=2.0 if upnp else 100_000.0)
    assert host.line() == f"mapped {method} {EXTERNAL}"
    assert home.reaches(PORT)
    home.restart(upnp=upnp, pcp=not upnp)
    wait_until(lambda: opened_again(home), LIMIT_S)
    assert host.stop()[-1] == "stopped"
    wait_until(lambda: not home.opened(), LIMIT_S)
    assert not home.reaches(PORT)


def test_of_all_protocols_the_best_that_the_router_speaks_is_taken(home: Home) -> None:
    home.open_ports(upnp=True, pcp=True)
    host = home.start("PCP", "NAT-PMP", "UPnP")
    assert host.line() == f"mapped PCP {EXTERNAL}"
    host.stop()
    home.restart(upnp=True, pcp=False)
    host = home.start("PCP", "NAT-PMP", "UPnP")
    assert host.line() == f"mapped UPnP {EXTERNAL}"
    host.stop()


def test_a_crashed_host_gets_its_own_mapping_back(home: Home) -> None:
    """PCP refuses everybody who doesn't know the nonce of a mapping that is there."""
    home.open_ports(upnp=False, pcp=True)
    host = home.start("PCP")
    assert host.line() == f"mapped PCP {EXTERNAL}"
    host.process.kill()
    host.process.wait()
    assert home.opened()
    assert home.start("PCP").line() == f"mapped PCP {EXTERNAL}"


def test_a_host_that_moves_has_its_port_mapped_to_where_it_is(home: Home) -> None:
    home.open_ports(upnp=False, pcp=True)
    host = home.start("PCP")
    assert host.line() == f"mapped PCP {EXTERNAL}"
    home.host.ip(
        "addr flush dev eth0",
        "addr add 192.168.7.99/24 dev eth0",
        "route add default via 192.168.7.1 dev eth0",
    )
    assert host.line().startswith("unmapped")
    assert host.line().startswith(f"mapped PCP {ROUTER_WAN}:")
    assert "192.168.7.99" in home.opened()


def test_a_router_that_opens_nothing_costs_no_more_than_a_reason(home: Home) -> None:
    host = home.start("PCP", "NAT-PMP", "UPnP")

    def given_up() -> bool:
        """all three methods have failed"""
        return "State.WAITING" in home.log()

    wait_until(given_up, LIMIT_S)
    assert "UPnP: the gateway does not answer" in home.log()
    home.open_ports(upnp=False, pcp=True)  # and announces it
    assert host.line() == f"mapped PCP {EXTERNAL}"
