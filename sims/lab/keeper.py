"""Holds a laboratory for `p2pvpn-lab up` †, and does what the other commands ask of it from another terminal.

In the laboratory's folder, which only its user may open, are `lab.json` (who holds it, and each host's namespace) and
the socket `lab.sock`: one line of JSON asks, one line answers.

    {"do": "cut", "with": ["sym", "port"], "one_way": true}  ->  {"ok": true, "result": null}

The answer to `down` comes when everything is gone. When the keeper is killed, the kernel removes what it held, and
the next laboratory the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from sims.lab.namespace import LabError
from sims.lab.natlab import NatLab
from sims.lab.natprobe import Probes
from sims.lab.running import ABOUT, SOCKET

MAX_REQUEST_BYTES = 4096
REQUEST_LIMIT_S = 5.0


class Keeper:
    """The laboratory's end of the socket."""

    def __init__(self, lab: NatLab) -> None:
        self._lab = lab
        self._done: socket.socket | None = None  # Who asked for the end, and waits for it.
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(lab.folder / SOCKET))
        self._listening.listen(8)
        about = {
            "name": lab.plan.name,
            "pid": os.getpid(),
            "hosts": {host.name: host.namespace.pid for host in lab.hosts},
        }
        for host in lab.hosts:
            # Where `p2pvpn` looks for the socket of its node, when XDG_RUNTIME_DIR is the host's folder.
            (host.folder / "p2pvpn").mkdir()
            (host.folder / "p2pvpn" / "node").symlink_to(host.folder)
        draft = lab.folder / (ABOUT + ".new")
        draft.write_text(json.dumps(about))
        draft.rename(lab.folder / ABOUT)

    def serve(self) -> None:
        """Do what is asked, one thing after another, until somebody asks for the end."""
        while self._done is None:
            connection, _ = self._listening.accept()
            connection.settimeout(REQUEST_LIMIT_S)
            try:
                self._answer(connection)
            except OSError:
                connection.close()  # Whoever asked has gone, or never said what.

    def close(self) -> None:
        """To be called when the laboratory is gone: tells whoever asked for it."""
        self._listening.close()
        if self._done is not None:
            with contextlib.suppress(OSError):
                reply(self._done, {"ok": True, "result": None})
            self._done.close()

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            line = lines.readline(MAX_REQUEST_BYTES)
        try:
            request = json.loads(line)
            do, words = request.pop("do"), request.pop("with")
            if do == "down":
                self._done = connection
                return
            answer = {"ok": True, "result": OPERATIONS[do](self._lab, *words, **request)}
        except LabError as error:
            answer = {"ok": False, "error": str(error)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            answer = {"ok": False, "error": f"not understood: {line[:200]!r} ({error})"}
        reply(connection, answer)
        connection.close()


def reply(connection: socket.socket, answer: dict[str, Any]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")


# --- what can be asked


def status(lab: NatLab) -> list[dict[str, Any]]:
    """A row for each host."""
    return list(_rows(lab))


def _rows(lab: NatLab) -> Iterator[dict[str, Any]]:
    for host in lab.hosts:
        assert host.site is not None
        node, plan = lab.nodes.get(host.name), host.site.plan
        wires = [port.wire for port in host.ports() if port.wire is not None]
        yield {
            "host": host.name,
            "site": plan.name,
            "nat": str(plan.nat) + (f" behind {plan.carrier}" if plan.carrier else ""),
            "firewall": str(plan.firewall),
            "underlay": [address for address in (host.underlay4, host.underlay6) if address],
            "port": host.port,
            "outside": host.site.outside4 or None,
            "virtual": [str(host.member.address4), str(host.member.address6)] if host.bundle.exists() else [],
            "node": "none" if node is None else "runs" if node.process.poll() is None else "ended",
            "wires": [{"up": str(wire.up), "down": str(wire.down)} for wire in wires],
        }


def change_wire(lab: NatLab, name: str, up: bool, down: bool, **figures: Any) -> dict[str, str]:
    """Set these figures of a wire, in the directions named, and leave the others; what it is then."""
    wire = lab.wire(name)
    try:
        wire.change(replace(wire.up, **figures) if up else None, replace(wire.down, **figures) if down else None)
    except ValueError as error:
        raise LabError(str(error)) from None
    return {"up": str(wire.up), "down": str(wire.down)}


def classify(lab: NatLab, *names: str) -> dict[str, dict[str, Any] | None]:
    """The NAT behaviour seen from hosts, or from all of them; None where no UDP passes."""
    hosts = [lab.host(name) for name in names] or lab.hosts
    with Probes(lab) as probes:
        found = probes.classify(hosts)
    return {name: None if nat is None else asdict(nat) for name, nat in found.items()}


def punch(lab: NatLab, a: str, b: str) -> bool:
    """Whether a hole can be punched between two hosts."""
    for name in (a, b):
        lab.host(name)
    with Probes(lab) as probes:
        return probes.punch([(a, b)])[a, b]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "status": status,
    "cut": NatLab.cut,
    "mend": NatLab.mend,
    "wire": change_wire,
    "rebind": NatLab.rebind,
    "move": NatLab.move,
    "block-udp": NatLab.block_udp,
    "unblock-udp": partial(NatLab.block_udp, blocked=False),
    "classify": classify,
    "punch": punch,
}
