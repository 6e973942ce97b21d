"""The `p2pvpn-lab` command †: real nodes behind real NATs on this machine, as a TOML file describes them.

`up` holds the laboratory in the foreground; the others speak to it from another terminal, see `sims.lab.keeper`.
Everything heavy is imported by the command that needs it.
It needs root, or the root of a user namespace (`unshare -Urnm`), and touches nothing outside of its own namespaces.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from sims.lab.namespace import LabError
from sims.lab.running import refuse_twins, the_running

EXAMPLES = Path(__file__).with_name("labs")

# The parser's own exception, which typer has under different names: its click is inside of it, or beside it.
_WrongUsage: Any = typer.BadParameter.__base__

app = typer.Typer(
    help="Real nodes behind real NATs on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Which = Annotated[str | None, typer.Option("--lab", metavar="NAME", help="Which laboratory, when several are up.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Place = Annotated[str, typer.Argument(metavar="NAME", help="A host or a site.")]
Other = Annotated[str | None, typer.Argument(metavar="NAME", help="Another; else everybody.")]


class Interrupted(BaseException):
    """A signal asked for the end. Not a LabError: nothing is wrong."""


def interrupted(number: int, _frame: FrameType | None) -> None:
    # Once: a second Ctrl-C must not cut the cleaning short.
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def plan_path(file: str) -> Path:
    """The file itself, or the shipped example of that name. Raises LabFileError."""
    from sims.lab.plan_file import LabFileError
    from sims.toml_source import suggestion

    path = Path(file)
    if path.exists() or "/" in file or file.endswith(".toml"):
        return path
    examples = sorted(example.stem for example in EXAMPLES.glob("*.toml"))
    if file not in examples:
        listed = ", ".join(examples)
        raise LabFileError(f"{file}: neither a file nor an example{suggestion(file, examples)}; these are: {listed}")
    return EXAMPLES / f"{file}.toml"


@app.command()
def up(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A TOML file; or grid, home-office, bad-line.")],
    nodes: Annotated[bool, typer.Option(help="Start p2pvpn on every host.")] = True,
) -> None:
    """Build a laboratory and hold it until 'down' or Ctrl-C. Prints 'up NAME' when its nodes are ready."""
    from sims.lab.keeper import Keeper, status
    from sims.lab.natlab import NatLab
    from sims.lab.plan_file import read_plan
    from sims.lab.tables import show_hosts

    start = time.monotonic()
    plan = read_plan(plan_path(file))
    refuse_twins(plan.name)
    with NatLab(plan) as lab:
        keeper = Keeper(lab)
        try:
            lab.issue_all()
            if nodes:
                lab.start_all()
                lab.wait_ready()
            show_hosts(status(lab))
            print(
                f"up {plan.name} after {time.monotonic() - start:.1f} s; Ctrl-C or 'p2pvpn-lab down' ends it",
                flush=True,
            )
            keeper.serve()
        finally:
            lab.close()
            keeper.close()


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec_(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A host.")],
    command: Annotated[list[str], typer.Argument(metavar="CMD...", help="What to run there.")],
    lab: Which = None,
) -> None:
    """Run a command on a host, such as 'p2pvpn peers', 'ping 10.77.0.2' or a shell. Its exit code is this one's."""
    from sims.lab.enter import enter

    if command[0] == "--":  # As people write it who know other tools.
        del command[0]
    if not command:
        raise typer.BadParameter("what is to be run there?")
    raise typer.Exit(enter(the_running(lab), node, command))


@app.command()
def down(lab: Which = None) -> None:
    """End the laboratory. Returns when nothing of it is left."""
    the_running(lab).ask("down")


@app.command("status")
def status_(as_json: Json = False, lab: Which = None) -> None:
    """Show where every host is, and what is between it and the internet."""
    from sims.lab.tables import show_hosts

    rows = the_running(lab).ask("status")
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        show_hosts(rows)


@app.command()
def cut(
    a: Place,
    b: Other = None,
    one_way: Annotated[bool, typer.Option("--one-way", help="Only what the first sends.")] = False,
    lab: Which = None,
) -> None:
    """Lose what two hosts or sites send each other, or one and everybody. Nobody is told."""
    the_running(lab).ask("cut", a, b, one_way=one_way)


@app.command()
def mend(a: Place, b: Other = None, lab: Which = None) -> None:
    """Undo 'cut' of the same."""
    the_running(lab).ask("mend", a, b)


@app.command()
def wire(
    name: Place,
    delay_ms: Annotated[float | None, typer.Option()] = None,
    jitter_ms: Annotated[float | None, typer.Option(help="Plus or minus, in order.")] = None,
    loss_percent: Annotated[float | None, typer.Option()] = None,
    duplicate_percent: Annotated[float | None, typer.Option()] = None,
    reorder_percent: Annotated[float | None, typer.Option(help="These overtake all others.")] = None,
    rate_mbit: Annotated[float | None, typer.Option(help="0: no limit.")] = None,
    blackhole_bytes: Annotated[int | None, typer.Option(help="Lose longer packets; 0: none.")] = None,
    only: Annotated[str | None, typer.Option(metavar="up|down", help="One direction; else both.")] = None,
    lab: Which = None,
) -> None:
    """Change a wire, or show it. Only links with `wire` in the file have one."""
    if only not in (None, "up", "down"):
        raise typer.BadParameter(f"--only is up or down, not {only!r}")
    figures = {
        "delay_ms": delay_ms,
        "jitter_ms": jitter_ms,
        "loss_percent": loss_percent,
        "duplicate_percent": duplicate_percent,
        "reorder_percent": reorder_percent,
        "rate_mbit": rate_mbit,
        "blackhole_bytes": blackhole_bytes,
    }
    changed = {key: value for key, value in figures.items() if value is not None}
    now = the_running(lab).ask("wire", name, up=only != "down", down=only != "up", **changed)
    print(f"up: {now['up']}\ndown: {now['down']}")


@app.command()
def rebind(name: Place, lab: Which = None) -> None:
    """Make a NAT forget its mappings, as after a restart; the new ones have other ports."""
    the_running(lab).ask("rebind", name)


@app.command()
def move(
    host: Annotated[str, typer.Argument(metavar="HOST")],
    site: Annotated[str | None, typer.Argument(metavar="SITE", help="A site, or 'internet'.")] = None,
    lab: Which = None,
) -> None:
    """Move a host to another site; without one, to another address where it is."""
    the_running(lab).ask("move", host, site)


@app.command("block-udp")
def block_udp(name: Place, lab: Which = None) -> None:
    """Lose all UDP on a link, in both directions."""
    the_running(lab).ask("block-udp", name)


@app.command("unblock-udp")
def unblock_udp(name: Place, lab: Which = None) -> None:
    """Undo 'block-udp'."""
    the_running(lab).ask("unblock-udp", name)


@app.command()
def classify(
    hosts: Annotated[list[str] | None, typer.Argument(metavar="HOST...", help="Else all.")] = None,
    as_json: Json = False,
    lab: Which = None,
) -> None:
    """Find out how NATs behave, in the terms of RFC 4787."""
    from sims.lab.tables import show_behaviours

    found = the_running(lab).ask("classify", *(hosts or []))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show_behaviours(found)


@app.command()
def punch(a: Place, b: Place, lab: Which = None) -> None:
    """Try to punch a hole between two hosts, without p2pvpn. Exit code 1 when it can't be done."""
    done = the_running(lab).ask("punch", a, b)
    print("they hear each other" if done else "they do not hear each other")
    raise typer.Exit(0 if done else 1)


@app.command()
def demo() -> None:
    """Show nodes behind every kind of NAT, in a minute; ends with PASS or FAIL."""
    from sims.lab.natdemo import demonstrate

    raise typer.Exit(0 if demonstrate(EXAMPLES / "grid.toml") else 1)


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 failed, 2 wrong usage; `exec` has its command's."""
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        sys.exit(app(prog_name="p2pvpn-lab", standalone_mode=False))
    except LabError as error:
        print(f"p2pvpn-lab: {error}", file=sys.stderr)
        sys.exit(1)
    except _WrongUsage as error:
        print(f"p2pvpn-lab: {error.format_message()} (see 'p2pvpn-lab --help')", file=sys.stderr)
        sys.exit(2)
    except Interrupted as name:
        print(f"p2pvpn-lab: interrupted by {name}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
