"""The `p2pvpn` command. † Shell module.

Parses words, prints answers, turns every SetupError into one line and exit code 1. It holds no protocol: `up` is
`ipop.daemon`, the network's files are `ipop.authority_files`, and the rest asks a running node over its control
socket. Everything heavy is imported by the command that needs it, so that `--help` and `status` are quick.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import sys
import time
from typing import Annotated, Any, NoReturn

import typer

from ipop import crawl_cli, group_cli, pinging
from ipop.asking import Control, Json
from ipop.asking import ask_node as _ask
from ipop.asking import client_of as _client
from ipop.asking import print_json as _print_json
from ipop.asking import warn as _warn
from ipop.errors import SetupError

# The parser's own exception, which typer has under different names: its click is inside of it, or beside it.
_WrongUsage: Any = typer.BadParameter.__base__

app = typer.Typer(
    help="A virtual private network with no server.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,  # Plain help: rich takes longer to load than the help to print.
    pretty_exceptions_enable=False,
)

Peer = Annotated[str, typer.Argument(metavar="NAME|IP", help="A node's name, virtual address or id.")]


@app.callback()
def overview(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from ipop.version import program_version

        installed = program_version()
        print(f"p2pvpn {installed}" if installed else "p2pvpn, not installed")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command()
def init(
    net: Annotated[str, typer.Argument(metavar="NET", help="The network's name.")],
    subnet: Annotated[str, typer.Option(metavar="SUBNET", help="Its virtual IPv4 addresses, as 10.77.0.0/16.")],
    directory: Annotated[str, typer.Option("--dir", metavar="DIR", help="Where its files go.")] = ".",
) -> None:
    """Make a new network: DIR/NET.ca (private) and DIR/NET.network (public profile)."""
    from pathlib import Path

    from ipop import authority_files

    files = authority_files.init(net, subnet, Path(directory))
    print(f"{files.authority}  private: issues certificates; keep it off the network and backed up")
    print(f"{files.profile}  public: the network's profile")


@app.command()
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node's name; the same name again renews it.")],
    ca: Annotated[str, typer.Option(metavar="FILE", help="The network's private file, NET.ca.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="Where the node's bundle goes.")],
    address: Annotated[str | None, typer.Option(metavar="IP", help="Its virtual IPv4 address; else the next.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(metavar="GROUP", help="A group it belongs to; else those it had. Repeatable.")
    ] = None,
    no_groups: Annotated[bool, typer.Option("--no-groups", help="It belongs to no group any more.")] = False,
) -> None:
    """Write a node's bundle: key, certificate and network profile."""
    from pathlib import Path

    from ipop import authority_files

    if group and no_groups:
        raise typer.BadParameter("--group and --no-groups exclude each other")
    groups = () if no_groups else group
    bundle = authority_files.issue(name, Path(ca), Path(out), address, warn=_warn, groups=groups)
    member = bundle.member
    named = "".join(f" {grant.group}" for grant in member.grants)
    print(f"{out}  {member.name} {member.address4} {member.address6}" + (f"  groups:{named}" if named else ""))


@app.command()
def up(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The node's bundle.")],
    listen: Annotated[str | None, typer.Option(metavar="IP:PORT", help="Where it listens; else 0.0.0.0:7077.")] = None,
    bootstrap: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="A node to join through. May be repeated.")
    ] = None,
    tap: Annotated[str | None, typer.Option(metavar="NAME", help="The TAP device's name; else p2pvpnN.")] = None,
    state: Annotated[str | None, typer.Option(metavar="DIR", help="Where it keeps what it learns of peers.")] = None,
    control: Control = None,
    dscp: Annotated[bool, typer.Option(help="Whether outer packets show the DSCP of what is inside.")] = True,
    underlay_mtu: Annotated[
        int | None, typer.Option(metavar="BYTES", help="The MTU of the links that the node is on; else 1500.")
    ] = None,
    mtu: Annotated[
        int | None, typer.Option(metavar="BYTES", help="The virtual network's MTU; else 1400, less on narrow links.")
    ] = None,
    no_proxy: Annotated[bool, typer.Option("--no-proxy", help="Never relay for other members.")] = False,
    proxy_mbit: Annotated[
        float | None, typer.Option(metavar="N", help="Relay at most N Mbit/s for others; else there is no limit.")
    ] = None,
    no_portmap: Annotated[
        bool, typer.Option("--no-portmap", help="Never ask the router to forward a port (PCP, NAT-PMP, UPnP).")
    ] = False,
    no_lan: Annotated[bool, typer.Option("--no-lan", help="Don't look for members in the local network.")] = False,
    no_multicast: Annotated[
        bool, typer.Option("--no-multicast", help="Carry no multicast and no broadcast, in neither direction.")
    ] = False,
    multicast_route: Annotated[
        bool,
        typer.Option("--multicast-route", help="IPv4 multicast of programs that choose no interface goes here."),
    ] = False,
) -> None:
    """Run a node in the foreground. Prints 'ready NAME ADDRESS TAP' when its TAP device is up.

    P2PVPN_LOG=debug in the environment makes it say more.
    """
    from dht.bootstrap import Bootstrap
    from dht.host import Endpoint
    from dht.sizes import DEFAULT_UNDERLAY_MTU, LEAST_UNDERLAY_MTU, MOST_UNDERLAY_MTU
    from ipop.config import DEFAULT_LISTEN, LEAST_TAP_MTU, MOST_TAP_MTU, UpSettings, shortcuts_config
    from ipop.version import program_version

    links = DEFAULT_UNDERLAY_MTU if underlay_mtu is None else underlay_mtu
    if not LEAST_UNDERLAY_MTU <= links <= MOST_UNDERLAY_MTU:
        raise typer.BadParameter(f"--underlay-mtu is from {LEAST_UNDERLAY_MTU} to {MOST_UNDERLAY_MTU}, not {links}")
    if mtu is not None and not LEAST_TAP_MTU <= mtu <= MOST_TAP_MTU:
        raise typer.BadParameter(f"--mtu is from {LEAST_TAP_MTU} (the least for IPv6) to {MOST_TAP_MTU}, not {mtu}")

    try:
        endpoint = DEFAULT_LISTEN if listen is None else Endpoint.from_text(listen)
        bootstraps = tuple(Bootstrap.from_text(text) for text in bootstrap or ())
        shortcuts = shortcuts_config(proxy=not no_proxy, proxy_mbit=proxy_mbit, portmap=not no_portmap, lan=not no_lan)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if no_multicast and multicast_route:
        raise typer.BadParameter("--no-multicast and --multicast-route contradict each other: leave one of them out")
    settings = UpSettings(
        file,
        endpoint,
        bootstraps,
        tap,
        state,
        control,
        dscp,
        links,
        mtu,
        shortcuts,
        multicast=not no_multicast,
        multicast_route=multicast_route,
        version=program_version(),
    )
    _become_node(settings.to_text())


@app.command()
def status(as_json: Json = False, control: Control = None) -> None:
    """Show the node, its place in the ring and its peers."""
    answer = _ask(control, "status")
    if as_json:
        _print_json(answer)
    else:
        from ipop import tables

        tables.show_status(answer, time.time())


@app.command()
def peers(as_json: Json = False, control: Control = None) -> None:
    """Show the nodes that this one has a session with."""
    answer = _ask(control, "peers")
    if as_json:
        _print_json(answer)
    else:
        from ipop import tables

        tables.show_peers(answer)


@app.command()
def ping(
    peer: Peer,
    count: Annotated[
        int | None,
        typer.Option(
            "-c",
            metavar="N",
            min=1,
            help=f"How many pings at most; else {pinging.DEFAULT_COUNT}, or {pinging.ENOUGH_SILENT} silent ones.",
        ),
    ] = None,
    until_direct: Annotated[bool, typer.Option(help="Stop at the first reply over a direct path.")] = True,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="S", min=pinging.MIN_TIMEOUT_S, help="Stop after S seconds; without -c, ping that long."),
    ] = None,
    as_json: Json = False,
    control: Control = None,
) -> None:
    """Ping a node, and show the path of every reply. Succeeds when there was a reply, direct or not."""
    from ipop.control import PATIENCE_S, TooLate
    from ipop.wording import route_text

    with _client(control) as client:

        def ask(within_s: float | None) -> dict[str, Any] | None:
            try:
                reply: dict[str, Any] = client.ask("ping", min(PATIENCE_S, within_s or PATIENCE_S), peer=peer)
            except TooLate:
                if within_s is None or within_s > PATIENCE_S:
                    raise
                return None
            return reply

        reply: dict[str, Any] | None = None
        answered = False
        for reply in pinging.replies(pinging.Limits(count, until_direct, timeout), ask, time.monotonic, time.sleep):
            answered = answered or reply["rtt_ms"] is not None
            if as_json:
                _print_json(reply, indent=None)
            elif reply["rtt_ms"] is None:
                print(f"no answer from {reply['peer']}", flush=True)
            else:
                address = reply["addresses"][0] if reply["addresses"] else reply["id"]
                way = f"via {route_text(reply)} in {reply['rtt_ms']:.1f} ms"
                print(f"pong from {reply['peer']} ({address}) {way}", flush=True)
    if not answered:
        raise SetupError(f"{peer} did not answer: 'p2pvpn why {peer}' tells what is known of the way to it")
    if until_direct and count is None and not as_json and reply is not None and reply["path"] != "direct":
        print(f"no direct path: 'p2pvpn why {peer}' tells the reason")


@app.command()
def why(peer: Peer, as_json: Json = False, control: Control = None) -> None:
    """Explain the path to a node, and why it is not direct."""
    from ipop.control import SOON_S

    with _client(control) as client:
        client.ask("peers", SOON_S)  # Finding a node may take its time; a node that is stopped must not.
        answer = client.ask("why", peer=peer)
    if as_json:
        _print_json(answer)
    else:
        from ipop import path_tables

        path_tables.show_why(answer)


@app.command()
def shortcuts(as_json: Json = False, control: Control = None) -> None:
    """Show every peer that this node has a path of its own to, or wants one."""
    answer = _ask(control, "shortcuts")
    if as_json:
        _print_json(answer)
    else:
        from ipop import path_tables

        path_tables.show_shortcuts(answer)


@app.command()
def proxies(as_json: Json = False, control: Control = None) -> None:
    """Show which members relay for this node, and for whom it relays."""
    answer = _ask(control, "proxies")
    if as_json:
        _print_json(answer)
    else:
        from ipop import path_tables

        path_tables.show_proxies(answer)


@app.command()
def netcheck(
    stun: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ask this STUN server too where it sees this machine.")
    ] = None,
    as_json: Json = False,
    control: Control = None,
) -> None:
    """Show what the network in front of this node lets through."""
    from dht.bootstrap import Bootstrap

    try:
        server = None if stun is None else Bootstrap.from_text(stun)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    answer = _ask(control, "netcheck")
    if server is not None:
        from ipop.stun_query import ask_stun

        answer["stun"] = {"server": str(server), **ask_stun(server)}
    if as_json:
        _print_json(answer)
    else:
        from ipop import path_tables

        path_tables.show_netcheck(answer)


@app.command()
def down(as_json: Json = False, control: Control = None) -> None:
    """Stop the node. Returns when it has left the ring and cleaned up."""
    with _client(control) as client:
        client.ask("down")
        client.wait_for_end()
    if as_json:
        _print_json({"down": True})


app.command()(crawl_cli.crawl)
app.command()(group_cli.groups)
app.add_typer(group_cli.app, name="group")


def _become_node(settings: str) -> NoReturn:
    """Go on as `ipop.daemon`, in this same process. Begun anew, it doesn't hold the parser of command lines and all
    that came with it, some 15 MB, for as long as the node runs."""
    import os
    from pathlib import Path

    # -P: never import from the directory that a privileged user happens to be in.
    path = [str(Path(__file__).resolve().parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-P", "-m", "ipop.daemon", settings], environment)


def _open_streams() -> None:
    """Where the shell has closed a stream (`>&-`), what is opened next would take its number, and be written to."""
    import os

    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # Gets the lowest free number.
    # Python has None for a closed stream, to which print is silent, but flush and rich are not.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _usage_text(error: Any) -> str:
    """What is wrong with a command line, in one line."""
    from ipop.wording import shown

    what = error.format_message().removeprefix("Invalid value: ").rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "p2pvpn"
    return f"{what[:1].lower()}{shown(what[1:], 250)} (see '{command} --help')"


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 failed, 2 wrong usage."""
    _open_streams()
    try:
        sys.exit(app(prog_name="p2pvpn", standalone_mode=False))
    except SetupError as error:
        _warn(str(error))
        sys.exit(1)
    except _WrongUsage as error:
        _warn(_usage_text(error))
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)  # As a shell says of Ctrl-C.
    except BrokenPipeError:
        # The reader of a pipe has seen enough. Python must not complain at its own exit.
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
