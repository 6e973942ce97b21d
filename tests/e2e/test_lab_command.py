"""The `p2pvpn-lab` command: up, work in it from another terminal, down; and nothing is left, however it ends."""

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
from pathlib import Path

import pytest

from sims.lab.lab import FOLDER_PREFIX, sweep, wait_until
from sims.lab.namespace import end
from tests.e2e.test_lab import alive

COMMAND = Path(sys.executable).with_name("p2pvpn-lab")
UP_LIMIT_S = 90.0


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
        assert terminal.run("exec", "guest", "--", "echo", "--", "-n").stdout == "-- -n\n"
        twin = terminal.run("up", str(tmp_path / "two.toml"))
        assert (twin.returncode, twin.stderr.count("\n")) == (1, 1)
        assert f"'two' is up already (process {terminal.up.pid}): end it with 'p2pvpn-lab down --lab" in twin.stderr
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
        down = terminal.run("down", "--lab", str(terminal.up.pid))
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
