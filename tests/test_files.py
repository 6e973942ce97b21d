"""What `dht.files` keeps through kills, full disks and odd names."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dht.files import DirectoryStorage
from dht.storage import MemoryStorage, Storage

MAKERS: dict[str, Callable[[Path], Storage]] = {
    "directory": lambda path: DirectoryStorage(path / "state"),
    "memory": lambda path: MemoryStorage(),
}


@pytest.fixture(params=MAKERS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return MAKERS[request.param](tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_never_saved_is_not_there(storage: Storage) -> None:
    assert storage.load("counter") is None


def test_what_was_saved_last_is_loaded(storage: Storage) -> None:
    for content in (b"old, and longer than the new", b"new", b"", bytes(range(256)) * 500):
        storage.save("peers", content)
        assert storage.load("peers") == content


def test_appended_entries_follow_what_was_saved(storage: Storage) -> None:
    storage.append("journal", b"one ")
    storage.append("journal", b"two ")
    assert storage.load("journal") == b"one two "
    storage.save("journal", b"compacted ")
    storage.append("journal", b"three")
    assert storage.load("journal") == b"compacted three"
    storage.append("journal", b"")
    assert storage.load("journal") == b"compacted three"


def test_names_do_not_meet(storage: Storage) -> None:
    for number, name in enumerate(("a", "b", "a-b", "a.b", "a_b", "records-2")):
        storage.save(name, str(number).encode())
    assert [storage.load(name) for name in ("a", "b", "a-b", "a.b", "a_b", "records-2")] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
    ]


def test_another_process_finds_everything(tmp_path: Path) -> None:
    DirectoryStorage(tmp_path / "a" / "b").save("peers", b"x")
    assert DirectoryStorage(str(tmp_path / "a" / "b")).load("peers") == b"x"


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        storage = DirectoryStorage(tmp_path / "state")
        storage.save("saved", b"secret")
        storage.append("appended", b"secret")
    finally:
        os.umask(old)
    assert mode(tmp_path / "state") == 0o700
    assert mode(tmp_path / "state" / "saved") == mode(tmp_path / "state" / "appended") == 0o600


def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    DirectoryStorage(tmp_path).save("peers", b"x")
    assert mode(tmp_path) == 0o755


def test_a_file_open_to_others_is_closed_to_them_by_the_next_save(tmp_path: Path) -> None:
    (tmp_path / "peers").write_bytes(b"old")
    (tmp_path / "peers").chmod(0o666)
    DirectoryStorage(tmp_path).save("peers", b"new")
    assert mode(tmp_path / "peers") == 0o600


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../peers", "/etc/passwd", "a/b", ".peers", "Peers", "a b", "a\n", "a\0", "-a", "a" * 65]
)
def test_a_name_that_is_no_word_is_our_own_mistake(tmp_path: Path, name: str) -> None:
    storage = DirectoryStorage(tmp_path)
    with pytest.raises(ValueError, match="no storage name"):
        storage.load(name)
    with pytest.raises(ValueError, match="no storage name"):
        storage.save(name, b"")
    with pytest.raises(ValueError, match="no storage name"):
        storage.append(name, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_in_the_way_is_replaced_and_not_followed(tmp_path: Path) -> None:
    state, target = tmp_path / "state", tmp_path / "target"
    storage = DirectoryStorage(state)
    target.write_bytes(b"precious")
    for name in ("peers", ".peers.new"):
        (state / name).symlink_to(target)
    storage.save("peers", b"x")
    assert target.read_bytes() == b"precious"
    assert storage.load("peers") == b"x"
    (state / "journal").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        storage.append("journal", b"x")
    assert target.read_bytes() == b"precious"


def test_a_save_that_fails_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    code = """
import resource, sys
from dht.files import DirectoryStorage
storage = DirectoryStorage(sys.argv[1])
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
storage.save("peers", b"old")
storage.append("journal", b"entry")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for call in (storage.save, storage.append):
    try:
        call("peers" if call == storage.save else "journal", bytes(5000))
    except OSError as error:
        print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 2
    assert DirectoryStorage(tmp_path).load("peers") == b"old"
    assert DirectoryStorage(tmp_path).load("journal") == b"entry"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "peers"]


def test_a_kill_at_any_instant_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    code = """
import sys
from dht.files import DirectoryStorage
storage = DirectoryStorage(sys.argv[1])
number = 0
while True:
    storage.save("peers", bytes([number % 256]) * (50_000 + number % 7))
    storage.append("journal", number.to_bytes(4, "big") * 25)
    if number == 0:
        print("begun", flush=True)
    number += 1
"""
    storage = DirectoryStorage(tmp_path)
    for round_number in range(8):
        (tmp_path / "journal").unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.003 * round_number)
            process.send_signal(signal.SIGKILL)
        content = storage.load("peers")
        assert content is not None
        assert len(content) >= 50_000
        assert len(set(content)) == 1, f"round {round_number}: a mixture of two saves"
        journal = storage.load("journal") or b""
        for at in range(0, len(journal) - 99, 100):
            assert journal[at : at + 100] == (at // 100).to_bytes(4, "big") * 25
    storage.save("peers", b"still usable")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "peers"]
