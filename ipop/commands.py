"""What the control socket's commands mean: a request in, one answer out, now or later. Pure: knows no socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dht.crawl import CRAWL_DEADLINE_S
from dht.node import PingResult
from ipop.crawl_status import crawl_object
from ipop.group_status import groups_object, join_group, leave_group
from ipop.node import Target, VpnNode
from ipop.path_status import netcheck_object, proxies_object, shortcut_objects, why_object
from ipop.status import peer_objects, ping_object, status_object

Request = dict[str, Any]
Reply = Callable[[dict[str, Any]], None]

MAX_PEER_CHARS = 100


def success(result: object) -> dict[str, Any]:
    return {"ok": True, "result": result}


def failure(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}


class Commands:
    """Serves one node. `stop` is called for `down`, after the answer has been given."""

    def __init__(self, vpn: VpnNode, stop: Callable[[], None]) -> None:
        self._vpn, self._stop = vpn, stop

    def serve(self, request: Request, reply: Reply) -> None:
        """Calls `reply` exactly once."""
        match request.get("command"):
            case "status":
                reply(success(status_object(self._vpn)))
            case "peers":
                reply(success(peer_objects(self._vpn)))
            case "shortcuts":
                reply(success(shortcut_objects(self._vpn)))
            case "proxies":
                reply(success(proxies_object(self._vpn)))
            case "netcheck":
                reply(success(netcheck_object(self._vpn)))
            case "groups":
                groups_object(self._vpn, lambda groups: reply(success(groups)))
            case "group-join" | "group-leave":
                self._change_group(request, reply)
            case "crawl":
                self._crawl(request, reply)
            case "ping":
                self._with_target(request, reply, lambda target: self._ping(target, reply))
            case "why":
                self._with_target(request, reply, lambda target: reply(success(why_object(self._vpn, target))))
            case "down":
                reply(success(None))
                self._stop()
            case command:
                reply(failure(f"this node does not know the command '{command}': is it of another version?"))

    def _with_target(self, request: Request, reply: Reply, go_on: Callable[[Target], None]) -> None:
        peer = request.get("peer")
        if not isinstance(peer, str) or not 0 < len(peer) <= MAX_PEER_CHARS:
            reply(failure("the command needs a peer: its name, its virtual address or its id"))
            return

        def found(target: Target | str) -> None:
            if isinstance(target, str):
                reply(failure(target))
            else:
                go_on(target)

        self._vpn.find(peer, found)

    def _change_group(self, request: Request, reply: Reply) -> None:
        name, secret = request.get("name"), request.get("secret")
        if not isinstance(name, str) or not (secret is None or isinstance(secret, str)):
            reply(failure("the command needs a group's name, and its secret if that opens it"))
            return
        try:
            joins = request["command"] == "group-join"
            changed = join_group(self._vpn, name, secret) if joins else leave_group(self._vpn, name)
        except ValueError as error:
            reply(failure(str(error)))
        else:
            reply(success(changed))

    def _crawl(self, request: Request, reply: Reply) -> None:
        deadline_s, sequential = request.get("deadline_s", CRAWL_DEADLINE_S), request.get("sequential", False)
        if type(sequential) is not bool or type(deadline_s) not in (int, float) or not 0.1 <= deadline_s <= 600.0:
            reply(failure("a crawl's deadline is 0.1 to 600 seconds away"))
            return
        if not self._vpn.ring.member:
            reply(failure("this node is not in a ring: there is nothing to crawl yet"))
            return
        crawls = self._vpn.ring.crawls
        begin = crawls.walk if sequential else crawls.crawl
        begin(lambda crawled: reply(success(crawl_object(crawled, sequential=sequential))), float(deadline_s))

    def _ping(self, target: Target, reply: Reply) -> None:
        def answered(result: PingResult | None) -> None:
            reply(success(ping_object(self._vpn, target, result)))

        self._vpn.ring.ping(target.id, answered)
