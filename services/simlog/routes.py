"""Which part of a world answers which path.

/<log>/ct/v1/...                    an RFC 6962 log
/<log>/checkpoint, tile/, issuer/   a static-ct log
/log_list.json, /log_list.sig, /log_list_pubkey.pem    how clients find the logs
/config.yaml                        a CERTSTREAM_CONFIG that follows exactly them
/record                             every entry, for the oracle
/world.json, /                      where the world stands, for programs and for people
"""

from collections.abc import Callable

import msgspec

from simlog import record, rfc6962
from simlog.loglist import LogList
from simlog.server import Refused, Request, Response
from simlog.static_ct import StaticLog
from simlog.world import World

Endpoint = Callable[[], Response]


class Routes:
    """The paths of a world that is served at `url` (no trailing slash)."""

    def __init__(self, world: World, url: str) -> None:
        issuers = [issuer for each in world.certificates.authorities for issuer in each.chain]
        self._world = world
        self._url = url
        self._list = LogList(world, url)
        self._static = {
            name: StaticLog(log, world.spec.seed, issuers)
            for name, log in world.logs.items()
            if log.spec.kind == "static-ct"
        }
        self._endpoints: dict[str, Endpoint] = {
            "": self._overview,
            "world.json": self._status,
            "record": lambda: Response(record.write(world.record()), "application/x-ndjson"),
            "config.yaml": lambda: Response(self._list.config, "application/yaml"),
            "log_list.json": lambda: Response(self._list.json, "application/json"),
            "log_list.sig": lambda: Response(self._list.signature, "application/octet-stream"),
            "log_list_pubkey.pem": lambda: Response(self._list.public_key),
        }

    def respond(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            Refused: the answer is an error.
        """
        name, _, path = request.path.removeprefix("/").partition("/")
        if log := self._world.logs.get(name):
            if log.spec.kind == "static-ct":
                return self._static[name].respond(path, self._list.url_of(log))
            return rfc6962.respond(log, path, request.query, self._world.spec.max_entries)
        if not path and (endpoint := self._endpoints.get(name)):
            return endpoint()
        raise Refused(404, f"nothing at {request.path}; / says what there is")

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
