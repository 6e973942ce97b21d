"""† Who performs the runs: processes of this machine, or a Dask cluster. Neither can change what comes out.

A task holds everything that its run needs, so that any process can perform it; data files are named by path and
checksum, and must be where a worker runs. Results come in the order in which they are ready.
"""

from __future__ import annotations

import gzip
import logging
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, Self

from sims.checksums import code_sha256, file_sha256
from sims.scenario.perform import perform
from sims.scenario.plan import Scenario, Settings

DASK = "dask://"
WORKERS_WITHIN_S = 30.0


class ExecutorError(Exception):
    """Runs can't be performed there; the text says why and what to do."""


class NoEngine(ExecutorError):
    """Nothing is called that."""


@dataclass(frozen=True)
class Task:
    """One run. `checksums`: SHA-256 of the data files, by path; `code`: that of the program, which must be the same
    wherever the run is performed."""

    point: int
    seed: int
    settings: Settings
    scenario: Scenario
    checksums: Mapping[str, str]
    code: str

    @property
    def key(self) -> str:
        """What its files are called."""
        return f"point-{self.point:04d}.seed-{self.seed}"


@dataclass(frozen=True)
class Done:
    """A run's result. `rows` are JSON lines, gzipped. Wall time and memory are this machine's, and differ each time."""

    rows: bytes
    row_count: int
    trace_hash: str
    events: int
    simulated_s: float
    wall_s: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Failed:
    """A run that ended in an exception."""

    error: str


class Executor(Protocol):
    """Performs tasks, in any order."""

    def perform(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Done | Failed]]:
        """Each task with what came of it, as it is ready. Raises ExecutorError when the executor itself fails."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def run_task(task: Task) -> Done:
    """Perform one task, in this process. Raises ExecutorError where a data file, or the program, is another here."""
    if code_sha256() != task.code:
        raise ExecutorError("a process that performs runs has other code of this program than who started them")
    for path, checksum in task.checksums.items():
        try:
            found = file_sha256(path)
        except OSError as error:
            raise ExecutorError(f"{path}: {error.strerror or error}") from None
        if found != checksum:
            raise ExecutorError(f"{path} is another file here than where the runs were started (SHA-256 {found})")
    began = time.perf_counter()
    performed = perform(task.scenario, task.seed, task.point, task.settings)
    text = "".join(f"{row}\n" for row in performed.rows)
    return Done(
        rows=gzip.compress(text.encode(), mtime=0),
        row_count=len(performed.rows),
        trace_hash=performed.trace_hash,
        events=performed.events,
        simulated_s=performed.simulated_s,
        wall_s=time.perf_counter() - began,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


class LocalProcesses:
    """`jobs` processes of this machine, started afresh (spawn), so that they share no state with this one."""

    def __init__(self, jobs: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_prepare_worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # Interrupted: don't wait for runs whose results nobody wants any longer. The pool has no method for it
            # before Python 3.14 (terminate_workers).
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def perform(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Done | Failed]]:
        futures: dict[Future[Done], Task] = {self._pool.submit(run_task, task): task for task in tasks}
        for future in as_completed(futures):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise ExecutorError(
                    "a process that performed runs was killed, perhaps for want of memory: try fewer --jobs"
                )
            yield futures[future], _outcome(future.result() if error is None else error)


def _prepare_worker() -> None:
    """What simulated nodes would tell their operators is nobody's to read: it would hide what we say. Ctrl-C at a
    terminal reaches every process, and is for the first one to answer."""
    logging.getLogger().addHandler(logging.NullHandler())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Whoever started this process may be killed without a word; its pool then never ends, and waits for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class DaskCluster:
    """The workers of a Dask scheduler. They need this project installed, and the data files at the same paths."""

    def __init__(self, address: str) -> None:
        try:
            self._distributed: Any = import_module("distributed")
        except ImportError:
            raise ExecutorError("Dask is not installed here: pip install 'p2pvpn[cluster]'") from None
        for name in ("distributed", "distributed.client"):  # what these would tell is told in our words, once
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._address = address
        try:
            self._client: Any = self._distributed.Client(address, timeout="10s")
        except (OSError, ValueError) as error:
            raise ExecutorError(f"no Dask scheduler answers at {address}: {error}") from None
        try:
            self._client.wait_for_workers(1, timeout=WORKERS_WITHIN_S)
        except (OSError, TimeoutError):
            self._client.close()
            raise ExecutorError(
                f"the Dask scheduler at {address} has no workers, and none came within {WORKERS_WITHIN_S:g} s"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def perform(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Done | Failed]]:
        # Not pure: Dask must not take a result from an earlier plan of the same content for ours.
        futures = {self._client.submit(run_task, task, pure=False): task for task in tasks}
        try:
            for future in self._distributed.as_completed(futures):
                if future.status == "cancelled":
                    raise ExecutorError(f"the Dask scheduler at {self._address} is gone, or has dropped the runs")
                error = future.exception()
                yield futures[future], _outcome(future.result() if error is None else error)
        finally:
            if self._client.status == "running":
                self._client.cancel(list(futures))


def _outcome(found: Done | BaseException) -> Done | Failed:
    if isinstance(found, Done):
        return found
    if isinstance(found, ExecutorError):
        raise found
    return Failed(f"{type(found).__name__}: {found}" if str(found) else type(found).__name__)


def executor_for(engine: str, jobs: int) -> Executor:
    """`local`, or `dask://HOST:PORT`. Raises NoEngine, or another ExecutorError."""
    if engine == "local":
        return LocalProcesses(jobs)
    host, _, port = engine.removeprefix(DASK).rpartition(":")
    if not engine.startswith(DASK) or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise NoEngine(f"'{engine}' is no engine: write local, or dask://HOST:PORT of a scheduler")
    return DaskCluster(f"tcp://{host}:{port}")
