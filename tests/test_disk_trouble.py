"""A node whose disk is full, read-only or gone: it goes on, says so, and writes everything once it can again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import binary, sampled_from

from dht.aio import join
from dht.counters import COMPACT_AFTER, JOURNAL, Counters
from dht.files import COMPLAIN_EVERY_S, DirectoryStorage, ToleratedStorage, lock_directory
from dht.storage import MemoryStorage
from tests.fuzzing import stateful_settings
from tests.identities import START_S, make_identities
from tests.patience import PATIENCE_S


class BrokenStorage(MemoryStorage):
    """Refuses to write whatever is in `refused`, or everything."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.full = False
        self.writes = 0

    def save(self, name: str, content: bytes) -> None:
        self._check(name)
        super().save(name, content)

    def append(self, name: str, content: bytes) -> None:
        self._check(name)
        super().append(name, content)

    def _check(self, name: str) -> None:
        self.writes += 1
        if self.full or name in self.refused:
            raise OSError(errno.ENOSPC, "No space left on device", name)


def test_what_cannot_be_written_is_kept_and_written_with_the_next_write_that_can() -> None:
    disk = BrokenStorage()
    storage = ToleratedStorage(disk)
    storage.save("peers", b"old")
    storage.append("journal", b"1")
    disk.full = True
    storage.save("peers", b"new")
    storage.append("journal", b"2")
    storage.append("journal", b"3")
    assert (storage.load("peers"), storage.load("journal")) == (b"new", b"123")
    assert (disk.load("peers"), disk.load("journal")) == (b"old", b"1")
    assert storage.unsaved == {"peers", "journal"}
    assert storage.counters["storage_write_failed"] == 3
    disk.full = False
    storage.save("epoch", b"x")
    assert (disk.load("peers"), disk.load("journal"), disk.load("epoch")) == (b"new", b"123", b"x")
    assert not storage.unsaved
    writes = disk.writes
    storage.append("journal", b"4")
    assert (disk.writes, disk.load("journal")) == (writes + 1, b"1234")


def test_one_file_that_cannot_be_written_does_not_hold_up_the_others() -> None:
    disk = BrokenStorage()
    disk.refused = {"peers"}
    storage = ToleratedStorage(disk)
    storage.save("peers", b"p")
    storage.append("journal", b"j")
    assert disk.load("journal") == b"j"
    assert storage.unsaved == {"peers"}


def test_trouble_is_said_once_a_minute_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    disk = BrokenStorage()
    storage = ToleratedStorage(disk, lambda: now)
    disk.full = True
    with caplog.at_level(logging.WARNING, "dht.files"):
        for second in range(150):
            now = float(second)
            storage.append("journal", b"x")
        assert len(caplog.messages) == 3 == 1 + 149 // COMPLAIN_EVERY_S
        assert all("cannot write journal" in text and "No space left" in text for text in caplog.messages)
        assert "replayed" in caplog.messages[0] and "\n" not in caplog.messages[0]
        disk.full = False
        for _ in range(3):
            storage.append("journal", b"y")
        assert caplog.messages[3:] == ["everything is written to disk again"]
        # A disk that comes and goes is no reason for more than that a minute.
        for _ in range(20):
            disk.full = not disk.full
            storage.append("journal", b"z")
    assert len(caplog.messages) == 4
    assert storage.counters["storage_write_failed"] == 160


def test_a_name_that_is_none_stays_our_own_mistake(tmp_path: Path) -> None:
    storage = ToleratedStorage(DirectoryStorage(tmp_path))
    for write in (storage.save, storage.append):
        with pytest.raises(ValueError, match="no storage name"):
            write("../peers", b"x")
    storage.save("peers", b"x")
    assert not storage.unsaved


def test_a_file_that_cannot_be_read_is_no_empty_file(tmp_path: Path) -> None:
    (tmp_path / "peers").mkdir()
    with pytest.raises(IsADirectoryError):
        ToleratedStorage(DirectoryStorage(tmp_path)).load("peers")


class DiskThatComesAndGoes(RuleBasedStateMachine):
    """Whatever the disk does: reading gives what was written, and a good disk ends up with all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = BrokenStorage()
        self.storage = ToleratedStorage(self.disk)
        self.expected = MemoryStorage()

    names = sampled_from(["peers", "journal", "epoch"])

    @rule(name=names, content=binary(max_size=3))
    def save(self, name: str, content: bytes) -> None:
        self.storage.save(name, content)
        self.expected.save(name, content)

    @rule(name=names, content=binary(max_size=3))
    def append(self, name: str, content: bytes) -> None:
        self.storage.append(name, content)
        self.expected.append(name, content)

    @rule(name=names)
    def refuse(self, name: str) -> None:
        self.disk.refused ^= {name}

    @invariant()
    def reading_gives_what_was_written(self) -> None:
        for name in ("peers", "journal", "epoch"):
            assert self.storage.load(name) == self.expected.load(name)
            if name not in self.storage.unsaved:
                assert self.disk.load(name) == self.expected.load(name)

    def teardown(self) -> None:
        self.disk.refused.clear()
        self.save("last", b"")
        assert not self.storage.unsaved
        self.reading_gives_what_was_written()


DiskThatComesAndGoes.TestCase.settings = stateful_settings()
TestDiskThatComesAndGoes = DiskThatComesAndGoes.TestCase


def test_handshake_counters_go_on_while_the_disk_is_full_and_are_not_forgotten() -> None:
    disk = BrokenStorage()
    storage = ToleratedStorage(disk)
    disk.full = True
    counters = Counters(storage, START_S)
    numbers = [counters.next() for _ in range(3)]
    for counter in range(1, COMPACT_AFTER + 10):
        assert counters.is_new(7, counter)
        counters.accept(7, counter)
        assert not counters.is_new(7, counter), "a captured handshake would be accepted again"
    assert len(storage.load(JOURNAL) or b"") < 100 * 32, "what waits in memory is compacted too"
    disk.full = False
    counters.accept(8, 1)
    restarted = Counters(ToleratedStorage(disk), START_S - 3600.0)
    assert not restarted.is_new(7, COMPACT_AFTER + 9)
    assert not restarted.is_new(8, 1)
    assert restarted.next() > max(numbers)


def test_a_node_lives_through_the_loss_of_its_state_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = tmp_path / "state"
    server, laptop = make_identities(2, 9, now=time.time())

    def written(name: str) -> bool:
        return (state / name).exists() and (state / name).stat().st_size > 0

    async def program() -> None:
        async with asyncio.timeout(2 * PATIENCE_S), join(server, listen="127.0.0.1:0", state=state) as first:
            await first.ready()
            shutil.rmtree(state)
            async with join(laptop, first.endpoints, listen="127.0.0.1:0") as second:
                await second.put("name", b"value")
                assert [record.value for record in await first.get("name")] == [b"value"]
                state.mkdir()
                while not (written("counters") and written("peers")):  # what it knows is saved with a delay
                    await asyncio.sleep(0.01)

    with caplog.at_level(logging.WARNING, "dht.files"):
        asyncio.run(program())
    assert "cannot write counters" in caplog.messages[0]
    assert caplog.messages[-1] == "everything is written to disk again"
    assert written("counters") and written("peers")


def test_a_really_full_disk_is_tolerated(tmp_path: Path) -> None:
    code = """
import logging, resource, signal, sys
from dht.files import DirectoryStorage, ToleratedStorage
logging.basicConfig(stream=sys.stdout, format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
storage = ToleratedStorage(DirectoryStorage(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
storage.save("peers", bytes(5000))
storage.append("counters", bytes(5000))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
storage.append("counters", b"x")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and "File too large" in lines[0] and lines[1] == "everything is written to disk again"
    assert (tmp_path / "peers").stat().st_size == 5000
    assert (tmp_path / "counters").stat().st_size == 5001


def test_a_locked_directory_is_locked_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    descriptor = lock_directory(tmp_path)
    with pytest.raises(BlockingIOError):
        lock_directory(tmp_path)
    os.close(descriptor)
    os.close(lock_directory(tmp_path))
    with pytest.raises(FileNotFoundError):
        lock_directory(tmp_path / "nothing")
