"""The control socket: one line of JSON asks, one line of JSON answers. † Shell module.

    {"command": "ping", "peer": "bob"}  ->  {"ok": true, "result": {...}}  or  {"ok": false, "error": "..."}

`ControlSocket` serves it inside `p2pvpn up`, `ask` is the client inside the other commands. Only the user who
started the node may connect (mode 0600). What the commands mean is in `ipop.commands`; this module only carries
them, and never blocks the node: lines, connections and waiting are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

from ipop.errors import SetupError

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 16 << 20
MAX_CONNECTIONS = 32
IDLE_S = 60.0
ANSWER_S = 30.0
MAX_ANSWER_S = 630.0  # Of commands that say how long they may take.
SOON_S = 5.0  # What a node that runs at all answers from memory.
PATIENCE_S = ANSWER_S + 5  # What it must ask others for.
MAX_PATH_BYTES = 107  # struct sockaddr_un, unix(7)

Serve = Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], None]


class ControlSocket:
    """Binds `path` at once (SetupError when it can't), and serves it from `start` to `close`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._serve: Serve | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._socket = self._bind()

    def _bind(self) -> socket.socket:
        if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
            raise SetupError(f"the control socket's path '{self.path}' is longer than {MAX_PATH_BYTES} bytes")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        mask = os.umask(0o177)  # The socket must never exist with a wider mode, not even for an instant.
        try:
            _unlink_stale(self.path)
            listening.bind(self.path)
            listening.listen(MAX_CONNECTIONS)
        except OSError as error:
            listening.close()
            raise SetupError(
                f"cannot make the control socket '{self.path}': {error.strerror}; choose another with --control"
            ) from None
        except SetupError:
            listening.close()
            raise
        finally:
            os.umask(mask)
        return listening

    async def start(self, serve: Serve) -> None:
        """Give each request to `serve(request, reply)`, which calls `reply` once, now or later."""
        self._serve = serve
        self._server = await asyncio.start_unix_server(self._connected, sock=self._socket, limit=MAX_REQUEST_BYTES)

    def close(self) -> None:
        """No new connection; the file is gone. Connections end with the process, which tells a waiting `p2pvpn
        down` that everything has been cleaned up."""
        if self._server is not None:
            self._server.close()
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, TimeoutError):
            pass  # The client went away or fell asleep: its own business.
        except asyncio.CancelledError:
            pass  # The node ends. Raised on, it would be logged by asyncio as a fault.
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Whether to go on."""
        try:
            line = await asyncio.wait_for(reader.readline(), IDLE_S)
        except ValueError:
            await _send(writer, _refusal(f"a request has at most {MAX_REQUEST_BYTES} bytes"))
            return False
        if not line.endswith(b"\n"):
            return False
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            await _send(writer, _refusal('a request is one line: {"command": "..."}'))
            return False
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def reply(result: dict[str, Any]) -> None:
            if not answer.done():
                answer.set_result(result)

        assert self._serve is not None
        self._serve(request, reply)
        patience_s = _patience_s(request)
        try:
            await _send(writer, await asyncio.wait_for(answer, patience_s))
        except TimeoutError:
            log.error("the command '%s' gave no answer within %.0f s", request["command"], patience_s)
            await _send(writer, _refusal("the node gave no answer"))
        return True


def _patience_s(request: dict[str, Any]) -> float:
    """How long to wait for an answer: a command with a deadline may take until then."""
    deadline_s = request.get("deadline_s")
    if isinstance(deadline_s, int | float) and ANSWER_S < deadline_s + SOON_S <= MAX_ANSWER_S:
        return deadline_s + SOON_S
    return ANSWER_S


def _refusal(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}


async def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await asyncio.wait_for(writer.drain(), IDLE_S)


def _unlink_stale(path: str) -> None:
    """Remove the socket of a node that was killed; refuse to touch anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SetupError(f"'{path}' exists and is not a socket: choose another control socket with --control")
    if alive(path):
        raise SetupError(f"another node is running with the control socket '{path}': choose another with --control")
    os.unlink(path)


def alive(path: str) -> bool:
    """Whether somebody listens on the Unix socket `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(path) in (0, errno.EAGAIN, errno.EACCES, errno.EPERM)


class TooLate(SetupError):
    """The node did not answer in time."""


class Client:
    """A connection of a command to a running node. Every failure is a SetupError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SOON_S)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise SetupError(_why_not_connected(path, error)) from None
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, command: str, timeout_s: float = PATIENCE_S, **arguments: object) -> Any:
        """The result of one command. SetupError with the node's own words when it refuses; TooLate ends the use of this
        connection."""
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            line = self._lines.readline(MAX_ANSWER_BYTES)
        except TimeoutError:
            raise TooLate(
                f"the node at '{self.path}' did not answer within {timeout_s:.0f} s: is it stopped or overloaded?"
            ) from None
        except OSError as error:
            raise SetupError(f"the node at '{self.path}' went away: {error.strerror or error}") from None
        if not line.endswith(b"\n"):
            raise SetupError(f"the node at '{self.path}' ended the connection")
        answer = json.loads(line)
        if not answer.get("ok"):
            raise SetupError(str(answer.get("error")))
        return answer.get("result")

    def wait_for_end(self) -> None:
        """Returns when the node's process has ended. SetupError when it has not in time."""
        self._socket.settimeout(PATIENCE_S)
        try:
            while self._lines.read(4096):
                pass
        except TimeoutError:
            raise SetupError(f"the node at '{self.path}' is still running") from None
        except OSError:
            pass  # Reset: it has ended.


def _why_not_connected(path: str, error: OSError) -> str:
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return f"no p2pvpn node is running at '{path}': start one with 'p2pvpn up FILE'"
        case PermissionError():
            return f"no permission to use '{path}': run as the user who started the node"
        case _:
            return f"cannot connect to '{path}': {error.strerror or error}"
