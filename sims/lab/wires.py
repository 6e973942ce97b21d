"""The wires of a laboratory †: asks `sims.lab.wire` for them and puts their ends where they belong."""

from __future__ import annotations

import json
import select
import sys
from typing import Any

from sims.lab.impairment import Impairment
from sims.lab.namespace import LabError, Namespace, end

ANSWER_LIMIT_S = 10.0


class Wires:
    """One process with all wires of a laboratory. It starts with the first of them."""

    def __init__(self) -> None:
        self._namespace = Namespace("the wires")
        self._process = self._namespace.spawn(
            sys.executable, "-m", "sims.lab.wire", "serve", stdin=-1, stdout=-1, stderr=None
        )
        self._made = 0

    def lay(self, name: str, near: Namespace, near_name: str, far: Namespace, far_name: str) -> Wire:
        """A perfect wire between an interface that it makes in one namespace and one that it makes in another."""
        self._made += 1
        ends = ((f"w{self._made}n", near, near_name), (f"w{self._made}f", far, far_name))
        key = f"{name} {self._made}"  # A host that moves has its wire anew.
        self.ask({"open": key, "near": ends[0][0], "far": ends[1][0]})
        self._namespace.ip(*(f"link set {made} netns {there.pid} name {called}" for made, there, called in ends))
        return Wire(self, key)

    def ask(self, command: dict[str, Any]) -> None:
        """Have a command done. Raises LabError when it can't be."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise LabError("the process that holds the wires has ended") from None
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_LIMIT_S)
        answer = self._process.stdout.readline().decode().strip() if readable else "no answer"
        if answer != "done":
            raise LabError(f"the wires did not do {json.dumps(command)}: {answer}")

    def close(self) -> None:
        end(self._process)
        self._namespace.close()


class Wire:
    """One of them. Up is away from the host, down towards it."""

    def __init__(self, wires: Wires, key: str) -> None:
        self._wires, self._key = wires, key
        self.up = self.down = Impairment()

    def change(self, up: Impairment | None = None, down: Impairment | None = None) -> None:
        """From now on do this to frames; None leaves a direction as it is. What is underway is not affected."""
        self.up, self.down = up or self.up, down or self.down
        self._wires.ask({"set": self._key, "up": self.up.as_dict(), "down": self.down.as_dict()})

    def close(self) -> None:
        """Take it away, and both interfaces with it."""
        self._wires.ask({"close": self._key})
