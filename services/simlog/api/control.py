"""Switching faults while the logs are served: for tests, from this machine only.

GET     /control                  the faults of all logs
GET     /control/<log>/faults     those of one
PUT     /control/<log>/faults     replaces them: one fault or an array, {"kind": "latency", ...}
POST    /control/<log>/faults     adds to them
DELETE  /control/<log>/faults     clears them
PUT     /control/lists/<list>     replaces what a log list says: {"number": 1, "states": {...}}

<log> is a name or a pattern, so `*` are all logs. Each answers with the faults that are now set, by
log. Seconds count from when a fault was switched on. <list> is log_list or unsigned_list; what it
can say is `loglist.Edition`.
"""

import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Any

import msgspec

from simlog.api.log_list import Edition, LogList
from simlog.fault_types import AnyFault
from simlog.faults.active import ActiveFaults
from simlog.http_server import Refused, Request, Response


def respond(
    switches: ActiveFaults, logs: Sequence[str], lists: Mapping[str, LogList], request: Request
) -> Response:
    """Answer a request to /control.

    Raises:
        Refused: 403 from elsewhere, 404 and 405 for what is not there, 400 for no faults.
    """
    if not ip_address(request.peer).is_loopback:
        raise Refused(403, f"/control is for this machine only, not for {request.peer}")
    match request.path.split("/"):
        case ["", "control"] if request.method == "GET":
            pattern = "*"
        case ["", "control", pattern, "faults"]:
            pass
        case ["", "control", "lists", name] if name in lists and request.method == "PUT":
            lists[name].edition = _decoded(request.body, Edition, "no edition")
            return Response(request.body, "application/json")
        case _:
            raise Refused(404, f"nothing at {request.path}; faults are at /control/<log>/faults")
    named = [name for name in logs if fnmatchcase(name, pattern)]
    if not named:
        raise Refused(404, f"no log is called {pattern!r}: {', '.join(logs)}")
    _switch(switches, named, request)
    body = msgspec.json.encode({name: switches.of(name) for name in named})
    return Response(body, "application/json")


def _switch(switches: ActiveFaults, logs: Sequence[str], request: Request) -> None:
    now = time.time()
    match request.method:
        case "GET":
            return
        case "DELETE":
            faults: Sequence[AnyFault] = ()
        case "PUT" | "POST":
            faults = _faults(request.body)
        case method:
            raise Refused(405, f"{method} is not possible here, only GET, PUT, POST, DELETE")
    change = switches.add if request.method == "POST" else switches.put
    for name in logs:
        change(name, faults, now)


def _faults(body: bytes) -> Sequence[AnyFault]:
    decoded: list[AnyFault] | AnyFault = _decoded(body, list[AnyFault] | AnyFault, "no faults")
    return decoded if isinstance(decoded, list) else [decoded]


def _decoded(body: bytes, kind: Any, otherwise: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Refused(400, f"{otherwise}: {error}") from error
