"""A network's files: whole after a kill at any instant, right under concurrency, never written over by mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

import ipop.authority_files
from ipop.authority import Authority
from ipop.authority_files import init, issue, read_authority, read_bundle
from ipop.bundle import Bundle, profile_text
from ipop.errors import SetupError
from tests.patience import PATIENCE_S

Start = Callable[..., subprocess.Popen[str]]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The private file of a fresh network."""
    return init("home", "10.77.0.0/16", tmp_path).authority


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SetupError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


def check_agreement(authority: Authority, bundles: list[Bundle]) -> None:
    """What every bundle says is in the ledger, and nothing is given twice."""
    addresses = [entry.address for entry in authority.ledger.values()]
    assert len(set(addresses)) == len(addresses)
    assert len({entry.id for entry in authority.ledger.values()}) == len(addresses)
    for bundle in bundles:
        entry = authority.ledger[bundle.member.name]
        assert (entry.id, entry.address) == (bundle.member.id, bundle.member.address4)
        assert bundle.member.serial <= entry.serial
    serials = [bundle.member.serial for bundle in bundles]
    assert len(set(serials)) == len(serials)


def test_init_makes_a_private_and_a_public_file(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        files = init("home", "10.77.0.0/16", tmp_path / "new" / "directory")
    finally:
        os.umask(old_mask)
    assert (files.authority.name, files.profile.name) == ("home.ca", "home.network")
    assert (mode(files.authority), mode(files.profile), mode(files.authority.parent)) == (0o600, 0o644, 0o700)
    network = read_authority(files.authority).network
    profile = files.profile.read_text()
    assert json.loads(profile)["name"] == "home"
    assert network.secret.hex() not in profile and "PRIVATE" not in profile
    assert not leftovers(files.authority.parent)


def test_two_networks_of_one_name_share_nothing(tmp_path: Path) -> None:
    first, second = (
        read_authority(init("home", "10.77.0.0/16", tmp_path / place).authority).network for place in ("a", "b")
    )
    assert first.id != second.id and first.secret != second.secret


def test_a_bundle_is_private_and_can_be_read_again(home: Path, tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        bundle = issue("alice", home, tmp_path / "alice.bundle")
    finally:
        os.umask(old_mask)
    assert read_bundle(tmp_path / "alice.bundle") == bundle
    assert mode(tmp_path / "alice.bundle") == mode(home) == 0o600
    assert bundle.identity(time.time()).member.name == "alice"
    assert not leftovers(tmp_path)


def test_a_renewal_replaces_its_bundle_and_keeps_id_and_address(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "alice.bundle"
    first = issue("alice", home, out, "10.77.9.9")
    out.chmod(0o644)
    second = issue("alice", home, out)
    assert (second.member.id, second.member.address4) == (first.member.id, first.member.address4)
    assert read_bundle(out) == second != first
    assert mode(out) == 0o600


def test_an_address_can_be_chosen(home: Path, tmp_path: Path) -> None:
    assert str(issue("alice", home, tmp_path / "a", address="10.77.5.5").member.address4) == "10.77.5.5"
    assert "belongs to 'alice'" in refusal(lambda: issue("bob", home, tmp_path / "b", address="10.77.5.5"))
    assert "is not an IPv4 address" in refusal(lambda: issue("bob", home, tmp_path / "b", address="10.77.5"))
    assert not (tmp_path / "b").exists()
    assert "bob" not in read_authority(home).ledger


def test_a_warning_about_a_file_comes_only_when_it_is_the_right_one(home: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    profile = home.with_suffix(".network")
    assert mode(profile) == 0o644
    text = refusal(lambda: issue("alice", profile, tmp_path / "a", warn=warnings.append))
    assert "not a 'p2pvpn authority'" in text and warnings == []
    home.chmod(0o644)
    issue("alice", home, tmp_path / "a", warn=warnings.append)
    assert len(warnings) == 1 and "chmod 600" in warnings[0]


def test_a_name_that_would_read_as_an_id_is_refused(home: Path, tmp_path: Path) -> None:
    assert "how a node's id is written" in refusal(lambda: issue("ab" * 20, home, tmp_path / "a"))
    assert issue("ab" * 19, home, tmp_path / "b").member.name == "ab" * 19


def test_a_full_subnet_is_refused(tmp_path: Path) -> None:
    small = init("small", "10.1.1.0/30", tmp_path).authority
    for name in ("a", "b"):
        issue(name, small, tmp_path / name)
    assert "every address of 10.1.1.0/30 is given" in refusal(lambda: issue("c", small, tmp_path / "c"))


def test_init_never_replaces_a_network(home: Path, tmp_path: Path) -> None:
    before = home.read_bytes()
    assert "the network 'home' (10.77.0.0/16) is there already" in refusal(
        lambda: init("home", "10.77.0.0/16", tmp_path)
    )
    assert home.read_bytes() == before


def test_init_finishes_what_was_killed_between_the_two_files(home: Path, tmp_path: Path) -> None:
    profile = tmp_path / "home.network"
    before, private = profile.read_bytes(), home.read_bytes()
    profile.unlink()
    assert "is there already" in refusal(lambda: init("home", "10.78.0.0/16", tmp_path))
    init("home", "10.77.0.0/16", tmp_path)
    assert (profile.read_bytes(), home.read_bytes()) == (before, private)


@pytest.mark.parametrize("name", ["home.ca", "home.network"])
def test_init_leaves_foreign_files_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    refusal(lambda: init("home", "10.77.0.0/16", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("name", "subnet"), [("Home", "10.77.0.0/16"), ("../x", "10.77.0.0/16"), ("home", "10/8")])
def test_init_refuses_before_it_writes(tmp_path: Path, name: str, subnet: str) -> None:
    refusal(lambda: init(name, subnet, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_issue_leaves_foreign_files_alone(home: Path, tmp_path: Path) -> None:
    issue("bob", home, tmp_path / "bob")
    stranger = init("other", "10.78.0.0/16", tmp_path).authority
    issue("alice", stranger, tmp_path / "stranger")
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = read_authority(home).to_text()
    for out, reason in [
        ("notes", "no p2pvpn bundle"),
        ("home.ca", "no p2pvpn bundle"),
        ("bob", "the bundle of 'bob'"),
        ("stranger", "a bundle of another network"),
        ("directory", "not a file"),
        ("pipe", "not a file"),
        ("nowhere/alice", "there is no directory"),
    ]:
        assert reason in refusal(lambda out=out: issue("alice", home, tmp_path / out)), out  # type: ignore[misc]
    assert (tmp_path / "notes").read_text() == "mine"
    # A refused issue gives nothing away.
    assert read_authority(home).to_text() == before


def test_an_empty_file_may_be_filled(home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch(0o644)
    issue("alice", home, tmp_path / "empty")
    assert mode(tmp_path / "empty") == 0o600


def test_links_are_followed_not_replaced(home: Path, tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    vaulted = home.rename(tmp_path / "vault" / "home.ca")
    home.symlink_to(vaulted)
    (tmp_path / "alice").symlink_to(tmp_path / "vault" / "alice")
    issue("alice", home, tmp_path / "alice")
    assert home.is_symlink() and (tmp_path / "alice").is_symlink()
    assert "alice" in read_authority(vaulted).ledger
    assert read_bundle(tmp_path / "vault" / "alice").member.name == "alice"


def test_secrets_that_others_can_read_are_warned_of(home: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    issue("alice", home, tmp_path / "alice", warn=warnings.append)
    read_bundle(tmp_path / "alice", warnings.append)
    assert not warnings
    home.chmod(0o640)
    (tmp_path / "alice").chmod(0o604)
    read_bundle(tmp_path / "alice", warnings.append)
    issue("alice", home, tmp_path / "alice", warn=warnings.append)
    assert [f"chmod 600 {path}" in text for path, text in zip((tmp_path / "alice", home), warnings, strict=True)] == [
        True,
        True,
    ]
    assert mode(home) == 0o600


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"x", "not readable as JSON"),
        (b"\xff\xfe", "not text"),
        (b'{"format": "p2pvpn bundle", "version": 1}', "but a 'p2pvpn bundle'"),
    ],
)
def test_a_file_that_is_no_authority_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "x.ca").write_bytes(content)
    text = refusal(lambda: issue("alice", tmp_path / "x.ca", tmp_path / "alice"))
    assert text.startswith(f"{tmp_path / 'x.ca'}: ")
    assert reason in text
    assert not (tmp_path / "alice").exists()


def test_a_pipe_or_directory_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        assert "not a file" in refusal(lambda path=path: read_bundle(path))  # type: ignore[misc]
        assert "not a file" in refusal(lambda path=path: issue("alice", path, tmp_path / "a"))  # type: ignore[misc]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_one_may_not_write_to_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(0o500)
    assert "no permission" in refusal(lambda: issue("alice", home, tmp_path / "closed" / "alice"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_root_leaves_a_users_files_the_users(home: Path, tmp_path: Path) -> None:
    os.chown(home, 1234, 1234)
    issue("alice", home, tmp_path / "alice")
    assert (home.stat().st_uid, home.stat().st_gid) == (1234, 1234)


def test_what_a_killed_process_left_is_cleared_once_it_is_old(home: Path, tmp_path: Path) -> None:
    old, young = tmp_path / ".alice.00ff.new", tmp_path / ".alice.11ff.new"
    for leftover in (old, young):
        leftover.write_text("a key")
    os.utime(old, (time.time() - 3600,) * 2)
    issue("alice", home, tmp_path / "alice")
    assert leftovers(tmp_path) == [young.name]


def test_a_held_lock_is_waited_for_and_then_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipop.authority_files, "LOCK_PATIENCE_S", 0.05)
    with ipop.authority_files._locked(home):
        assert "another p2pvpn command holds it" in refusal(lambda: issue("alice", home, tmp_path / "alice"))
    issue("alice", home, tmp_path / "alice")


@pytest.fixture
def python() -> Iterator[Start]:
    """Starts programs, none of which outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", source, *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


ISSUE_FOREVER = """
import sys
from itertools import count
from pathlib import Path
from ipop.authority_files import issue
authority, prefix, count_wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("started", flush=True)
for at in range(count_wanted):
    issue(f"{prefix}{at}", authority, authority.parent / f"{prefix}{at}.bundle")
"""


def test_two_processes_at_once_never_give_one_address_twice(home: Path, tmp_path: Path, python: Start) -> None:
    processes = [python(ISSUE_FOREVER, home, prefix, 50) for prefix in ("left", "right")]
    for process in processes:
        process.communicate(timeout=4 * PATIENCE_S)
        assert process.returncode == 0
    bundles = [read_bundle(path) for path in tmp_path.glob("*.bundle")]
    assert len(bundles) == 100
    authority = read_authority(home)
    assert len(authority.ledger) == 100
    check_agreement(authority, bundles)
    assert not leftovers(tmp_path)


INIT = """
import sys
from pathlib import Path
from ipop.authority_files import init
init("home", "10.77.0.0/16", Path(sys.argv[1]))
"""


def test_of_several_inits_at_once_one_network_comes_out(tmp_path: Path, python: Start) -> None:
    processes = [python(INIT, tmp_path) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=4 * PATIENCE_S)
    assert any(process.returncode == 0 for process in processes)
    network = read_authority(tmp_path / "home.ca").network
    assert (tmp_path / "home.network").read_text() == profile_text(network)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_while_issuing_leaves_everything_whole(home: Path, tmp_path: Path, python: Start, seed: int) -> None:
    rng = Random(seed)
    print(f"seed {seed}")
    process = python(ISSUE_FOREVER, home, f"s{seed}n", 100_000)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(rng.uniform(0.0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=4 * PATIENCE_S)
    authority = read_authority(home)
    bundles = [read_bundle(path) for path in tmp_path.glob("*.bundle")]
    # One name at most is in the ledger without its bundle, and it is given the same when asked for again.
    assert 0 <= len(authority.ledger) - len(bundles) <= 1
    check_agreement(authority, bundles)
    for name, entry in authority.ledger.items():
        again = issue(name, home, tmp_path / f"{name}.bundle").member
        assert (again.id, again.address4) == (entry.id, entry.address)


KILL_AT_EVERY_LINE = """
import os, signal, sys
from pathlib import Path
import ipop.authority_files
from ipop.authority_files import init, issue, read_authority, read_bundle
from ipop.bundle import profile_text

def stopped_at(line, act):
    '''Runs `act` in a child that is killed at the given line of authority_files, counted as they run.'''
    child = os.fork()
    if child == 0:
        left = line
        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename != ipop.authority_files.__file__:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)
        act()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

def kill_everywhere(act, check):
    line = 0
    while stopped_at(line, lambda: act(line)):
        check(line)
        line += 1
    assert line > 40, line
    check(line)
    return line

root = Path(sys.argv[1])

def check_init(line):
    directory = root / f"init{line}"
    if not (directory / "home.network").exists():
        init("home", "10.77.0.0/16", directory)
    assert (directory / "home.ca").stat().st_mode & 0o777 == 0o600
    network = read_authority(directory / "home.ca").network
    assert (directory / "home.network").read_text() == profile_text(network)

lines = kill_everywhere(lambda line: init("home", "10.77.0.0/16", root / f"init{line}"), check_init)

home = init("home", "10.77.0.0/16", root).authority
given = {}

def check_issue(line):
    name = f"n{line}"
    ledger = read_authority(home).ledger
    assert home.stat().st_mode & 0o777 == 0o600
    for leftover in root.glob(".*.new"):  # They'd lengthen the next run, which looks for old ones.
        assert leftover.stat().st_mode & 0o777 == 0o600, leftover
        leftover.unlink()
    if (root / name).exists():
        member = read_bundle(root / name).member
        entry = ledger[name]
        assert (member.id, member.address4, member.serial) == (entry.id, entry.address, entry.serial)
    again = issue(name, home, root / name).member
    if name in ledger:
        assert (again.id, again.address4) == (ledger[name].id, ledger[name].address)
    given[name] = again.id, again.address4
    assert {name: (entry.id, entry.address) for name, entry in read_authority(home).ledger.items()} == given
    assert len({address for _, address in given.values()}) == len(given)

lines += kill_everywhere(lambda line: issue(f"n{line}", home, root / f"n{line}"), check_issue)
print(lines, flush=True)
"""


def test_a_kill_at_any_line_of_init_or_issue_leaves_everything_whole(tmp_path: Path, python: Start) -> None:
    process = python(KILL_AT_EVERY_LINE, tmp_path)
    lines, _ = process.communicate(timeout=10 * PATIENCE_S)
    assert process.returncode == 0
    assert int(lines) > 150
