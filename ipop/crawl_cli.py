"""`p2pvpn crawl`. † Shell module.

Asks a running node to look at the whole ring, prints what it saw, and draws it. Heavy modules are imported when they
are needed.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

from typing import Annotated

import typer

from ipop.asking import Control, Json, client_of, print_json
from ipop.errors import SetupError

TREE_DEADLINE_S = 10.0
WALK_DEADLINE_S = 300.0
LEAST_DEADLINE_S = 0.1
MOST_DEADLINE_S = 600.0
MARGIN_S = 5.0


def crawl(
    picture: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the ring: FILE.svg, or FILE.dot for Graphviz.")
    ] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Walk from successor to successor instead: slow, for comparison.")
    ] = False,
    deadline: Annotated[
        float | None,
        typer.Option(
            metavar="S", min=LEAST_DEADLINE_S, max=MOST_DEADLINE_S, help="Show what there is after S seconds."
        ),
    ] = None,
    as_json: Json = False,
    control: Control = None,
) -> None:
    """Show every node of the ring, its neighbours, and whether they agree on who is next to whom."""
    from ipop.control import SOON_S
    from ipop.ring_picture import draw, is_drawable

    if picture is not None and not is_drawable(picture):
        raise typer.BadParameter(f"'{picture}' ends neither in .svg nor in .dot")
    deadline_s = deadline or (WALK_DEADLINE_S if sequential else TREE_DEADLINE_S)
    with client_of(control) as client:
        client.ask("peers", SOON_S)  # A crawl may take its time; a node that is stopped must not.
        answer = client.ask("crawl", deadline_s + MARGIN_S, deadline_s=deadline_s, sequential=sequential)
    if picture is not None:
        text = draw(answer, picture)
        try:
            with open(picture, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise SetupError(f"cannot write '{picture}': {error.strerror or error}") from None
    if as_json:
        print_json(answer)
    else:
        from ipop import crawl_tables

        crawl_tables.show_crawl(answer)
