"""Compiles the modules in which a simulation spends its time to C, beside the sources: `make compiled`.

The packages are copied to build/compiled, and there `mypyc` (a part of mypy, whose types it trusts) makes extension
modules of MODULES. Whoever runs Python in that folder, or with it in PYTHONPATH, runs the compiled code. The sources
stay what they are, the reference and the default: at the end a small world is run by both, and must come to the same
trace hash. It takes some minutes, a C compiler and Python's headers.

In the copy, numbers that have names are `Final`: C then has them at hand and needn't look them up.

What is left out, and why: what keeps `@dataclass` beside plain class attributes (the bodies in `dht.messages`), what is
copied with `copy.copy` (`dht.noise`), what applications inherit from, what touches the machine.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "compiled"
PACKAGES = ("dht", "shortcuts", "ipop", "sims")
MODULES = """
    dht/acquaintances dht/aggregate dht/alarm dht/arcs dht/broadcast dht/budget dht/contact dht/cookie dht/coordinate
    dht/counters dht/demux dht/edge dht/entrance dht/envelope dht/errors dht/exchange dht/features dht/fingers
    dht/fragments dht/groups/table dht/handshake dht/handshakes dht/hearsay dht/host dht/ids dht/incumbents dht/joining
    dht/lingering dht/linking dht/liveness dht/messages/header dht/near dht/overlay dht/packing dht/path dht/peer
    dht/pings dht/reach dht/records dht/relay dht/replay dht/replicas dht/requests dht/ring dht/router dht/session
    dht/sessions dht/size_questions dht/sizes dht/store dht/suite dht/tunnels dht/upkeep
    sims/agenda sims/attack sims/border sims/engine sims/network sims/latency/models
    sims/plain
""".split()  # noqa: SIM905  # So many names read better as a text.
IMPORTS = "from __future__ import annotations\n"
MYPY = ["--strict", "--explicit-package-bases", "--ignore-missing-imports", "--python-version", "3.11"]
SMALL_WORLD = ["-m", "sims.speed", "--nodes", "30", "--lookups", "100", "--steady", "130", "--json"]


def copied() -> None:
    """Begin with a fresh copy of the sources."""
    shutil.rmtree(BUILD, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, BUILD / package, ignore=shutil.ignore_patterns("__pycache__"))


def finals() -> None:
    """Declare the numbers with names in the copied MODULES `Final`. mypyc refuses one that is assigned again."""
    for module in MODULES:
        path = BUILD / f"{module}.py"
        source = path.read_text(encoding="utf-8")
        constant = re.compile(r"^(_?[A-Z][A-Z0-9_]+) = (?=[0-9])", re.MULTILINE)
        declared, count = constant.subn(r"\1: Final = ", source)
        if count:
            declared = declared.replace(IMPORTS, f"{IMPORTS}from typing import Final\n", 1)
        path.write_text(declared, encoding="utf-8")


def build() -> None:
    """Compile the copy. To be run in it."""
    # Nothing else here needs a compiler.
    from mypyc.build import mypycify  # noqa: PLC0415
    from setuptools import setup  # noqa: PLC0415

    paths = [f"{module}.py" for module in MODULES]
    extensions = mypycify([*MYPY, *paths], opt_level="2", debug_level="0", multi_file=True)
    setup(name="compiled", packages=[], ext_modules=extensions, script_args=["build_ext", "--inplace"])


def run(folder: Path, *how: str) -> dict[str, object]:
    """The small world, with the code in `folder`."""
    done = subprocess.run([sys.executable, *SMALL_WORLD, *how], cwd=folder, check=True, stdout=subprocess.PIPE)
    report: dict[str, object] = json.loads(done.stdout)
    return report


def main() -> int:
    if sys.argv[1:] == ["build"]:
        build()
        return 0
    copied()
    finals()
    log = BUILD / "log"
    with log.open("w") as out:
        command = [sys.executable, __file__, "build"]
        made = subprocess.run(command, cwd=BUILD, check=False, stdout=out, stderr=subprocess.STDOUT)
    if made.returncode:
        print(f"compiling failed, see {log}", file=sys.stderr)
        return 1
    # Without cryptography it is the same world.
    reference, compiled, plain = run(ROOT), run(BUILD), run(BUILD, "--plain")
    if not reference["trace_hash"] == compiled["trace_hash"] == plain["trace_hash"]:
        print("the compiled code does something else than the sources: don't use it", file=sys.stderr)
        return 1
    rates = " and ".join(f"{report['events_per_s']:.0f} events/s" for report in (reference, compiled))
    print(f"{BUILD}: same trace hash, {rates}. To use it: cd {BUILD.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
