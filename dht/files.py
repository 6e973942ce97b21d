"""† The real `Storage`: one small file a name, in a directory of its own; and one that outlives a full disk.

`save` writes a new file, syncs it and renames it over the old one, so that neither a SIGKILL nor a power cut leaves
half a file. `append` survives a SIGKILL, not a power cut: it is for journals, and syncs nothing. Raises OSError
when the disk refuses (full, read-only), unless wrapped in `ToleratedStorage`; never leaves a file that others can read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dht.storage import Storage

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")
MAX_NAME_CHARS = 64
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
COMPLAIN_EVERY_S = 60.0


class DirectoryStorage:
    """Files of mode 0600 under `path`, which is made with mode 0700 when it does not exist.

    One process at a time: two that save the same name would take each other's new file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        # An existing directory keeps its mode: it may be one the user shares, such as /tmp.
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self, name: str) -> bytes | None:
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            return None

    def save(self, name: str, content: bytes) -> None:
        file = self._file(name)
        # No name of ours begins with a dot. One fixed name, so that a SIGKILL here leaves at most one such file.
        new = self._path / f".{name}.new"
        new.unlink(missing_ok=True)
        try:
            descriptor = os.open(new, _NEW_FLAGS, 0o600)
            try:
                _write(descriptor, content)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            new.replace(file)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        self._sync_directory()

    def append(self, name: str, content: bytes) -> None:
        descriptor = os.open(self._file(name), _APPEND_FLAGS, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            written = os.write(descriptor, content)
            if written < len(content):
                # The disk is full. Half an entry helps nobody, and the next one would follow it.
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file(name)))
        finally:
            os.close(descriptor)

    def _file(self, name: str) -> Path:
        if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' is no storage name: lower-case words of up to {MAX_NAME_CHARS} characters")
        return self._path / name

    def _sync_directory(self) -> None:
        """Make the rename itself survive a power cut, where the file system can."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


class ToleratedStorage:
    """Another storage, for a node that must go on when its disk is full, read-only or broken.

    What can't be written is kept in memory, where `load` finds it, and tried again at the next write of any name.
    Said in the log at most once a minute, and counted as "storage_write_failed". Only `load` raises OSError: a file
    that is there but can't be read is worth stopping for. Memory stays bounded as long as every journal is saved anew
    from time to time.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._clock = storage, clock
        self._saves: dict[str, bytes] = {}  # whole contents that are not on disk
        self._appends: dict[str, bytes] = {}  # what belongs behind that which is on disk; never of a name in _saves
        self._complained_at = float("-inf")
        self._complained = False  # and not yet said that it is over
        self.counters: Counter[str] = Counter()

    @property
    def unsaved(self) -> frozenset[str]:
        """The names whose newest content is in memory only."""
        return frozenset((*self._saves, *self._appends))

    def load(self, name: str) -> bytes | None:
        if name in self._saves:
            return self._saves[name]
        stored = self._storage.load(name)
        return (stored or b"") + self._appends[name] if name in self._appends else stored

    def save(self, name: str, content: bytes) -> None:
        self._appends.pop(name, None)
        self._saves[name] = content
        self._write()

    def append(self, name: str, content: bytes) -> None:
        unwritten = self._saves if name in self._saves else self._appends
        unwritten[name] = unwritten.get(name, b"") + content
        self._write()

    def _write(self) -> None:
        """Write everything that waits. Each name on its own: a file may be immutable while its directory is not."""
        failure: OSError | None = None
        for unwritten, write in ((self._saves, self._storage.save), (self._appends, self._storage.append)):
            for name, content in list(unwritten.items()):
                try:
                    write(name, content)
                except OSError as error:
                    failure = error
                except ValueError:
                    del unwritten[name]  # no name for a file: our own mistake, and not to be made again
                    raise
                else:
                    del unwritten[name]
        if failure is not None:
            self._complain(failure)
        elif self._complained:
            self._complained = False
            log.warning("everything is written to disk again")

    def _complain(self, failure: OSError) -> None:
        self.counters["storage_write_failed"] += 1
        now = self._clock()
        if now - self._complained_at >= COMPLAIN_EVERY_S:
            self._complained_at, self._complained = now, True
            log.error(
                "cannot write %s (%s): the node goes on; but if it ends now, it forgets the peers it knows and which"
                " handshakes it accepted, and captured ones could be replayed to it",
                ", ".join(sorted(self.unsaved)),
                failure,
            )


def lock_directory(path: str | os.PathLike[str]) -> int:
    """A descriptor that keeps others from locking this directory until it is closed; the kernel closes it with the
    process. Raises BlockingIOError when another has it, OSError when it can't be opened or locked."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
