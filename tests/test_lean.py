"""What a node's process holds, and that it works without what was left out. Each test asks a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEAN = "from ipop.lean import leave_out; leave_out(); import ipop.daemon; "
# What an idle node may have, less what it needs once it runs: OpenSSL's tables, buffers, peers.
IMPORTED_LIMIT_BYTES = 37_500_000


def python(code: str) -> str:
    """What `code` prints in a new process."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_a_node_never_loads_what_it_never_uses() -> None:
    loaded = set(python(LEAN + "import sys; print(*(name for name in sys.modules if sys.modules[name]))").split())
    assert {"asyncio", "cryptography.x509", "ipop.node"} <= loaded
    unwanted = {"ssl", "_ssl", "uvloop", "pyroute2", "typer", "rich", "numpy", "multiprocessing", "ipop.device_setup"}
    assert not loaded & unwanted


def test_the_code_of_a_node_leaves_room_below_forty_megabytes() -> None:
    status = python(LEAN + "print(open('/proc/self/status').read())")
    rss_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert rss_kb * 1024 < IMPORTED_LIMIT_BYTES, f"{rss_kb} kB"


def test_digests_and_the_event_loop_are_the_same_without_openssl() -> None:
    code = (
        "import asyncio, hashlib, hmac, secrets;"
        "print(hashlib.blake2s(b'abc').hexdigest()[:8], hashlib.sha256(b'abc').hexdigest()[:8],"
        " hmac.new(b'key', b'abc', 'sha256').hexdigest()[:8], hmac.compare_digest(b'a', b'a'),"
        " asyncio.run(asyncio.sleep(0, 'slept')))"
    )
    assert python(LEAN + code) == python(code) == "508c5e8c ba7816bf 9c196e32 True slept\n"


def test_a_child_that_does_something_else_gets_it_all_back() -> None:
    assert python(LEAN + "from ipop.lean import let_in; let_in(); import ssl, _hashlib; print('here')") == "here\n"


def test_what_a_program_has_loaded_already_stays() -> None:
    assert python("import ssl; " + LEAN + "import sys; print(sys.modules['ssl'].__name__)") == "ssl\n"
