"""The control socket: what it carries, whom it refuses, and that it cannot be made to hang or to fill memory."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipop.control import MAX_CONNECTIONS, MAX_REQUEST_BYTES, Client, ControlSocket, alive
from ipop.errors import SetupError
from ipop.notify import notify
from tests.patience import PATIENCE_S

Reply = Callable[[dict[str, Any]], None]


def echo(request: dict[str, Any], reply: Reply) -> None:
    """Answers at once, later, twice or with a refusal, as asked."""
    match request["command"]:
        case "later":
            asyncio.get_running_loop().call_later(0.05, reply, {"ok": True, "result": "later"})
        case "refuse":
            reply({"ok": False, "error": "not today"})
        case _:
            reply({"ok": True, "result": request})
            reply({"ok": True, "result": "a second answer is ignored"})


@contextmanager
def serving(path: Path) -> Iterator[ControlSocket]:
    """A control socket served from a loop in a thread of its own, as a node is a process of its own."""
    started, stopping = threading.Event(), threading.Event()
    made: list[ControlSocket | BaseException] = []

    async def serve() -> None:
        try:
            control = ControlSocket(str(path))
            await control.start(echo)
        except BaseException as error:
            made.append(error)
            raise
        finally:
            started.set()
        made.append(control)
        while not stopping.is_set():
            await asyncio.sleep(0.01)
        control.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        assert isinstance(made[0], ControlSocket)
        yield made[0]
    finally:
        stopping.set()
        thread.join(PATIENCE_S)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "control"
    with serving(place):
        yield place


def ask(path: Path, client: Client | None = None) -> bool:
    """Whether a question gets an answer; by a connection of its own unless `client` is given."""
    try:
        if client is not None:
            return bool(client.ask("x"))
        with Client(str(path)) as own:
            return bool(own.ask("x"))
    except SetupError:
        return False


def raw(path: Path, content: bytes) -> bytes:
    """All that comes back for `content` until the server closes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(path))
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_a_question_gets_its_answer_with_all_its_arguments(path: Path) -> None:
    with Client(str(path)) as client:
        assert client.ask("ping", peer="bob", count=3) == {"command": "ping", "peer": "bob", "count": 3}
        assert client.ask("later") == "later"
        assert client.ask("x") == {"command": "x"}


def test_a_refusal_is_an_error_in_the_nodes_own_words(path: Path) -> None:
    with Client(str(path)) as client, pytest.raises(SetupError, match="^not today$"):
        client.ask("refuse")


def test_a_node_that_is_stopped_is_given_up_in_time(tmp_path: Path) -> None:
    place = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(place))
        stopped.listen()  # The kernel takes the connection, and nobody answers.
        with Client(str(place)) as client, pytest.raises(SetupError, match=r"did not answer within 0 s: is it stopped"):
            client.ask("status", timeout_s=0.2)


def test_only_its_owner_may_connect_and_closing_removes_it(tmp_path: Path) -> None:
    place = tmp_path / "control"
    before = os.umask(0)
    try:
        with serving(place):
            assert stat.S_IMODE(place.stat().st_mode) == 0o600
            assert alive(str(place))
    finally:
        os.umask(before)
    assert not place.exists()
    with pytest.raises(SetupError, match="no p2pvpn node is running at"):
        Client(str(place))


@pytest.mark.parametrize("garbage", [b"hello\n", b"[]\n", b'{"command": 3}\n', b"{}\n", b"\xff\n", b"[" * 4000 + b"\n"])
def test_what_is_no_request_is_refused_and_ends_the_connection(path: Path, garbage: bytes) -> None:
    answer = json.loads(raw(path, garbage + b'{"command": "after"}\n'))
    assert answer["ok"] is False


def test_a_line_that_never_ends_is_refused(path: Path) -> None:
    answer = json.loads(raw(path, b"x" * (4 * MAX_REQUEST_BYTES)))
    assert str(MAX_REQUEST_BYTES) in answer["error"]


def test_half_a_request_is_ignored(path: Path) -> None:
    assert raw(path, b'{"command": "x"}') == b""


def test_too_many_connections_are_turned_away_but_come_in_when_others_leave(path: Path) -> None:
    with ExitStack() as inside:
        for _ in range(MAX_CONNECTIONS):
            assert ask(path, inside.enter_context(Client(str(path))))
        assert not ask(path)
    ends = time.monotonic() + PATIENCE_S
    while not ask(path):
        assert time.monotonic() < ends, "nobody gets in any more"
        time.sleep(0.02)


def test_a_second_node_on_the_same_socket_is_refused(path: Path) -> None:
    with pytest.raises(SetupError, match="another node is running with the control socket"):
        ControlSocket(str(path))
    assert ask(path)


def test_the_socket_of_a_killed_node_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(place))
    assert not alive(str(place))
    with pytest.raises(SetupError, match="no p2pvpn node is running at"):
        Client(str(place))
    with serving(place):
        assert ask(place)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "control"
    place.write_text("precious")
    with pytest.raises(SetupError, match="is not a socket"):
        ControlSocket(str(place))
    assert place.read_text() == "precious"


def test_places_where_no_socket_can_be_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file or directory"):
        ControlSocket(str(tmp_path / "nowhere" / "control"))
    with pytest.raises(SetupError, match="longer than 107 bytes"):
        ControlSocket(str(tmp_path / ("x" * 200)))


def test_a_waiting_command_returns_when_the_node_ends(tmp_path: Path) -> None:
    place = tmp_path / "control"
    with ExitStack() as waiting:
        with serving(place):
            client = waiting.enter_context(Client(str(place)))
            client.ask("x")
        client.wait_for_end()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_it_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@p2pvpn-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("place", ["", "relative", "/nowhere/at/all"])
def test_without_systemd_notifying_does_nothing(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    assert not notify("READY=1")
