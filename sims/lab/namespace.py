"""One network namespace † and the commands that run in it.

The namespace has no name: it lives as long as its holder, a sleeping process that the kernel kills when the
process that made it ends, however that ends. So do all commands started here. A laboratory thus can't outlive
its maker, not even one killed with SIGKILL.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

STOP_WAIT_S = 5.0

Output = int | IO[bytes] | None


class LabError(Exception):
    """The laboratory could not do what was asked; the text is one line."""


def missing_tools(names: Iterable[str]) -> list[str]:
    """Which of these commands this machine lacks."""
    return [name for name in names if shutil.which(name) is None]


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process, softly first, and wait until it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def mortal(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` until it ends or this process does."""
    # The kernel signals only deaths to come, so the shell looks whether the parent has died just before.
    return ["setpriv", "--pdeathsig", "KILL", "sh", "-c", f'[ $PPID = {os.getpid()} ] && exec "$@"', "sh", *command]


def run(command: Sequence[str], timeout_s: float, stdin_text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end and keep what it prints. Raises LabError when it takes too long."""
    try:
        return subprocess.run(
            command,
            input=stdin_text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"'{' '.join(command)}' did not end within {timeout_s} s") from None


class Namespace:
    """A network namespace with nothing but a loopback interface to begin with."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder = subprocess.Popen(
            mortal(["unshare", "--net", "sh", "-c", "echo made; exec sleep infinity"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"made\n":
            reason = self._holder.stderr.read().decode(errors="replace").strip()
            end(self._holder)
            raise LabError(f"can't make the network namespace of {name}: {reason}")
        self.ip("link set lo up")

    @property
    def pid(self) -> int:
        """The holder: `nsenter --net --target PID` enters this namespace."""
        return self._holder.pid

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` inside, and dies with this process."""
        return mortal(["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *(str(word) for word in command)])

    def spawn(
        self,
        *command: str | Path,
        stdin: Output = subprocess.DEVNULL,
        stdout: Output = subprocess.DEVNULL,
        stderr: Output = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command inside. Whoever starts it ends it."""
        return subprocess.Popen(
            self.command(command),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            # An interrupt from the keyboard is for the laboratory alone, which then ends things in order.
            start_new_session=True,
        )

    def run(
        self, *command: str | Path, timeout_s: float = 60.0, stdin_text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end. Raises LabError when that takes longer than `timeout_s`."""
        return run(self.command(command), timeout_s, stdin_text)

    def ip(self, *lines: str) -> None:
        """Run lines of `ip -batch` inside. Raises LabError at the first that fails."""
        done = self.run("ip", "-batch", "-", stdin_text="\n".join(lines) + "\n")
        if done.returncode != 0:
            raise LabError(f"ip failed in the namespace of {self.name}: {done.stderr.strip()}")

    def close(self) -> None:
        """Let go of the namespace; the kernel removes it with its last process."""
        if self._holder.poll() is None:
            self._holder.send_signal(signal.SIGKILL)
        end(self._holder)
