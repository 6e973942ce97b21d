"""One running `p2pvpn up` †: its process, its ready line, its log and what it answers to commands."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipop.control import Client
from ipop.errors import SetupError
from sims.lab.namespace import LabError, Namespace, end

READY_LIMIT_S = 60.0


class LabNode:
    """A node on a laboratory host, from its start until `close`."""

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        command: Sequence[str | Path],
        folder: Path,
        client: Sequence[str | Path],
    ) -> None:
        self.name = name
        self.address = ""
        self.tap = ""
        self.started_at = time.monotonic()
        self.ready_at = 0.0
        self.log_file = folder / "log"
        self._namespace = namespace
        self._control = folder / "control"
        self._client = client
        with self.log_file.open("ab") as log:
            self.process = namespace.spawn(*command, stdout=subprocess.PIPE, stderr=log)

    def wait_ready(self, limit_s: float = READY_LIMIT_S) -> LabNode:
        """Wait for the line `ready NAME ADDRESS TAP`. Raises LabError with the end of the log."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], limit_s)
        line = self.process.stdout.readline().decode() if readable else ""
        self.ready_at = time.monotonic()
        match line.split():
            case ["ready", name, address, tap] if name == self.name:
                self.address, self.tap = address, tap
                return self
        last = "\n".join(self.log().splitlines()[-10:])
        raise LabError(f"{self.name} printed {line!r} instead of its ready line; its log ends with:\n{last}")

    def log(self) -> str:
        """All it has logged, also before a restart."""
        return self.log_file.read_text(errors="replace")

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `p2pvpn WORDS --control ...` against this node."""
        return self._namespace.run(*self._client, *words, "--control", self._control)

    def ask_json(self, *words: str) -> Any:
        """What `p2pvpn WORDS --json` prints. Raises LabError when the command fails."""
        done = self.ask(*words, "--json")
        if done.returncode != 0:
            raise LabError(f"p2pvpn {' '.join(words)} failed on {self.name}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def status(self) -> Any:
        """What `p2pvpn status --json` prints, without a process for it: onlookers who ask many nodes again and again
        must not take the processor from what they watch. Raises LabError when the node does not answer."""
        try:
            with Client(str(self._control)) as client:
                return client.ask("status")
        except SetupError as error:
            raise LabError(f"{self.name} did not tell its status: {error}") from None

    def kill(self) -> None:
        """SIGKILL: no time to say goodbye."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def close(self) -> None:
        if self.process.poll() is None:
            self.thaw()  # a frozen process doesn't hear SIGTERM
        end(self.process)
