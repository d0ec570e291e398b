"""What a log with faults answers: between the routes and the endpoints of a log.

request -> which faults hit it -> narrowed -> the log as it is shown -> the answer -> broken
"""

import time
from collections.abc import Callable, Mapping

from simlog import breakage
from simlog.asked import understand
from simlog.lies import Lies
from simlog.log import Log, Shown
from simlog.server import Refused, Response
from simlog.switches import Switches

Endpoints = Callable[[Shown, str, Mapping[str, str]], Response]


class Troubled:
    """The logs of a world, with what is wrong with them."""

    def __init__(self, switches: Switches, lies: Lies, max_entries: int) -> None:
        self._switches = switches
        self._lies = lies
        self._max_entries = max_entries

    def respond(
        self, log: Log, path: str, query: Mapping[str, str], endpoints: Endpoints
    ) -> Response:
        """Answer a request below the log's URL, well or badly."""
        if not self._switches.troubled(log.spec.name):
            return _answered(endpoints, log, path, query)
        asked = understand(path, query, self._max_entries)
        size = log.head.size
        hits = self._switches.hits(log.spec.name, asked, size, time.time())
        for hit in hits:
            asked = breakage.narrowed(hit.switch.fault, hit.luck, asked)
        shown = self._lies.shown(log, [hit.switch for hit in hits])
        response = _answered(endpoints, shown, asked.path, asked.query)
        for hit in hits:
            response = breakage.broken(hit.switch.fault, hit.luck, asked, size, response)
        return response


def _answered(endpoints: Endpoints, log: Shown, path: str, query: Mapping[str, str]) -> Response:
    try:
        return endpoints(log, path, query)
    except Refused as refusal:
        return refusal.response
