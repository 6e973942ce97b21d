"""The command as a contract: exit codes, what programs read, and what people read (DESIGN, section 7)."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sims.lab.lab import Lab, LabHost, wait_until
from sims.lab.node import LabNode
from tests.e2e.network import RealNetwork
from tests.patience import PATIENCE_S

PEER_FIELDS = {
    "name", "id", "addresses", "path", "via", "hops", "endpoint", "rtt_ms", "tx_bytes", "rx_bytes", "score",
}  # fmt: skip
WHY_FIELDS = {
    "peer", "path", "reason", "local_nat", "remote_nat", "candidates", "attempts", "proxies", "score", "next_retry_s",
}  # fmt: skip


@dataclass
class Five:
    """A ring of five, and three of it: one that asks, one it has a wire to, one it hasn't."""

    lab: Lab
    asking: LabNode
    near: LabNode
    far: LabNode
    host: LabHost  # of the one that asks


@pytest.fixture(scope="module")
def five() -> Iterator[Five]:
    with RealNetwork(["alder", "birch", "cedar", "elder", "fir"]) as network:
        network.issue()
        one, other = network.far_apart()
        near = next(name for name in network.ring if name not in (one, other))
        host = network.host(one)
        network.lab.cut(host, network.host(other))
        network.start_all()
        network.seconds_until_reply(one, other, limit_s=PATIENCE_S)
        asking = network.nodes[one]

        def connected() -> bool:
            """the one that asks has a direct path to the near one, and a proxy to the far one"""
            paths = {peer["name"]: peer["path"] for peer in asking.ask_json("peers")}
            return (paths.get(near), paths.get(other)) == ("direct", "proxy")

        wait_until(connected, PATIENCE_S)
        yield Five(network.lab, asking, network.nodes[near], network.nodes[other], host)


def test_status_is_one_object_with_the_fields_that_programs_need(five: Five) -> None:
    status = five.asking.ask_json("status")
    assert {"node", "ring", "peers", "counters"} <= set(status)
    assert {"name", "id", "addresses", "state", "uptime_s"} <= set(status["node"])
    assert (status["node"]["name"], len(status["node"]["id"])) == (five.asking.name, 40)
    assert status["node"]["state"] in ("joining", "ready", "isolated")
    assert {"successors", "predecessors", "fingers", "size_estimate"} <= set(status["ring"])
    assert all(set(peer) >= PEER_FIELDS for peer in status["peers"])
    assert all(isinstance(count, int) for count in status["counters"].values())


def test_ping_finds_a_peer_by_name_and_by_address_and_names_the_path(five: Five) -> None:
    asking = five.asking
    for peer in (five.near.name, five.near.address):
        done = asking.ask("ping", peer)  # stops by itself: the path is direct
        assert done.returncode == 0, done.stderr
        assert "direct" in done.stdout
    far = asking.ask("ping", five.far.name, "-c", "2")
    assert far.returncode == 0, far.stderr
    lines = far.stdout.strip().splitlines()
    assert len(lines) == 2
    assert all("via proxy " in line for line in lines), far.stdout
    replies = [json.loads(line) for line in asking.ask("ping", five.far.name, "-c", "2", "--json").stdout.splitlines()]
    assert [reply["path"] for reply in replies] == ["proxy", "proxy"]
    others = {"alder", "birch", "cedar", "elder", "fir"} - {asking.name, five.far.name}
    assert {reply["via"] for reply in replies} <= others


def test_peers_and_why_name_the_path_of_each_peer(five: Five) -> None:
    asking = five.asking
    paths = {peer["name"]: peer["path"] for peer in asking.ask_json("peers")}
    assert (paths[five.near.name], paths[five.far.name]) == ("direct", "proxy")
    why = asking.ask_json("why", five.far.name)
    assert set(why) >= WHY_FIELDS
    assert (why["path"], bool(why["reason"]), bool(why["via"])) == ("proxy", True, True)


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["peers"],
        ["why", "FAR"],
        ["ping", "FAR", "-c", "1"],
        ["ping", "FAR", "--timeout", "2"],
        ["shortcuts"],
        ["proxies"],
        ["netcheck"],
    ],
)
def test_every_command_speaks_to_people_too(five: Five, command: list[str]) -> None:
    done = five.asking.ask(*(five.far.name if word == "FAR" else word for word in command))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_what_is_known_of_paths_is_told_to_programs(five: Five) -> None:
    check = five.asking.ask_json("netcheck")
    assert {"udp", "ipv4", "ipv6", "port_mapping", "keepalive_s", "relay", "nearest"} <= set(check)
    assert check["udp"] is True
    assert {"used", "willing", "carried"} <= set(five.asking.ask_json("proxies"))
    assert five.asking.ask("ping", five.far.name, "-c", "1").returncode == 0  # traffic, and so a wish for a shortcut
    deadline = time.monotonic() + PATIENCE_S
    while five.far.name not in (shortcuts := {each["peer"]: each for each in five.asking.ask_json("shortcuts")}):
        assert time.monotonic() < deadline, shortcuts
        time.sleep(0.2)
    why = five.asking.ask_json("why", five.far.name)
    assert why["path"] != "direct"  # no packet passes between the two
    assert why["not_direct"]
    assert {"ipv4", "ipv6"} == set(why["local_nat"])
    assert [candidate["side"] for candidate in why["candidates"]].count("local") >= 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["ping", "nobody-of-this-name", "-c", "1"], 1),
        (["ping", "10.77.99.99", "-c", "1"], 1),
        (["why", "nobody-of-this-name"], 1),
        (["ping"], 2),
        (["status", "--no-such-option"], 2),
        (["no-such-command"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_command_that_fails_says_so_in_its_exit_code(five: Five, command: list[str], code: int) -> None:
    done = five.asking.ask(*command)
    assert done.returncode == code, done
    assert done.stdout.strip() == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_commands_without_a_running_node_fail_in_one_line(five: Five) -> None:
    for command in (["status"], ["peers"], ["ping", "alder"], ["why", "alder"], ["netcheck"], ["down"]):
        done = five.lab.p2pvpn(*command, "--control", five.lab.folder / "nobody-listens")
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_secret_files_are_for_their_owner_only(five: Five) -> None:
    host = five.host
    for secret in (five.lab.folder / "lab.ca", host.bundle, host.control):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600, secret
    assert stat.S_IMODE(host.state.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in host.state.iterdir() if file.is_file())
