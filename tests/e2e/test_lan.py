"""Nodes that know nobody become one ring over a switch; a stranger on it learns nothing and is never answered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dht.ids import id_bytes
from shortcuts.lan_wire import DATAGRAM_BYTES
from sims.lab.lab import Lab, LabHost
from sims.lab.namespace import end
from tests.e2e.home import ROOT, LineReader

MEMBERS = ("alder", "birch", "cedar", "elder")


class LanLab:
    """Members and a stranger on one switch."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.processes: list[subprocess.Popen[bytes]] = []
        lab.issue_all()
        self.stranger_host = lab.add("stranger")
        lab.wait_for_wires()

    def start(self, host: LabHost, script: str, *words: str | Path) -> LineReader:
        command: list[str | Path] = [sys.executable, Path(__file__).with_name(script), *words]
        with (self.lab.folder / f"{host.name}.log").open("ab") as log:
            process = host.namespace.spawn(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                environment={"PYTHONPATH": str(ROOT)},
            )
        self.processes.append(process)
        return LineReader(process)

    def member(self, name: str) -> LineReader:
        host = next(host for host in self.lab.hosts if host.name == name)
        return self.start(host, "lan_host.py", host.bundle)


@pytest.fixture
def lan(able: None) -> Iterator[LanLab]:
    with Lab(MEMBERS) as lab:
        made = LanLab(lab)
        yield made
        for process in made.processes:
            end(process)
        for log in lab.folder.glob("*.log"):
            print(log.name, log.read_text(errors="replace")[-2000:])  # shown when the test fails


def until(program: LineReader, *wanted: str) -> list[str]:
    """What a program prints until lines that begin so were all among it."""
    lines: list[str] = []
    while not all(any(line.startswith(begin) for line in lines) for begin in wanted):
        lines.append(program.line())
    return lines


def test_nodes_that_know_nobody_find_each_other_and_a_stranger_finds_out_nothing(lan: LanLab) -> None:
    stranger = lan.start(lan.stranger_host, "lan_stranger.py", lan.stranger_host.underlay4, "eth0")
    assert stranger.line() == "listening"
    members = {name: lan.member(name) for name in MEMBERS[:3]}
    for member in members.values():
        until(member, "ring 2", "knows 2")

    said = until(stranger, "said ")
    assert stranger.process.stdin is not None
    stranger.process.stdin.write(b"again\n")
    stranger.process.stdin.flush()
    said += until(stranger, "repeated")
    # Whoever comes after that is answered, so the members have heard and judged the stranger's datagrams before.
    late = lan.member(MEMBERS[3])
    until(late, "ring 3")
    stranger.process.stdin.close()
    said += stranger.remaining()

    assert not [line for line in said if line.startswith("answered")]
    heard = [bytes.fromhex(line.split()[1]) for line in said if line.startswith("said")]
    assert len(heard) >= 4
    assert {len(datagram) for datagram in heard} == {DATAGRAM_BYTES}
    assert len({datagram[:8] for datagram in heard}) == len(heard)
    for host in lan.lab.hosts[:4]:
        for told in (host.name.encode(), id_bytes(host.member.id), f"{host.member.id:040x}".encode()):
            assert told not in b"".join(heard)


def test_ipv6_alone_is_enough(lan: LanLab) -> None:
    for host in lan.lab.hosts:
        host.namespace.ip(f"addr del {host.underlay4}/24 dev eth0")
    members = [lan.member(name) for name in MEMBERS[:2]]
    for member in members:
        until(member, "ring 1")
