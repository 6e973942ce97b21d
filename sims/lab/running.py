"""Finds the laboratories that `p2pvpn-lab up` holds †, and asks them for things; `sims.lab.keeper` answers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sims.lab.lab import FOLDER_PREFIX
from sims.lab.namespace import LabError

ABOUT, SOCKET = "lab.json", "lab.sock"
ANSWER_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Running:
    """A laboratory that somebody holds: its name, the holder's process, and each host's namespace and folder."""

    name: str
    folder: Path
    pid: int
    hosts: dict[str, int]

    def host(self, name: str) -> tuple[int, Path]:
        """The process that holds a host's namespace, and the host's folder. Raises LabError when there is none."""
        if name not in self.hosts:
            raise LabError(f"there is no host '{name}' in {self.name}; there are: {', '.join(self.hosts)}")
        return self.hosts[name], self.folder / name

    def ask(self, do: str, *words: str | None, **options: Any) -> Any:
        """Have something done. Raises LabError with what is wrong."""
        request = json.dumps({"do": do, "with": words, **options}) + "\n"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_LIMIT_S)
            try:
                connection.connect(str(self.folder / SOCKET))
                connection.sendall(request.encode())
                with connection.makefile() as answers:
                    answer = json.loads(answers.readline() or '{"ok": false, "error": "it ended without an answer"}')
            except OSError as error:
                raise LabError(f"the laboratory {self.name} does not answer: {error}") from None
        if not answer["ok"]:
            raise LabError(answer["error"])
        return answer["result"]


def running() -> list[Running]:
    """The laboratories of this user that are held now."""
    found = []
    for about in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/{ABOUT}"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if is_held(about.parent):
                held = json.loads(about.read_text())
                found.append(Running(held["name"], about.parent, held["pid"], held["hosts"]))
    return found


def is_held(folder: Path) -> bool:
    """Whether the process that made a laboratory's folder is alive. Raises OSError when that can't be seen."""
    with (folder / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def the_running(name: str | None) -> Running:
    """The one that a command means, by its name or its holder's process.

    Raises LabError when there is none, or more than one and no name."""
    found = [lab for lab in running() if name in (None, lab.name, str(lab.pid))]
    if not found:
        which = f"laboratory '{name}'" if name else "laboratory"
        raise LabError(f"no {which} is up: start one with 'p2pvpn-lab up FILE' in another terminal")
    if len(found) > 1:
        twins = len({lab.name for lab in found}) < len(found)
        listed = ", ".join(f"{lab.pid} ({lab.name})" if twins else lab.name for lab in found)
        raise LabError(f"several laboratories are up, choose one with --lab: {listed}")
    return found[0]


def refuse_twins(name: str) -> None:
    """Raises LabError when a laboratory of this name is up: commands could not tell the two apart."""
    for lab in running():
        if lab.name == name:
            raise LabError(
                f"a laboratory '{name}' is up already (process {lab.pid}): end it with"
                f" 'p2pvpn-lab down --lab {lab.pid}', or copy the file under another name"
            )
