"""The `p2pvpn` command as a program: what it prints, its exit codes, and that bad starts leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from dht import names as names_module
from dht.bootstrap import Bootstrap
from dht.host import Endpoint
from dht.session import OVERHEAD_BYTES
from dht.sizes import datagram_bytes, plaintext_bytes
from dht.udp_batch import MAX_BATCH_BYTES
from ipop import daemon, places, tables
from ipop.config import TAP_MTU, UpSettings, shortcuts_config, tap_mtu, too_long
from ipop.control import alive
from ipop.device_setup import super_packet_segments
from ipop.errors import SetupError
from ipop.superpacket import SEGMENT_BYTES
from ipop.wording import duration_text, path_text, route_text, size_text
from shortcuts.node import ShortcutConfig
from tests.patience import PATIENCE_S, Promises, patient

ROOT = Path(__file__).resolve().parent.parent
BAD_START_S = 2.0
ANSWER_S = 5.0
HELP_S = 0.3
DAY_S = 86_400.0
EXPIRES = 1_803_859_200.0  # 2027-03-01

STATUS: dict[str, Any] = {
    "node": {
        "name": "alice",
        "id": "0a" * 20,
        "addresses": ["10.77.0.1", "fd00::1"],
        "state": "ready",
        "uptime_s": 3725.0,
        "network": "demo",
        "tap": "p2pvpn0",
        "alarm": "this identity also runs elsewhere",
        "expires": "2027-03-01T00:00:00Z",
    },
    "ring": {"successors": ["0b" * 20], "predecessors": ["0c" * 20], "fingers": [], "size_estimate": 3},
    "peers": [
        {
            "name": "bob[red]",
            "id": "0b" * 20,
            "addresses": ["10.77.0.2", "fd00::2"],
            "path": "overlay",
            "via": None,
            "hops": 2,
            "endpoint": None,
            "rtt_ms": None,
            "tx_bytes": 1234,
            "rx_bytes": 0,
            "score": 0.0,
        }
    ],
    "counters": {},
}


def p2pvpn(*words: str | Path, wrapper: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, from a directory of somebody else's."""
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "ipop.cli", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        cwd="/tmp",
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def refused(*words: str | Path, wrapper: tuple[str, ...] = (), **environment: str) -> str:
    """The one line with which the command fails, within the time a bad start may take."""
    began = time.monotonic()
    done = p2pvpn(*words, wrapper=wrapper, **environment)
    took_s = time.monotonic() - began
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("p2pvpn: ")
    assert took_s < patient(BAD_START_S)
    return done.stderr


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the network `demo` and the bundles of alice and bob."""
    folder = tmp_path_factory.mktemp("network")
    assert p2pvpn("init", "demo", "--subnet", "10.77.0.0/16", "--dir", folder).returncode == 0
    for name in ("alice", "bob"):
        assert p2pvpn("issue", name, "--ca", folder / "demo.ca", "--out", folder / f"{name}.bundle").returncode == 0
    return folder


def test_help_is_quick_and_names_every_command(promises: Promises) -> None:
    took_s = []
    for _ in range(5):
        began = time.monotonic()
        done = p2pvpn("--help")
        took_s.append(time.monotonic() - began)
    assert done.returncode == 0
    for command in (
        "init",
        "issue",
        "up",
        "status",
        "peers",
        "ping",
        "why",
        "shortcuts",
        "proxies",
        "netcheck",
        "down",
    ):
        assert f"\n  {command} " in done.stdout
    promises.measured("fastest of five", min(took_s), HELP_S)


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("frob\nnicate",),
        ("--no-such-option",),
        ("up", "x", "--listen"),
        ("up", "x", "--bootstrap", "no\nhost"),
        ("up",),
        ("up", "x", "--listen", "7000"),
        ("up", "x", "--listen", "localhost:7000"),
        ("up", "x", "--bootstrap", "nohost"),
        ("up", "x", "--bootstrap", "2001:db8::1:7000"),
        ("up", "x", "--whatever"),
        ("init", "demo"),
        ("issue", "carol"),
        ("ping",),
        ("ping", "bob", "-c", "none"),
        ("ping", "bob", "-c", "0"),
        ("ping", "bob", "--timeout", "0"),
        ("up", "x", "--proxy-mbit", "0"),
        ("up", "x", "--proxy-mbit", "nan"),
        ("up", "x", "--proxy-mbit", "5", "--no-proxy"),
        ("netcheck", "more"),
        ("status", "more"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...]) -> None:
    done = p2pvpn(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("p2pvpn: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip().endswith("--help')")


def test_bare_it_shows_its_help_and_is_wrong_usage_all_the_same() -> None:
    done = p2pvpn()
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == p2pvpn("--help").stdout


def test_it_says_its_version() -> None:
    done = p2pvpn("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("p2pvpn")


def test_with_closed_streams_it_does_its_work_all_the_same(network: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "closed.bundle"
    for closed in (">&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"):
        closing = ("sh", "-c", f'exec "$@" {closed}', "sh")
        done = p2pvpn("issue", "closed", "--ca", network / "demo.ca", "--out", bundle, wrapper=closing)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        json.loads(bundle.read_text())  # Nothing that was printed went into a file.
        done = p2pvpn("up", tmp_path / "missing", wrapper=closing)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
    assert "no such file" in refused("up", tmp_path / "missing", wrapper=("sh", "-c", 'exec "$@" >&-', "sh"))


def test_init_and_issue_make_a_network_and_renew(network: Path) -> None:
    bundle = network / "carol.bundle"
    first = p2pvpn("issue", "carol", "--ca", network / "demo.ca", "--out", bundle, "--address", "10.77.3.3")
    again = p2pvpn("issue", "carol", "--ca", network / "demo.ca", "--out", bundle)
    assert first.returncode == again.returncode == 0
    assert first.stdout == again.stdout
    assert first.stdout.split()[1:3] == ["carol", "10.77.3.3"]
    assert bundle.stat().st_mode & 0o777 == 0o600


def test_init_and_issue_say_in_a_line_what_is_wrong(network: Path, tmp_path: Path) -> None:
    assert "demo" in refused("init", "demo", "--subnet", "10.77.0.0/16", "--dir", network)
    assert "10.77" in refused("init", "other", "--subnet", "10.77", "--dir", tmp_path)
    ca = network / "demo.ca"
    assert "10.77.0.1" in refused("issue", "dave", "--ca", ca, "--out", tmp_path / "d", "--address", "10.77.0.1")
    assert "nowhere" in refused("issue", "dave", "--ca", tmp_path / "nowhere.ca", "--out", tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("peers",),
        ("ping", "bob"),
        ("why", "bob"),
        ("shortcuts",),
        ("proxies",),
        ("netcheck",),
        ("down",),
    ],
)
def test_without_a_running_node_commands_say_how_to_start_one(command: tuple[str, ...], tmp_path: Path) -> None:
    assert "start one with 'p2pvpn up FILE'" in refused(*command, "--control", tmp_path / "none")
    assert "start one with 'p2pvpn up FILE'" in refused(*command, "--json", "--control", tmp_path / "none")


def test_up_refuses_bundles_that_are_none(network: Path, tmp_path: Path) -> None:
    assert "no such file" in refused("up", tmp_path / "missing")
    assert "not a file" in refused("up", tmp_path)
    (tmp_path / "garbage").write_bytes(bytes(range(256)))
    assert "garbage" in refused("up", tmp_path / "garbage")
    (tmp_path / "half").write_text((network / "alice.bundle").read_text()[:500])
    assert "half" in refused("up", tmp_path / "half")
    alice, bob = (json.loads((network / f"{name}.bundle").read_text()) for name in ("alice", "bob"))
    (tmp_path / "wrong").write_text(json.dumps({**alice, "private_key": bob["private_key"]}))
    assert "private_key" in refused("up", tmp_path / "wrong")
    assert "not a 'p2pvpn bundle'" in refused("up", network / "demo.ca")


def test_up_names_a_port_in_use(network: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        line = refused("up", network / "alice.bundle", "--listen", f"127.0.0.1:{port}")
    assert f"port {port} is in use" in line
    assert "--listen" in line
    assert "203.0.113.7" in refused("up", network / "alice.bundle", "--listen", "203.0.113.7:7000")


class InNamespace:
    """Runs `up` as root of namespaces of its own, so that nothing on this machine is touched. Use as a context: at
    its end nothing runs any more."""

    # Root needs no user namespace, which some machines refuse even to root.
    wrapper = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--net", "--mount")

    def __init__(self, folder: Path, network: Path) -> None:
        self.folder, self.network = folder, network
        self.state, self.control = folder / "state", folder / "control"
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> InNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._started:
            if node.poll() is None:
                node.kill()
                node.communicate()

    def refused(self, *words: str | Path, setup: str = "true", name: str = "alice") -> str:
        """As `refused`, after the shell commands `setup` inside the namespaces."""
        inside = (*self.wrapper, "sh", "-c", f'{setup} && exec "$@"', "sh")
        before = sorted(self.folder.rglob("*"))
        line = refused("up", self.network / f"{name}.bundle", *self._places(words), *words, wrapper=inside)
        assert sorted(self.folder.rglob("*")) == before
        return line

    def start(self, *words: str | Path, name: str = "alice", setup: str = "ip link set lo up") -> subprocess.Popen[str]:
        inside = (*self.wrapper, "sh", "-c", f'{setup} && exec "$@"', "sh")
        command = [*inside, sys.executable, "-m", "ipop.cli", "up", str(self.network / f"{name}.bundle")]
        node = subprocess.Popen(
            [*command, *map(str, self._places(words)), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._started.append(node)
        return node

    def _places(self, words: tuple[str | Path, ...]) -> list[str | Path]:
        """Options for places of our own, where `words` don't choose others."""
        chosen: list[str | Path] = []
        for option, place in (("--state", self.state), ("--control", self.control)):
            if option not in words:
                chosen += [option, place]
        return chosen


@pytest.fixture
def namespace(tmp_path: Path, network: Path) -> Iterator[InNamespace]:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs the commands unshare and ip")
    works = subprocess.run([*InNamespace.wrapper, "true"], check=False, capture_output=True)
    if works.returncode != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("needs root or user namespaces, and access to /dev/net/tun")
    with InNamespace(tmp_path, network) as made:
        yield made


def test_up_runs_answers_and_leaves_nothing_behind(namespace: InNamespace) -> None:
    node = namespace.start("--tap", "vpn7")
    assert node.stdout is not None
    assert node.stdout.readline() == "ready alice 10.77.0.1 vpn7\n"
    control = namespace.control
    assert control.stat().st_mode & 0o777 == 0o600
    status = json.loads(p2pvpn("status", "--json", "--control", control).stdout)
    assert status["node"]["name"] == "alice"
    assert set(status) == {"node", "ring", "peers", "counters"}
    assert json.loads(p2pvpn("peers", "--json", "--control", control).stdout) == []
    assert "alice" in p2pvpn("status", "--control", control).stdout
    assert "no peers yet" in p2pvpn("peers", "--control", control).stdout
    assert "this node is alone: it was given no bootstrap" in refused("ping", "bob", "--control", control)
    assert "is not in 10.77.0.0/16" in refused("ping", "8.8.8.8", "--control", control)
    assert "this node itself" in refused("why", "alice", "--json", "--control", control)
    down = p2pvpn("down", "--control", control)
    assert (down.returncode, down.stdout, down.stderr) == (0, "", "")
    assert not control.exists()
    out, err = node.communicate(timeout=PATIENCE_S)
    assert node.returncode == 0
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize("number", ["TERM", "INT", "HUP"])
def test_a_signal_ends_up_as_down_does(namespace: InNamespace, number: str) -> None:
    node = namespace.start()
    assert node.stdout is not None
    assert node.stdout.readline().startswith("ready alice")
    subprocess.run(["kill", f"-{number}", str(node.pid)], check=True)
    _, err = node.communicate(timeout=PATIENCE_S)
    assert node.returncode == 0
    assert "Traceback" not in err
    assert not namespace.control.exists()


def test_a_second_up_of_the_same_bundle_is_refused(namespace: InNamespace) -> None:
    node = namespace.start()
    assert node.stdout is not None
    assert node.stdout.readline().startswith("ready alice")
    try:
        line = refused("up", namespace.network / "alice.bundle", "--control", namespace.folder / "second")
        assert "node 'alice' is running already" in line
        assert "p2pvpn down" in line
        other = InNamespace(namespace.folder / "other", namespace.network)
        other.folder.mkdir()
        line = other.refused("--state", namespace.state, name="bob")
        assert "another node is running with this state directory" in line
        line = other.refused("--control", namespace.control, name="bob")
        assert "another node is running with the control socket" in line
        assert alive(str(namespace.control))
    finally:
        node.terminate()
        node.communicate(timeout=PATIENCE_S)


def test_up_runs_without_a_stdout(namespace: InNamespace) -> None:
    node = namespace.start(setup="ip link set lo up && exec >&-")
    try:
        ends = time.monotonic() + PATIENCE_S
        while not alive(str(namespace.control)):
            assert time.monotonic() < ends, "it never answered"
            time.sleep(0.05)
        assert json.loads(p2pvpn("status", "--json", "--control", namespace.control).stdout)["node"]["name"] == "alice"
    finally:
        node.terminate()
        _, err = node.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err


def test_a_stopped_node_is_given_up_soon(namespace: InNamespace, promises: Promises) -> None:
    node = namespace.start()
    assert node.stdout is not None
    assert node.stdout.readline().startswith("ready alice")
    node.send_signal(signal.SIGSTOP)
    try:
        for command in (("status",), ("why", "bob")):
            began = time.monotonic()
            done = p2pvpn(*command, "--control", namespace.control)
            took_s = time.monotonic() - began
            assert took_s > ANSWER_S
            promises.measured(command[0], took_s, ANSWER_S + BAD_START_S)
            assert done.returncode == 1
            assert "did not answer within 5 s: is it stopped or overloaded?" in done.stderr
            assert done.stderr.count("\n") == 1
    finally:
        node.send_signal(signal.SIGCONT)
        node.terminate()
        node.communicate(timeout=PATIENCE_S)


def test_two_nodes_of_one_network_cannot_share_a_machine_and_are_told_so(namespace: InNamespace) -> None:
    running = "ip tuntap add p2pvpn0 mode tap && ip link set p2pvpn0 up && ip addr add 10.77.0.2/16 dev p2pvpn0"
    line = namespace.refused(setup=running)
    assert "another node of this network runs on this machine (interface p2pvpn0)" in line
    bridge = running.replace("ip tuntap add p2pvpn0 mode tap", "ip link add p2pvpn0 type bridge")
    assert "collides with 10.77.0.0/16" in namespace.refused(setup=bridge)


def test_bad_starts_fail_in_a_line_and_leave_nothing_behind(namespace: InNamespace) -> None:
    taken = "ip link add taken0 type veth peer name taken1"
    assert "'taken0' exists already" in namespace.refused("--tap", "taken0", setup=taken)
    assert "no name for a network interface" in namespace.refused("--tap", "far-too-long-for-linux")
    no_device = "mount -t tmpfs none /dev/net"
    assert "/dev/net/tun is missing" in namespace.refused(setup=no_device)
    file = namespace.folder / "file"
    file.write_text("precious")
    assert "is not a directory" in namespace.refused("--state", file)
    assert "is not a socket" in namespace.refused("--control", file)
    assert "No such file or directory" in namespace.refused("--control", namespace.folder / "no" / "where")
    assert file.read_text() == "precious"


def test_without_the_right_to_make_devices_up_says_what_it_needs(network: Path, tmp_path: Path) -> None:
    wrapper: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs the command setpriv")
        wrapper = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-all")
    line = refused(
        "up", network / "alice.bundle", "--state", tmp_path / "state", "--control", tmp_path / "control",
        wrapper=wrapper,
    )  # fmt: skip
    assert "needs root or the capability CAP_NET_ADMIN" in line
    assert list(tmp_path.iterdir()) == []


# The parts of it, one by one


def test_a_bootstrap_is_host_and_port() -> None:
    assert Bootstrap.from_text("vpn.example:7000") == Bootstrap("vpn.example", 7000)
    assert str(Bootstrap.from_text("[2001:db8::1]:7000")) == "[2001:db8::1]:7000"
    for text in ("", "x", ":7000", "x:", "x:0", "x:65536", "x:7_0", "2001:db8::1:7000", "a b:7", "x:²"):
        with pytest.raises(ValueError, match="HOST:PORT|':PORT'"):
            Bootstrap.from_text(text)


def test_settings_survive_their_journey() -> None:
    settings = UpSettings(
        "b", Endpoint("::", 7), (Bootstrap("x", 1), Bootstrap("2001:db8::1", 2)), None, "/state dir/ü", None,
        False, 1400, 1300,
        ShortcutConfig(willing=False, proxy_bytes_per_s=0.1, portmap=False, lan=False), False, True,
    )  # fmt: skip
    assert UpSettings.from_text(settings.to_text()) == settings


def test_what_may_be_chosen_about_paths() -> None:
    assert shortcuts_config(proxy=True, proxy_mbit=None, portmap=True, lan=True) == ShortcutConfig()
    chosen = shortcuts_config(proxy=True, proxy_mbit=8.0, portmap=False, lan=True)
    assert chosen == ShortcutConfig(willing=True, proxy_bytes_per_s=1e6, portmap=False, lan=True)
    assert not shortcuts_config(proxy=False, proxy_mbit=None, portmap=True, lan=False).willing
    for proxy, mbit in ((True, 0.0), (True, -1.0), (True, float("nan")), (True, float("inf")), (False, 5.0)):
        with pytest.raises(ValueError, match="--no-proxy"):
            shortcuts_config(proxy=proxy, proxy_mbit=mbit, portmap=True, lan=True)


def test_help_explains_every_choice_in_a_line() -> None:
    shown = " ".join(p2pvpn("up", "--help", COLUMNS="200").stdout.split())
    for option, meaning in (
        ("--no-proxy", "Never relay for other members."),
        ("--proxy-mbit N", "Relay at most N Mbit/s for others"),
        ("--no-portmap", "Never ask the router to forward a port"),
        ("--no-lan", "Don't look for members in the local network."),
        ("--no-multicast", "Carry no multicast and no broadcast"),
        ("--multicast-route", "IPv4 multicast of programs that choose no interface goes here."),
    ):
        assert f"{option} {meaning}" in shown


def test_a_packet_or_a_segment_fits_an_ethernet_frame_through_a_relay_or_behind_pppoe() -> None:
    assert SEGMENT_BYTES + TAP_MTU + OVERHEAD_BYTES + 8 + 40 + 8 <= 1500


@pytest.mark.parametrize(
    ("underlay", "virtual"), [(1500, 1400), (9000, 1400), (1492, 1399), (1420, 1327), (1373, 1280), (1280, 1280)]
)
def test_the_virtual_mtu_follows_from_that_of_the_links_and_keeps_ipv6(underlay: int, virtual: int) -> None:
    assert tap_mtu(underlay) == virtual


@pytest.mark.parametrize(("mtu", "underlay", "count"), [(1400, 1500, 45), (1280, 1280, 48), (9000, 9000, 6)])
def test_a_super_packet_fills_one_system_call_and_no_more(mtu: int, underlay: int, count: int) -> None:
    room_bytes = plaintext_bytes(datagram_bytes(underlay))
    segments = super_packet_segments(mtu, room_bytes)
    assert segments == count
    each = min(mtu, room_bytes - SEGMENT_BYTES)
    datagrams = -(-segments * (mtu - 52) // (each - 52))
    assert datagrams * (SEGMENT_BYTES + each + OVERHEAD_BYTES) <= MAX_BATCH_BYTES


@pytest.mark.parametrize(
    ("option", "value"), [("--mtu", "1279"), ("--mtu", "9001"), ("--underlay-mtu", "1279"), ("--underlay-mtu", "9001")]
)
def test_an_mtu_that_nothing_could_use_is_wrong_usage(option: str, value: str) -> None:
    done = p2pvpn("up", "no.bundle", option, value)
    assert done.returncode == 2
    assert option in done.stderr
    assert value in done.stderr


def test_multicast_is_turned_off_or_routed_but_not_both() -> None:
    done = p2pvpn("up", "no.bundle", "--no-multicast", "--multicast-route")
    assert done.returncode == 2 and "contradict" in done.stderr


def test_group_secrets_are_made_without_a_node(tmp_path: Path) -> None:
    done = p2pvpn("group", "secret", "--out", tmp_path / "one")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'one'}  epoch 0\n"
    assert p2pvpn("group", "secret", "--out", tmp_path / "one").returncode == 1
    assert "epoch 1" in p2pvpn("group", "secret", "--out", tmp_path / "two", "--after", tmp_path / "one").stdout
    assert p2pvpn("group").returncode == 2
    done = p2pvpn("group", "join", "club", "--control", tmp_path / "none")
    assert done.returncode == 1 and "no p2pvpn node is running" in done.stderr


def test_a_virtual_mtu_that_does_not_fit_the_links_is_warned_of() -> None:
    assert too_long(1400, 1500) is too_long(1280, 1280) is None
    assert "packets of more than 1407 bytes go in pieces" in (too_long(1500, 1500) or "")
    for underlay in (1280, 1400, 1500, 9000):
        assert too_long(tap_mtu(underlay), underlay) is None


def test_texts_for_people() -> None:
    assert [duration_text(seconds) for seconds in (0, 59, 61, 3600, 90061, 864000)] == [
        "0 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h", "10 d",
    ]  # fmt: skip
    assert [size_text(size) for size in (0, 999, 1000, 99_949, 123_456, 999_700, 12_300_000_000_000)] == [
        "0 B", "999 B", "1.0 kB", "99.9 kB", "123 kB", "1.0 MB", "12300 GB",
    ]  # fmt: skip
    assert path_text({"path": "direct"}) == "direct"
    assert path_text({"path": "proxy", "via": "carol"}) == "proxy(via carol)"
    assert path_text({"path": "overlay", "hops": 1}) == "overlay(1 hop)"
    assert path_text({"path": "overlay", "hops": 3}) == "overlay(3 hops)"
    assert path_text({"path": None, "hops": None}) == "no path"
    assert route_text({"path": "direct", "endpoint": "192.0.2.1:7000"}) == "direct 192.0.2.1:7000"
    assert route_text({"path": "proxy", "via": "carol"}) == "proxy carol"
    assert route_text({"path": "overlay", "hops": 3}) == "overlay (3 hops)"
    assert route_text({"path": None, "hops": None}) == "no path"


def test_tables_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_status(STATUS, EXPIRES - 31 * DAY_S)
    tables.show_peers([])
    shown = capsys.readouterr().out
    for text in ("alice", "1 h 2 min", "about 3 nodes", "bob[red]", "overlay(2 hops)", "1.2 kB"):
        assert text in shown
    assert "overlay: over the ring" in shown
    assert " \n" not in shown
    assert shown.startswith("! this identity also runs elsewhere")
    assert "certificate" not in shown


def test_status_warns_of_a_certificate_that_ends_soon(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_status(STATUS, EXPIRES - 3 * DAY_S)
    shown = capsys.readouterr().out
    assert "! the certificate ends in 3 d (2027-03-01T00:00:00Z): renew it" in shown
    assert "p2pvpn issue alice --ca demo.ca" in shown
    tables.show_status(STATUS, EXPIRES + 1)
    assert "! the certificate has ended" in capsys.readouterr().out


class FakeNode:
    """A control socket of a node that knows bob, who answers over these paths, the last for ever. None: no answer."""

    def __init__(self, path: Path, *paths: dict[str, object] | None, wait_s: float = 0.0) -> None:
        self.asked = 0
        self._paths, self._wait_s = list(paths), wait_s
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        nothing = dict.fromkeys(("rtt_ms", "path", "via", "hops", "endpoint"))
        reply = {"peer": "bob", "id": "0b" * 20, "addresses": ["10.77.0.2"], **nothing}
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as lines:  # Who asked may have gone.
            while lines.readline():
                self.asked += 1
                path = self._paths.pop(0) if len(self._paths) > 1 else self._paths[0]
                time.sleep(self._wait_s)
                answer = reply if path is None else {**reply, "rtt_ms": 12.34, **path}
                lines.write(json.dumps({"ok": True, "result": answer}).encode() + b"\n")
                lines.flush()

    def close(self) -> None:
        self._thread.join(10)
        self._socket.close()


@pytest.mark.parametrize(("options", "tries"), [((), 3), (("-c", "1"), 1), (("-c", "4", "--json"), 4)])
def test_a_peer_that_never_answers_is_given_up(tmp_path: Path, options: tuple[str, ...], tries: int) -> None:
    node = FakeNode(tmp_path / "control", None)
    done = p2pvpn("ping", "bob", *options, "--control", tmp_path / "control")
    node.close()
    assert node.asked == tries
    assert done.returncode == 1
    assert done.stdout.count("\n") == tries
    assert done.stderr == "p2pvpn: bob did not answer: 'p2pvpn why bob' tells what is known of the way to it\n"


OVERLAY: dict[str, object] = {"path": "overlay", "hops": 3}
PROXY: dict[str, object] = {"path": "proxy", "via": "carol", "hops": 2}
DIRECT: dict[str, object] = {"path": "direct", "hops": 1, "endpoint": "192.0.2.1:7000"}


def test_ping_shows_the_path_of_each_reply_and_stops_once_direct(tmp_path: Path) -> None:
    node = FakeNode(tmp_path / "control", OVERLAY, PROXY, DIRECT)
    done = p2pvpn("ping", "bob", "--control", tmp_path / "control")
    node.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "pong from bob (10.77.0.2) via overlay (3 hops) in 12.3 ms",
        "pong from bob (10.77.0.2) via proxy carol in 12.3 ms",
        "pong from bob (10.77.0.2) via direct 192.0.2.1:7000 in 12.3 ms",
    ]


def test_ping_without_a_direct_path_in_time_succeeds_and_says_so(tmp_path: Path) -> None:
    node = FakeNode(tmp_path / "control", PROXY)
    done = p2pvpn("ping", "bob", "--timeout", "2", "--control", tmp_path / "control")
    node.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "pong from bob (10.77.0.2) via proxy carol in 12.3 ms"
    assert done.stdout.splitlines()[-1] == "no direct path: 'p2pvpn why bob' tells the reason"


def test_ping_does_not_wait_for_the_node_longer_than_told(tmp_path: Path) -> None:
    node = FakeNode(tmp_path / "control", PROXY, wait_s=3.0)
    done = p2pvpn("ping", "bob", "--timeout", "0.3", "--control", tmp_path / "control")
    node.close()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("p2pvpn: bob did not answer: ")


def test_the_log_is_limited_for_others_faults_but_not_for_errors() -> None:
    now = 0.0
    limit = daemon.LineLimit(lambda: now)

    def passes(name: str, level: int) -> logging.LogRecord | None:
        record = logging.LogRecord(name, level, "file", 1, "%s happened", ("it",), None)
        return record if limit.filter(record) else None

    passed = [passes("dht.node", logging.WARNING) for _ in range(1000)]
    assert sum(record is not None for record in passed) == daemon.LINES_AT_ONCE
    assert passes("dht.node", logging.ERROR)
    assert passes("ipop.daemon", logging.INFO)
    now += 1.0
    record = passes("dht.node", logging.WARNING)
    assert record is not None
    assert record.getMessage() == f"it happened (and {1000 - daemon.LINES_AT_ONCE} lines left out)"
    assert passes("dht.node", logging.WARNING) is None


def test_the_environment_may_name_the_node_that_commands_mean(tmp_path: Path) -> None:
    assert f"at '{tmp_path / 'one'}'" in refused("status", P2PVPN_CONTROL=str(tmp_path / "one"))
    assert f"at '{tmp_path / 'two'}'" in refused(
        "status", "--control", tmp_path / "two", P2PVPN_CONTROL=str(tmp_path / "one")
    )


def test_the_one_running_node_is_found_and_several_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SYSTEM_RUNTIME", tmp_path / "system")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "user"))
    with pytest.raises(SetupError, match="no p2pvpn node is running here"):
        places.only_socket()
    (tmp_path / "user" / "p2pvpn").mkdir(parents=True)
    (tmp_path / "system").mkdir()
    one, two = tmp_path / "system" / "one.sock", tmp_path / "user" / "p2pvpn" / "two.sock"
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(str(one))
        first.listen()
        second.bind(str(two))  # Left by a node that was killed: nobody listens.
        assert places.only_socket() == str(one)
        second.listen()
        with pytest.raises(SetupError, match=f"--control: {one}, {two}"):
            places.only_socket()


class Joining:
    """As much of a VpnNode as joining needs."""

    def __init__(self) -> None:
        self.started = self.ready = False
        self.told: list[list[Endpoint]] = []
        self.ring = self.parts = self.acquaintances = self
        self.unknown_names: tuple[str, ...] = ()

    def is_ready(self) -> bool:
        return self.ready

    def start(self, bootstraps: list[Endpoint]) -> None:
        self.started = True
        self.told.append(bootstraps)

    def use_bootstraps(self, bootstraps: list[Endpoint]) -> None:
        self.told.append(bootstraps)


class Join(Protocol):
    def __call__(
        self, bootstraps: list[str], names: dict[str, list[str]], told: int, known_after: int = 0
    ) -> Joining: ...


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Join:
    """Join through bootstraps until told of so many lists, in a world with these names, late ones if need be."""

    def run(bootstraps: list[str], names: dict[str, list[str]], told: int, known_after: int = 0) -> Joining:
        tries = 0

        def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
            nonlocal tries
            tries += 1
            if host not in names or tries <= known_after:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(0, 0, 0, "", (address, port)) for address in names[host]]

        async def joining() -> Joining:
            node = Joining()
            vpn: Any = node
            known = tuple(map(Bootstrap.from_text, bootstraps))
            task = asyncio.create_task(daemon._join(vpn, known, lambda: None))
            async with asyncio.timeout(PATIENCE_S):
                while len(node.told) < told:
                    await asyncio.sleep(0.005)
            task.cancel()
            return node

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(names_module, "FIRST_RETRY_S", 0.05)
        monkeypatch.setattr(names_module, "RETRY_S", 0.1)
        return asyncio.run(joining())

    return run


def test_addresses_need_no_dns(join: Join) -> None:
    told = join(["192.0.2.1:7", "[2001:db8::1]:8"], {}, told=1).told
    assert told == [[Endpoint("192.0.2.1", 7), Endpoint("2001:db8::1", 8)]]
    assert join([], {}, told=1).told == [[]]


def test_a_name_gives_all_its_addresses(join: Join) -> None:
    names = {"vpn.example": ["192.0.2.1", "2001:db8::1"]}
    assert join(["vpn.example:7"], names, told=1).told[0] == [Endpoint("192.0.2.1", 7), Endpoint("2001:db8::1", 7)]


def test_a_name_unknown_at_first_is_used_when_it_is_known(join: Join, caplog: pytest.LogCaptureFixture) -> None:
    names = {"vpn.example": ["192.0.2.1"]}
    told = join(["vpn.example:7", "192.0.2.9:9"], names, told=5, known_after=3).told
    # Once at the start, after each of the three tries that find nothing, and after the one that finds it.
    assert told == [[Endpoint("192.0.2.9", 9)]] * 4 + [[Endpoint("192.0.2.9", 9), Endpoint("192.0.2.1", 7)]]
    assert "cannot look up bootstrap 'vpn.example:7': Name or service not known" in caplog.text


def test_a_node_whose_bootstraps_nobody_knows_starts_all_the_same(join: Join) -> None:
    assert join(["vpn.example:7"], {}, told=1).told[0] == []


def test_every_bootstrap_that_cannot_be_looked_up_is_named_until_it_can(join: Join) -> None:
    wanted = ["one.invalid:7", "vpn.example:8", "two.invalid:9", "192.0.2.9:9"]
    assert join(wanted, {"vpn.example": ["192.0.2.1"]}, told=2).unknown_names == ("one.invalid:7", "two.invalid:9")
    assert join(["vpn.example:7"], {"vpn.example": ["192.0.2.1"]}, told=3, known_after=1).unknown_names == ()
