"""What every command that asks a running node has in common. † Shell module.

Options, the connection to the node, and how answers are printed. Heavy modules are imported when they are needed, so
that `--help` is quick.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ipop.control import Client

Control = Annotated[
    str | None,
    typer.Option("--control", metavar="SOCKET", envvar="P2PVPN_CONTROL", help="The node's control socket."),
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def client_of(control: str | None) -> Client:
    """A connection to the node with this control socket, or to the only one that runs here. Raises SetupError."""
    from ipop.control import Client

    if control is None:
        from ipop.places import only_socket

        control = only_socket()
    return Client(control)


def ask_node(control: str | None, command: str) -> Any:
    """What a node that runs answers at once. Raises SetupError."""
    from ipop.control import SOON_S

    with client_of(control) as client:
        return client.ask(command, SOON_S)


def print_json(value: object, indent: int | None = 2) -> None:
    print(json.dumps(value, indent=indent), flush=True)


def warn(text: str) -> None:
    print(f"p2pvpn: {text}", file=sys.stderr, flush=True)
