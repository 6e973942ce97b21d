"""The laboratory's NATs are what they say, its wires do what they are told, and its command leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sims.lab.impairment import Impairment
from sims.lab.lab import FOLDER_PREFIX, sweep, wait_until
from sims.lab.namespace import LabError, end
from sims.lab.natlab import NatLab
from sims.lab.natprobe import Dependence, NatBehaviour, Probes
from sims.lab.plan_file import parse_plan
from tests.e2e.test_lab import alive

GROUND = """
[host.public]
[host.far]
wire = {}
[host.full]
nat = "full"
[host.addr]
nat = "addr"
[host.addr2]
nat = "addr"
[host.port]
nat = "port"
[host.sym]
nat = "sym"
[host.sym2]
nat = "sym"
[host.cgnat-port]
nat = "port"
carrier = "port"
[host.cgnat-sym]
nat = "port"
carrier = "sym"
[host.six]
ip = "ipv6"
[host.walled]
firewall = "stateful"
[host.mute]
nat = "port"
firewall = "no-udp"
[site.home]
nat = "port"
ip = "dual"
hairpin = true
udp_timeout_s = 17
udp_stream_timeout_s = 71
[host.laptop]
site = "home"
[host.nas]
site = "home"
"""
COMMAND = Path(sys.executable).with_name("p2pvpn-lab")
ROOT = Path(__file__).parents[2]
UP_LIMIT_S = 90.0

FREE = Dependence.ENDPOINT_INDEPENDENT
BY_ADDRESS = Dependence.ADDRESS_DEPENDENT
BY_PORT = Dependence.ADDRESS_AND_PORT_DEPENDENT


@pytest.fixture(scope="module")
def ground() -> Iterator[NatLab]:
    with NatLab(parse_plan(GROUND, "this test", "ground")) as lab:
        yield lab


@pytest.fixture(scope="module")
def probes(ground: NatLab) -> Iterator[Probes]:
    with Probes(ground) as made:
        yield made


def ping(lab: NatLab, source: str, address: str, *options: str) -> str:
    """What ping prints."""
    return lab.host(source).namespace.run("ping", "-n", *(options or ("-c1", "-W1")), address).stdout


def hears(lab: NatLab, source: str, address: str) -> bool:
    """Whether an answer comes. Asked twice: the first may go astray while addresses are being resolved."""
    return any(" 0% packet loss" in ping(lab, source, address) for _ in range(2))


def requests_seen(lab: NatLab, name: str) -> int:
    """How many pings have arrived at a host."""
    lines = lab.host(name).namespace.run("cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Icmp:"))
    return int(dict(zip(names, values, strict=True))["InEchos"])


# --- the NATs


def test_every_nat_maps_and_filters_as_its_type_says(ground: NatLab, probes: Probes) -> None:
    # Not nas: two that use the same port behind one NAT would be in each other's way.
    found = probes.classify([host for host in ground.hosts if host.name != "nas"])
    expected = {
        "public": NatBehaviour(FREE, FREE, translated=False, keeps_port=True, hairpins=True),
        "full": NatBehaviour(FREE, FREE, translated=True, keeps_port=True, hairpins=False),
        "addr": NatBehaviour(FREE, BY_ADDRESS, translated=True, keeps_port=True, hairpins=False),
        "port": NatBehaviour(FREE, BY_PORT, translated=True, keeps_port=True, hairpins=False),
        "cgnat-port": NatBehaviour(FREE, BY_PORT, translated=True, keeps_port=True, hairpins=False),
        "six": NatBehaviour(FREE, FREE, translated=False, keeps_port=True, hairpins=True),
        "walled": NatBehaviour(FREE, BY_PORT, translated=False, keeps_port=True, hairpins=True),
        "laptop": NatBehaviour(FREE, BY_PORT, translated=True, keeps_port=True, hairpins=True),
        "mute": None,
    }
    assert {name: found[name] for name in expected} == expected
    for name in ("sym", "cgnat-sym"):
        nat = found[name]
        assert nat is not None
        assert (nat.mapping, nat.filtering, nat.translated, nat.hairpins) == (BY_PORT, BY_PORT, True, False), name


def test_holes_can_be_punched_between_the_pairs_where_theory_says_so(probes: Probes) -> None:
    expected = {
        ("full", "addr"): True,
        ("full", "sym"): True,
        ("addr", "addr2"): True,
        ("addr", "sym"): True,
        ("port", "addr"): True,
        ("port", "laptop"): True,
        ("port", "cgnat-port"): True,
        ("port", "walled"): True,
        ("addr", "cgnat-sym"): True,
        ("walled", "six"): True,
        ("laptop", "nas"): True,  # Through the hairpin.
        ("port", "sym"): False,
        ("sym", "sym2"): False,
        ("port", "cgnat-sym"): False,
        ("port", "six"): False,
        ("public", "mute"): False,
    }
    assert probes.punch(list(expected)) == expected


def test_a_nat_that_was_rebound_is_of_the_same_type_with_other_ports(ground: NatLab, probes: Probes) -> None:
    names = ("full", "addr", "port")
    for name in names:
        ground.rebind(name)
    found = probes.classify([ground.host(name) for name in names])
    for name, filtering in zip(names, (FREE, BY_ADDRESS, BY_PORT), strict=True):
        assert found[name] == NatBehaviour(FREE, filtering, translated=True, keeps_port=False, hairpins=False), name
    with pytest.raises(LabError, match="behind no NAT"):
        ground.rebind("public")


def test_a_nat_keeps_the_timers_of_its_plan(ground: NatLab) -> None:
    folder = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
    printed = ground.site("home").routers[0].namespace.run("cat", folder, folder + "_stream").stdout
    assert printed.split() == ["17", "71"]


def test_ipv6_passes_a_home_router_outwards_only(ground: NatLab) -> None:
    laptop, six = ground.host("laptop"), ground.host("six")
    assert laptop.underlay6
    assert not six.underlay4
    assert hears(ground, "laptop", six.underlay6)
    # ICMP may come in; TCP must not. A refusal by the host itself would come at once, and say so.
    connect = f"import socket; socket.create_connection(({laptop.underlay6!r}, 9), 1)"
    assert "timed out" in six.namespace.run(sys.executable, "-c", connect).stderr


# --- what happens at run time


def test_a_host_without_udp_has_it_back_when_unblocked(ground: NatLab, probes: Probes) -> None:
    pair = ("public", "sym")
    ground.block_udp("sym")
    try:
        assert probes.punch([pair]) == {pair: False}
        assert hears(ground, "sym", ground.host("public").underlay4), "nothing else is blocked"
    finally:
        ground.unblock_udp("sym")
    assert probes.punch([pair]) == {pair: True}


def test_a_cut_is_between_those_two_only_and_can_be_mended(ground: NatLab) -> None:
    far, laptop = ground.host("far"), ground.host("laptop")
    ground.cut("public", "far")
    assert not hears(ground, "public", far.underlay4)
    assert hears(ground, "port", far.underlay4)
    ground.mend("public", "far")
    assert hears(ground, "public", far.underlay4)
    ground.cut("nas", "laptop")
    assert not hears(ground, "nas", laptop.underlay4)
    assert hears(ground, "nas", far.underlay4)
    ground.mend("nas", "laptop")
    assert hears(ground, "nas", laptop.underlay4)
    ground.cut("home")
    assert not hears(ground, "nas", far.underlay4)
    assert hears(ground, "nas", laptop.underlay4)
    ground.mend("home")
    assert hears(ground, "nas", far.underlay4)


def test_a_cut_one_way_lets_the_other_way_through(ground: NatLab) -> None:
    far, public = ground.host("far"), ground.host("public")
    assert hears(ground, "public", far.underlay4)
    ground.cut("public", "far", one_way=True)
    before = (requests_seen(ground, "public"), requests_seen(ground, "far"))
    assert not hears(ground, "far", public.underlay4)
    assert not hears(ground, "public", far.underlay4)
    after = (requests_seen(ground, "public"), requests_seen(ground, "far"))
    assert after == (before[0] + 2, before[1])
    ground.mend("public", "far")
    assert hears(ground, "far", public.underlay4)


def test_two_that_no_cut_can_part_are_refused(ground: NatLab) -> None:
    with pytest.raises(LabError, match="one, as far as a wire can tell"):
        ground.cut("port", "port")
    with pytest.raises(LabError, match=r"no site 'lapptop' \(did you mean|no site 'lapptop'"):
        ground.cut("lapptop", "port")


def test_a_wire_delays_loses_repeats_and_swallows_from_when_it_is_told(ground: NatLab) -> None:
    wire, far = ground.wire("far"), ground.host("far").underlay4
    wire.change(up=Impairment(delay_ms=40), down=Impairment(delay_ms=60))
    printed = ping(ground, "public", far, "-c10", "-i0.05", "-W5")
    rtts = [float(value) for value in re.findall(r"time=([\d.]+)", printed)]
    # ping rounds to three digits, and has rounded a whole millisecond away.
    assert len(rtts) == 10
    assert 99 <= min(rtts) < 400, rtts
    wire.change(up=Impairment(loss_percent=30), down=Impairment())
    received = int(re.findall(r"(\d+) received", ping(ground, "public", far, "-c300", "-i0.01", "-W2"))[0])
    assert 150 <= received <= 270, "210 are expected; the standard deviation is 8"
    wire.change(up=Impairment(duplicate_percent=100))
    assert "+3 duplicates" in ping(ground, "public", far, "-c4", "-i0.1", "-W2"), "the last one's is not waited for"
    wire.change(up=Impairment(blackhole_bytes=1000))
    assert hears(ground, "public", far)
    assert "100% packet loss" in ping(ground, "public", far, "-c2", "-W1", "-s1200")
    wire.change(up=Impairment(), down=Impairment())
    assert " 0% packet loss" in ping(ground, "public", far, "-c2", "-W2", "-s1200")
    with pytest.raises(LabError, match="no wire that can be changed"):
        ground.wire("public")


def test_a_host_moves_to_another_address_another_site_and_back(ground: NatLab) -> None:
    far, public = ground.host("far"), ground.host("public")
    old = far.underlay4
    ground.move("far")
    assert far.underlay4 != old
    assert hears(ground, "public", far.underlay4)
    assert not hears(ground, "public", old)
    ground.move("far", "home")
    assert far.underlay4.startswith("192.168.1.")
    assert hears(ground, "far", public.underlay4)
    assert hears(ground, "far", ground.host("nas").underlay4)
    ground.move("far", "far")
    assert hears(ground, "public", far.underlay4)
    ground.wire("far").change(up=Impairment(delay_ms=1))
    with pytest.raises(LabError, match=r"no site 'hom' \(did you mean 'home'\?\)"):
        ground.move("far", "hom")


# --- the command


class Terminal:
    """`p2pvpn-lab up` in one, the other commands in another."""

    def __init__(self, folder: Path, text: str, *options: str) -> None:
        (folder / "two.toml").write_text(text)
        self.environment = {**os.environ, "TMPDIR": str(folder)}
        self._folder = folder
        self.up = subprocess.Popen(
            [COMMAND, "up", folder / "two.toml", *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def wait_up(self) -> str:
        """What it prints until it is up."""
        assert self.up.stdout is not None
        printed, deadline = "", time.monotonic() + UP_LIMIT_S
        while "\nup two" not in printed:
            readable, _, _ = select.select([self.up.stdout], [], [], max(0.0, deadline - time.monotonic()))
            read = os.read(self.up.stdout.fileno(), 1 << 16).decode() if readable else ""
            assert read, f"not up: {printed}"
            printed += read
        return printed

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *words], env=self.environment, capture_output=True, text=True, timeout=UP_LIMIT_S, check=False
        )

    def holders(self) -> dict[str, int]:
        """The process that holds each host's namespace."""
        (about,) = self._folder.glob(f"{FOLDER_PREFIX}*/lab.json")
        found = json.loads(about.read_text())["hosts"]
        assert isinstance(found, dict)
        return found

    def folders(self) -> list[Path]:
        return list(self._folder.glob(f"{FOLDER_PREFIX}*"))


TWO = """
[host.server]
[host.guest]
nat = "port"
wire = {}
"""


def gone(pids: list[int]) -> bool:
    return not any(alive(Path(f"/proc/{pid}/stat")) for pid in pids)


def test_the_command_brings_a_laboratory_up_works_in_it_and_takes_it_down(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, TWO)
    try:
        printed = terminal.wait_up()
        assert re.search(
            r"guest +guest +port +192\.168\.1\.2 +UDP 7001 +198\.18\.\d+\.\d+ +10\.77\.0\.\d+ +runs", printed
        )
        holders = terminal.holders()
        assert terminal.run("exec", "guest", "sh", "-c", "exit 7").returncode == 7
        status = terminal.run("exec", "guest", "p2pvpn", "status", "--json")
        assert json.loads(status.stdout)["node"]["name"] == "guest", status.stderr
        rows = {row["host"]: row for row in json.loads(terminal.run("status", "--json").stdout)}
        server = rows["server"]["underlay"][0]
        pings = ("exec", "guest", "ping", "-c1", "-W1", server)
        assert terminal.run("cut", "guest", "server").returncode == 0
        assert terminal.run(*pings).returncode == 1
        assert terminal.run("mend", "guest", "server").returncode == 0
        assert terminal.run(*pings).returncode == 0
        assert (
            terminal.run("wire", "guest", "--delay-ms", "5", "--only", "up").stdout == "up: delay 5 ms\ndown: perfect\n"
        )
        assert "jitter_ms is 9" in terminal.run("wire", "guest", "--jitter-ms", "9").stderr
        down = terminal.run("down")
        assert (down.returncode, down.stderr) == (0, "")
        assert not terminal.folders()
        assert gone(list(holders.values()))
        assert terminal.up.wait(UP_LIMIT_S) == 0
    finally:
        end(terminal.up)


@pytest.mark.parametrize("last_signal", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_laboratory_that_is_interrupted_or_killed(
    tmp_path: Path, last_signal: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(tmp_path, TWO, "--no-nodes")
    try:
        terminal.wait_up()
        holders = list(terminal.holders().values())
        inside = subprocess.Popen(
            [COMMAND, "exec", "guest", "sh", "-c", "echo $$; exec sleep 1000"],
            env=terminal.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert inside.stdout is not None
        sleeper = int(inside.stdout.readline())
        assert not gone([sleeper])
        terminal.up.send_signal(last_signal)
        _, said = inside.communicate(timeout=UP_LIMIT_S)
        assert inside.returncode == 1
        assert "has ended, and 'sh' with it" in said
        assert terminal.up.wait(UP_LIMIT_S) == (-9 if last_signal is signal.SIGKILL else 130)

        def all_gone() -> bool:
            """the holders and the command inside are gone"""
            return gone([*holders, sleeper])

        wait_until(all_gone, 30.0)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        sweep()
        assert not terminal.folders()
    finally:
        end(terminal.up)


def test_a_mistake_in_the_file_is_one_line(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "[host.a]\nnat = 'prt'\n")
    printed, _ = terminal.up.communicate(timeout=UP_LIMIT_S)
    assert terminal.up.returncode == 1
    assert printed.decode().count("\n") == 1
    assert "two.toml, line 2: host.a.nat: 'prt' is none of" in printed.decode()
    assert "no laboratory is up" in terminal.run("exec", "a", "true").stderr
    wrong = terminal.run("wire", "a", "--only", "sideways")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
