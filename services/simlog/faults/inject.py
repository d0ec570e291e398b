"""Answers of a log with faults: between the routes and the endpoints of a log.

request -> the log's limits -> which faults hit it -> narrowed -> the log as it misbehaves
        -> the answer -> broken -> late
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from certhttp.protocol import Request
from simlog.ctlog.log import Log, ServedLog
from simlog.ctlog.request_target import classify_request
from simlog.faults import http_faults
from simlog.faults.active import ActiveFaults
from simlog.faults.misbehaviour import HeadOverride, Misbehaviour
from simlog.field.behaviour import Behaviour, OperatorBudget
from simlog.field.heads import HeadSchedule
from simlog.http_server import Refused, Response
from simlog.spec import Spec

Endpoints = Callable[[ServedLog, str, Mapping[str, str]], Response]


class FaultInjector:
    """The logs of a world, with their limits and their faults."""

    def __init__(
        self,
        spec: Spec,
        active: ActiveFaults,
        heads: Mapping[str, HeadSchedule],
        misbehaviour: Misbehaviour,
    ) -> None:
        budgets: defaultdict[str, OperatorBudget] = defaultdict(OperatorBudget)
        self._active = active
        self._misbehaviour = misbehaviour
        self._max_entries = spec.max_entries
        self._heads = heads
        self._behaviours = {
            log.name: Behaviour(log.profile, spec.seed, log.name, spec.start, budgets[log.operator])
            for log in spec.logs
            if log.profile is not None
        }

    def respond(self, log: Log, path: str, request: Request, endpoints: Endpoints) -> Response:
        """Answer a request below the log's URL, with the log's faults."""
        behaviour = self._behaviours.get(log.spec.name)
        if behaviour is None:
            return self._with_faults(log, log, path, request.query, endpoints)
        now = time.time()
        target = classify_request(path, request.query, behaviour.profile.page)
        refusal = behaviour.refusal(request, target, now) or behaviour.gone(target, log.head.size)
        if refusal is not None:
            return refusal
        shown: ServedLog = log
        if target.part == "head" and (older := self._heads[log.spec.name].older(now)):
            shown = HeadOverride(log, lambda _: older)
        response = self._with_faults(log, shown, path, request.query, endpoints)
        return behaviour.late(target, response, now)

    def _with_faults(
        self,
        log: Log,
        honest: ServedLog,
        path: str,
        query: Mapping[str, str],
        endpoints: Endpoints,
    ) -> Response:
        if not self._active.has_faults(log.spec.name):
            return _answered(endpoints, honest, path, query)
        target = classify_request(path, query, self._max_entries)
        size = log.head.size
        hits = self._active.hits(log.spec.name, target, size, time.time())
        for hit in hits:
            target = http_faults.narrowed(hit.active.fault, hit.luck, target)
        shown = self._misbehaviour.shown(log, [hit.active for hit in hits])
        response = _answered(endpoints, shown, target.path, target.query)
        for hit in hits:
            response = http_faults.broken(hit.active.fault, hit.luck, target, size, response)
        return response


def _answered(
    endpoints: Endpoints, log: ServedLog, path: str, query: Mapping[str, str]
) -> Response:
    try:
        return endpoints(log, path, query)
    except Refused as refusal:
        return refusal.response
