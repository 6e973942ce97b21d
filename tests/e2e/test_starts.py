"""What `p2pvpn up` does when it can't start, and what it leaves when it ends: in both cases nothing."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sims.lab.lab import COMMAND, PORT, Lab, LabHost, wait_until
from sims.lab.namespace import end
from tests.patience import PATIENCE_S, Promises

LIMIT_S = 2.0
USAGE = 2  # The exit code of a wrong command line.
OCCUPY = "import socket, sys, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 7000));\
 print('bound', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(["alder", "birch"]) as made:
        made.issue_all()
        yield made


@dataclass
class Case:
    """One start that must fail: what is wrong, how it comes to be wrong, and the command line."""

    bundle: Path
    options: list[str] = field(default_factory=list)
    within: list[str] = field(default_factory=list)
    code: int = 1
    says: str = ""


def residue(lab: Lab, host: LabHost) -> dict[str, list[str]]:
    """Everything that a run could leave: devices, addresses, routes, sockets, files."""
    commands = {
        "devices": "ip -brief link",
        "addresses": "ip -oneline address",
        "IPv4 routes": "ip route show table all",
        "IPv6 routes": "ip -6 route show table all",
        "rules": "ip rule",
        "sockets": "cat /proc/net/udp /proc/net/udp6",
    }
    found = {what: host.namespace.run("sh", "-c", command).stdout.splitlines() for what, command in commands.items()}
    # The kernel takes a second or two to give a new wire its own link-local address.
    found = {what: [line for line in lines if "fe80:" not in line] for what, lines in found.items()}
    # The lines of sockets hold counters and addresses of kernel objects: the local address is what counts.
    found["sockets"] = sorted(line.split()[1] for line in found["sockets"])
    found["files"] = sorted(str(path) for path in lab.folder.rglob("*"))
    found["runtime files"] = sorted(str(path) for path in Path("/run").glob("p2pvpn*/**"))
    return found


def difference(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """What came and what went, one line each."""
    came = [f"{what}: + {line}" for what, lines in after.items() for line in lines if line not in before[what]]
    went = [f"{what}: - {line}" for what, lines in before.items() for line in lines if line not in after[what]]
    return came + went


def port_in_use(lab: Lab, host: LabHost, undo: ExitStack) -> Case:
    squatter = lab.spawn(host, sys.executable, "-c", OCCUPY)
    undo.callback(end, squatter)
    assert squatter.stdout is not None
    assert squatter.stdout.readline() == b"bound\n"
    return Case(host.bundle, says=str(PORT))


def tap_name_taken(_lab: Lab, host: LabHost, undo: ExitStack) -> Case:
    host.namespace.ip("link add taken type bridge")
    undo.callback(host.namespace.ip, "link del taken")
    return Case(host.bundle, ["--tap", "taken"], says="taken")


def tap_name_taken_by_a_tap(_lab: Lab, host: LabHost, undo: ExitStack) -> Case:
    host.namespace.ip("tuntap add dev oldtap mode tap")
    undo.callback(host.namespace.ip, "link del oldtap")
    return Case(host.bundle, ["--tap", "oldtap"], says="oldtap")


def tap_name_too_long(_lab: Lab, host: LabHost, _undo: ExitStack) -> Case:
    return Case(host.bundle, ["--tap", "a-name-of-more-than-15"], says="a-name-of-more-than-15")


def missing_file(lab: Lab, _host: LabHost, _undo: ExitStack) -> Case:
    return Case(lab.folder / "nowhere", says="nowhere")


def a_folder_instead_of_a_file(lab: Lab, _host: LabHost, _undo: ExitStack) -> Case:
    return Case(lab.folder, says=str(lab.folder))


def written(lab: Lab, undo: ExitStack, content: bytes) -> Path:
    path = lab.folder / "bad-bundle"
    path.write_bytes(content)
    path.chmod(0o600)
    undo.callback(path.unlink)
    return path


def wrong_key(lab: Lab, host: LabHost, undo: ExitStack) -> Case:
    bundle, other = (json.loads(host.bundle.read_text()) for host in lab.hosts)
    content = json.dumps({**bundle, "private_key": other["private_key"]}).encode()
    return Case(written(lab, undo, content), says="key")


def wrong_authority(lab: Lab, host: LabHost, undo: ExitStack) -> Case:
    folder = lab.folder / "foreign"
    folder.mkdir()
    undo.callback(shutil.rmtree, folder)
    assert lab.p2pvpn("init", "foreign", "--subnet", lab.subnet, "--dir", folder).returncode == 0
    assert lab.p2pvpn("issue", "eve", "--ca", folder / "foreign.ca", "--out", folder / "eve").returncode == 0
    bundle, foreign = json.loads(host.bundle.read_text()), json.loads((folder / "eve").read_text())
    content = json.dumps({**bundle, "certificate": foreign["certificate"]}).encode()
    return Case(written(lab, undo, content), says="certificate")


def noise(lab: Lab, _host: LabHost, undo: ExitStack) -> Case:
    return Case(written(lab, undo, bytes(range(256)) * 16), says="bad-bundle")


def half_a_bundle(lab: Lab, host: LabHost, undo: ExitStack) -> Case:
    return Case(written(lab, undo, host.bundle.read_bytes()[:700]), says="bad-bundle")


def empty_file(lab: Lab, _host: LabHost, undo: ExitStack) -> Case:
    return Case(written(lab, undo, b""), says="bad-bundle")


def no_tun_device(_lab: Lab, host: LabHost, _undo: ExitStack) -> Case:
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$0" "$@"']
    return Case(host.bundle, within=hide, says="/dev/net/tun")


def not_root(_lab: Lab, host: LabHost, _undo: ExitStack) -> Case:
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    return Case(host.bundle, within=powerless, says="root")


def an_address_of_another_machine(_lab: Lab, host: LabHost, _undo: ExitStack) -> Case:
    return Case(host.bundle, ["--listen", f"203.0.113.9:{PORT}"], says="203.0.113.9")


def no_port_to_listen_on(_lab: Lab, host: LabHost, _undo: ExitStack) -> Case:
    return Case(host.bundle, ["--listen", "0.0.0.0"], code=USAGE, says="0.0.0.0")


def a_bootstrap_without_port(_lab: Lab, host: LabHost, _undo: ExitStack) -> Case:
    return Case(host.bundle, ["--bootstrap", "vpn.example.org"], code=USAGE, says="vpn.example.org")


def a_control_socket_in_no_folder(lab: Lab, host: LabHost, _undo: ExitStack) -> Case:
    return Case(host.bundle, ["--control", str(lab.folder / "none" / "control")], says="control")


def a_state_folder_that_is_a_file(_lab: Lab, host: LabHost, _undo: ExitStack) -> Case:
    return Case(host.bundle, ["--state", str(host.bundle)], says=str(host.bundle))


def an_address_in_use(_lab: Lab, host: LabHost, undo: ExitStack) -> Case:
    address = json.loads(host.bundle.read_text())["address"]
    host.namespace.ip("link add other type bridge", f"addr add {address}/16 dev other", "link set other up")
    undo.callback(host.namespace.ip, "link del other")
    return Case(host.bundle, says=address)


Make = Callable[[Lab, LabHost, ExitStack], Case]
BAD_STARTS: Sequence[Make] = (
    port_in_use,
    tap_name_taken,
    tap_name_taken_by_a_tap,
    tap_name_too_long,
    missing_file,
    a_folder_instead_of_a_file,
    wrong_key,
    wrong_authority,
    noise,
    half_a_bundle,
    empty_file,
    no_tun_device,
    not_root,
    an_address_of_another_machine,
    no_port_to_listen_on,
    a_bootstrap_without_port,
    a_control_socket_in_no_folder,
    a_state_folder_that_is_a_file,
    an_address_in_use,
)


@pytest.mark.parametrize("make", BAD_STARTS, ids=lambda make: make.__name__)
def test_a_bad_start_says_why_in_one_line_within_2_s_and_leaves_nothing(
    lab: Lab, make: Make, promises: Promises
) -> None:
    host = lab.hosts[0]
    with ExitStack() as undo:
        case = make(lab, host, undo)
        usual = ["--listen", f"0.0.0.0:{PORT}", "--state", str(host.state), "--control", str(host.control)]
        for option in case.options[::2]:
            if option in usual:
                del usual[usual.index(option) : usual.index(option) + 2]
        before = residue(lab, host)
        start = time.monotonic()
        done = host.namespace.run(*case.within, COMMAND, "up", case.bundle, *usual, *case.options, timeout_s=PATIENCE_S)
        took_s = time.monotonic() - start
        assert difference(before, residue(lab, host)) == []
    assert done.returncode == case.code, done
    promises.measured("refused", took_s, LIMIT_S)
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert case.says in line


def test_a_second_start_of_the_same_node_is_refused_and_the_first_goes_on(lab: Lab) -> None:
    host = lab.hosts[0]
    with closing(lab.start(host).wait_ready()) as first:
        before = residue(lab, host)
        second = lab.p2pvpn("up", host.bundle, "--listen", "0.0.0.0:7001", "--control", host.control, host=host)
        assert second.returncode == 1
        assert len(second.stderr.strip().splitlines()) == 1, second.stderr
        assert difference(before, residue(lab, host)) == []
        assert first.ask_json("status")["node"]["name"] == host.name


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "down"])
def test_a_node_that_ends_leaves_no_device_route_socket_or_file(lab: Lab, way: str, promises: Promises) -> None:
    host, peer = lab.hosts
    with closing(lab.start(peer, bootstraps=()).wait_ready()) as other:
        before = residue(lab, host)
        node = lab.start(host, bootstraps=[f"{peer.underlay4}:{PORT}"]).wait_ready()
        first_reply = f"until ping -c1 -W1 {other.address}; do sleep 0.1; done"
        assert host.namespace.run("sh", "-c", first_reply, timeout_s=PATIENCE_S).returncode == 0
        during = residue(lab, host)
        assert all(
            during[what] != before[what] for what in ("devices", "addresses", "IPv4 routes", "IPv6 routes", "files")
        )
        lost_before = other.status()["counters"].get("edge_lost", 0)
        start = time.monotonic()
        if way == "down":
            done = node.ask("down")
            assert (done.returncode, done.stderr) == (0, "")
        else:
            node.process.send_signal({"SIGTERM": 15, "SIGINT": 2}[way])
        assert node.process.wait(PATIENCE_S) == 0
        promises.measured("ended", time.monotonic() - start, LIMIT_S)
        # What it knows of others stays for its next start, where --state says; the log is the laboratory's.
        kept = re.compile(r"files: \+ \S+/(log|state(/\S+)?)")
        assert [line for line in difference(before, residue(lab, host)) if not kept.fullmatch(line)] == []

        def told() -> bool:
            """the peer knows that the node has left"""
            return host.name not in [known["name"] for known in other.ask_json("peers")]

        # A graceful leave: the peer is told, and need not find out.
        wait_until(told, PATIENCE_S)
        assert other.status()["counters"].get("edge_lost", 0) == lost_before


def test_systemd_is_told_when_the_node_is_ready(lab: Lab, tmp_path: Path) -> None:
    host = lab.hosts[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_S)
        command = (COMMAND, "up", host.bundle, "--state", host.state, "--control", host.control)
        node = host.namespace.spawn(
            *command, stdout=subprocess.PIPE, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        try:
            assert "READY=1" in systemd.recv(4096).decode().splitlines()
            assert node.stdout is not None
            assert node.stdout.readline().startswith(b"ready alder ")
            node.terminate()
            assert "STOPPING=1" in systemd.recv(4096).decode().splitlines()
        finally:
            end(node)
