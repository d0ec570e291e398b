"""The paths of a world.

/<log>/ct/v1/...                    an RFC 6962 log
/<log>/checkpoint, tile/, issuer/   a static-ct log
/log_list.json, /log_list.sig, /log_list_pubkey.pem    how clients find the logs
/unsigned_list.json                 the same as Apple has it: another list, without a signature
/config.yaml                        a CERTSTREAM_CONFIG that follows exactly them
/record                             every entry, and those shown but not committed to
/requests                           requests to each operator and log
/heads                              when each log with a profile showed which tree head
/load                               CPU of this process, and how late its answers were
/control                            which faults are in force; from this machine only
/world.json, /                      the state of the world, for programs and for people
"""

from collections.abc import Callable, Mapping
from itertools import chain

import msgspec

from certhttp.protocol import Request
from simlog.api import control, request_stats
from simlog.api.log_list import LogList
from simlog.api.request_stats import LoadMeter
from simlog.ctlog import rfc6962
from simlog.ctlog.log import ServedLog
from simlog.ctlog.static_ct import StaticLog
from simlog.faults.inject import FaultInjector
from simlog.faults.misbehaviour import Misbehaviour
from simlog.http_server import Refused, Response
from simlog.oracle import ground_truth
from simlog.world import World

Endpoint = Callable[[Request], Response]


class Routes:
    """The paths of a world that is served at `url` (no trailing slash).

    Attributes:
        load: what serving them costs.
    """

    def __init__(self, world: World, url: str) -> None:
        issuers = [issuer for each in world.certificates.authorities for issuer in each.chain]
        self._world = world
        self._url = url
        self._list = LogList(world, url)
        self._unsigned = LogList(world, url, signed=False)
        self._lists = {"log_list": self._list, "unsigned_list": self._unsigned}
        self._misbehaviour = Misbehaviour(world.spec.seed)
        self._injector = FaultInjector(world.spec, world.faults, world.heads, self._misbehaviour)
        self.load = LoadMeter()
        self._traffic = request_stats.empty_counts(world.spec.logs)
        self._static = {
            name: StaticLog(log.spec, world.spec, issuers)
            for name, log in world.logs.items()
            if log.spec.kind == "static-ct" or log.spec.is_hybrid
        }
        self._endpoints: dict[str, Endpoint] = {
            "": lambda _: self._overview(),
            "world.json": lambda _: self._status(),
            "record": lambda _: self._record(),
            "requests": lambda _: Response(msgspec.json.encode(self._traffic), "application/json"),
            "heads": lambda _: self._heads(),
            "load": lambda _: Response(msgspec.json.encode(self.load.report()), "application/json"),
            "config.yaml": lambda _: Response(self._list.config, "application/yaml"),
            "log_list.json": lambda request: self._list.serve(_known(request)),
            "log_list.sig": lambda _: self._list.serve_signature(),
            "log_list_pubkey.pem": lambda _: Response(self._list.public_key),
            "unsigned_list.json": lambda request: self._unsigned.serve(_known(request)),
        }

    def respond(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            Refused: the answer is an error.
        """
        name, _, path = request.path.removeprefix("/").partition("/")
        if name == "control":
            return control.respond(self._world.faults, list(self._world.logs), self._lists, request)
        if request.method != "GET":
            raise Refused(405, f"Method {request.method} not allowed; use GET")
        if log := self._world.logs.get(name):
            response = self._injector.respond(log, path, request, self._endpoints_of_log)
            self._traffic.count(log.spec, log.head.size, response)
            return response
        if not path and (endpoint := self._endpoints.get(name)):
            return endpoint(request)
        raise Refused(404, f"Not found: {request.path}. See / for available paths")

    def _endpoints_of_log(self, log: ServedLog, path: str, query: Mapping[str, str]) -> Response:
        if log.spec.kind == "static-ct":
            return self._static[log.spec.name].respond(log, path, self._list.url_of(log))
        if tiles := self._static.get(log.spec.name):
            tile = tiles.full_data_tile(log, path)
            if tile is not None:
                return tile
        return rfc6962.respond(log, path, query, self._world.spec.max_entries)

    def _record(self) -> Response:
        lines = chain(self._world.entries(), list(self._misbehaviour.uncommitted.values()))
        return Response(ground_truth.write_jsonl(lines), "application/x-ndjson")

    def _heads(self) -> Response:
        shown = {name: list(heads.shown) for name, heads in self._world.heads.items()}
        return Response(msgspec.json.encode(shown), "application/json")

    def _status(self) -> Response:
        logs = [
            {"name": name, "kind": log.spec.kind, "url": self._list.url_of(log), "size": size}
            for name, log in self._world.logs.items()
            for size in [log.head.size]
        ]
        status = {"spec": self._world.spec, "complete": self._world.complete, "logs": logs}
        return Response(msgspec.json.encode(status), "application/json")

    def _overview(self) -> Response:
        spec = self._world.spec
        lines = [
            f"Simulated CT logs, seed {spec.seed}: {spec.rate:g} new certificates a second.",
            f"{spec.duplicates:.0%} of the entries repeat what another log holds.",
            "",
            *(
                f"{self._list.url_of(log)}  {log.spec.kind}, {log.head.size} entries"
                for log in self._world.logs.values()
            ),
            "",
            *(f"{self._url}/{name}" for name in self._endpoints if name),
        ]
        return Response(("\n".join(lines) + "\n").encode())


def _known(request: Request) -> str:
    return request.headers.get("if-none-match", "")
