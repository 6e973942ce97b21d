"""The shape of the code, read from its imports (DESIGN, sections 1 and 2).

Packages import leftwards only (dht <- shortcuts <- ipop <- sims), modules never in a circle, and only shells
reach the world: the clock, sockets, threads, files and randomness come to all others through a seam.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dht", "shortcuts", "ipop", "sims")

# The shells, all of them. A module that joins this list needs a reason that a seam can't give.
SHELLS = {
    "dht.addresses",
    "dht.aio",
    "dht.everybody",
    "dht.files",
    "dht.inbox",
    "dht.names",
    "dht.packet_loop",
    "dht.timers",
    "dht.udp",
    "dht.udp_batch",
    "dht.udp_intake",
    "dht.udp_port",
    "ipop.asking",
    "ipop.authority_files",
    "ipop.cli",
    "ipop.control",
    "ipop.crawl_cli",
    "ipop.daemon",
    "ipop.device",
    "ipop.device_setup",
    "ipop.embed",
    "ipop.fastpath",
    "ipop.group_cli",
    "ipop.group_files",
    "ipop.notify",
    "ipop.places",
    "ipop.stun_query",
    "ipop.surroundings",
    "ipop.tap_offload",
    "sims.checksums",
    "sims.cli",
    "sims.coordinates",
    "sims.embed",
    "shortcuts.gateway",
    "shortcuts.multicast",
    "shortcuts.upnp",
    "sims.engine",
    "sims.executor",
    "sims.figures",
    "sims.groups",
    "sims.graph",
    "sims.identities",
    "sims.plots",
    "sims.proxies",
    "sims.results",
    "sims.routability",
    "sims.runner",
    "sims.scenario.perform",
    "sims.shard_process",
    "sims.shards",
    "sims.speed",
    "sims.world",
}
SHELL_PACKAGES = ("sims.lab",)

WORLD = {
    "asyncio",
    "concurrent",
    "fcntl",
    "multiprocessing",
    "os",
    "pathlib",
    "pyroute2",
    "pytun",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
    "uvloop",
}
CLOCKS = {"now", "utcnow", "today"}  # of datetime and date


def modules() -> dict[str, ast.Module]:
    """Every module of the four packages, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(), str(path))
    return found


MODULES = modules()


def is_shell(name: str) -> bool:
    return name in SHELLS or any(name == package or name.startswith(package + ".") for package in SHELL_PACKAGES)


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted name behind every import, wherever in the module it stands: `from a import b` may mean a.b."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"line {statement.lineno}: imports are absolute here"
            assert statement.module is not None
            for alias in statement.names:
                full = f"{statement.module}.{alias.name}"
                yield full if full in MODULES else statement.module


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The module without its `if TYPE_CHECKING:` blocks, which never run."""
    kept = [
        statement
        for statement in tree.body
        if not (isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING")
    ]
    return ast.Module(kept, [])


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_left_only(name: str) -> None:
    place = PACKAGES.index(name.split(".", maxsplit=1)[0])
    for target in imported(MODULES[name]):
        package = target.split(".")[0]
        assert package not in ("tests", "paper"), f"{name} imports {target}"
        if package in PACKAGES:
            assert PACKAGES.index(package) <= place, f"{name} imports {target}, which is to its right"


@pytest.mark.parametrize("name", [name for name in MODULES if not is_shell(name)])
def test_only_shells_reach_the_world(name: str) -> None:
    for target in imported(MODULES[name]):
        assert target.split(".")[0] not in WORLD, f"{name} imports {target}, but is no shell"
        if target in MODULES and is_shell(target):
            assert name.split(".", maxsplit=1)[0] == "sims", f"{name} imports the shell {target}"
    for node in ast.walk(MODULES[name]):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{name} awaits, but is no shell"
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            owner = ast.unparse(node.value)
            assert owner.split(".")[-1] not in ("datetime", "date"), f"{name} reads the clock: {owner}.{node.attr}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        name: {target for target in imported(without_type_checking(tree)) if target in MODULES and target != name}
        for name, tree in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(f"a circle of imports: {' -> '.join(cycle.args[1])}")


def test_the_shells_are_those_that_say_so() -> None:
    marked = {name for name, tree in MODULES.items() if "†" in (ast.get_docstring(tree) or "")}
    single = {name for name in marked if not name.startswith(SHELL_PACKAGES)}
    assert single == SHELLS, "the list above and the † marks in prefaces differ"


def test_only_the_simulation_knows_the_laboratory() -> None:
    for name, tree in MODULES.items():
        if not name.startswith("sims.lab"):
            assert not any(target.startswith("sims.lab") for target in imported(tree)), f"{name} imports sims.lab"


def test_every_module_has_a_preface() -> None:
    bare = [name for name, tree in MODULES.items() if tree.body and not ast.get_docstring(tree)]
    assert not bare, f"no docstring in front: {bare}"
