"""The control API: change faults and log lists at run time, from this machine only.

GET     /control                  the faults of the answers of all logs
GET     /control/<log>/faults     those of one
PUT     /control/<log>/faults     replaces them: one fault or an array, {"kind": "latency", ...}
POST    /control/<log>/faults     adds to them
DELETE  /control/<log>/faults     clears them
PUT     /control/lists/<list>     replaces the edition of a log list: {"number": 1, "states": {...}}

<log> is a name or a pattern; `*` matches all logs. Each answers with the faults that are now set,
by log. Seconds count from when a fault was set. `malformed` is in the tree, so that only the
specification can set it. <list> is log_list or unsigned_list; its edition is `log_list.Edition`.
"""

import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Any

import msgspec

from certhttp.protocol import Request
from simlog.api.log_list import Edition, LogList
from simlog.fault_types import ServedFault
from simlog.faults.active import ActiveFaults
from simlog.http_server import Refused, Response


def respond(
    active: ActiveFaults, logs: Sequence[str], lists: Mapping[str, LogList], request: Request
) -> Response:
    """Answer a request to /control.

    Raises:
        Refused: 403 for another machine, 404, 405, or 400 for an invalid body.
    """
    if not ip_address(request.peer).is_loopback:
        raise Refused(403, f"/control is limited to loopback addresses, not {request.peer}")
    match request.path.split("/"):
        case ["", "control"] if request.method == "GET":
            pattern = "*"
        case ["", "control", pattern, "faults"]:
            pass
        case ["", "control", "lists", name] if name in lists and request.method == "PUT":
            lists[name].edition = _decoded(request.body, Edition, "invalid edition")
            return Response(request.body, "application/json")
        case _:
            raise Refused(404, f"Not found: {request.path}. Faults are at /control/<log>/faults")
    named = [name for name in logs if fnmatchcase(name, pattern)]
    if not named:
        raise Refused(404, f"no log named {pattern!r}; logs: {', '.join(logs)}")
    _apply(active, named, request)
    body = msgspec.json.encode({name: active.of(name) for name in named})
    return Response(body, "application/json")


def _apply(active: ActiveFaults, logs: Sequence[str], request: Request) -> None:
    now = time.time()
    match request.method:
        case "GET":
            return
        case "DELETE":
            faults: Sequence[ServedFault] = ()
        case "PUT" | "POST":
            faults = _faults(request.body)
        case method:
            raise Refused(405, f"Method {method} not allowed; use GET, PUT, POST or DELETE")
    change = active.add if request.method == "POST" else active.put
    for name in logs:
        change(name, faults, now)


def _faults(body: bytes) -> Sequence[ServedFault]:
    kind = list[ServedFault] | ServedFault
    decoded: list[ServedFault] | ServedFault = _decoded(body, kind, "invalid faults")
    return decoded if isinstance(decoded, list) else [decoded]


def _decoded(body: bytes, kind: Any, otherwise: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Refused(400, f"{otherwise}: {error}") from error
