"""`p2pvpn groups` and `p2pvpn group ...`. † Shell module.

Asks a running node, but for `group secret`, which needs none.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

from typing import Annotated

import typer

from ipop.asking import Control, Json, client_of, print_json

app = typer.Typer(help="Join and leave groups; make the secrets that open them.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The group's name.")]


def groups(as_json: Json = False, control: Control = None) -> None:
    """Show the groups that this node is in, who else is, and what multicast is doing."""
    from ipop.control import SOON_S

    with client_of(control) as client:
        client.ask("peers", SOON_S)  # Asking the members may take its time; a node that is stopped must not.
        answer = client.ask("groups")
    if as_json:
        print_json(answer)
    else:
        from ipop import group_tables

        group_tables.show_groups(answer)


@app.command()
def join(
    name: Name,
    secret: Annotated[
        str | None, typer.Option(metavar="FILE", help="The secret that opens it; else the certificate must name it.")
    ] = None,
    as_json: Json = False,
    control: Control = None,
) -> None:
    """Be in a group from now on, also after a restart."""
    from ipop.group_files import read_secret

    text = None if secret is None else read_secret(secret)
    with client_of(control) as client:
        answer = client.ask("group-join", name=name, secret=text)
    if as_json:
        print_json(answer)


@app.command()
def leave(name: Name, as_json: Json = False, control: Control = None) -> None:
    """Be in a group no longer."""
    with client_of(control) as client:
        answer = client.ask("group-leave", name=name)
    if as_json:
        print_json(answer)


@app.command("secret")
def make_secret(
    out: Annotated[str, typer.Option(metavar="FILE", help="Where it goes (mode 0600); give it to the members.")],
    after: Annotated[
        str | None, typer.Option(metavar="FILE", help="The secret that it takes the place of: who lacks it is out.")
    ] = None,
) -> None:
    """Make a secret that opens a group."""
    from ipop.group_files import write_secret

    epoch = write_secret(out, after)
    print(f"{out}  epoch {epoch}")
