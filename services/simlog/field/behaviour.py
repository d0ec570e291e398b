"""Limits, latency and errors of one request to a log with a profile. Pure: no clock, no I/O."""

import time
from collections import OrderedDict, deque
from email.utils import formatdate

from msgspec.structs import replace

from certhttp.protocol import Request
from simlog.ctlog.request_target import RequestTarget
from simlog.ctlog.static_ct import dropped_partial, named_tile
from simlog.http_server import Response, broken_off
from simlog.profile import (
    AnonymousRate,
    Budget,
    ConnectionRate,
    Delay,
    Limit,
    Profile,
    RetryAfter,
    SharedNames,
    SmallRequests,
    Startup,
)
from simlog.seeded import choose, uniform

MAX_CONNECTIONS = 10_000
MAX_TILES = 100_000


class Bucket:
    """A token bucket."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Take one token; return whether there was one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class OperatorBudget:
    """Requests in a row to all logs of one operator, then a pause (`Budget`)."""

    def __init__(self) -> None:
        self._used = 0
        self._until = 0.0

    def refused_for(self, budget: Budget, now: float) -> float:
        """Count a request; return how many seconds the operator refuses, 0 if it answers."""
        if now < self._until:
            return self._until - now
        self._used += 1
        if self._used <= budget.requests:
            return 0.0
        self._used = 0
        self._until = now + budget.pause
        return budget.pause


class Behaviour:
    """One log's limits and latencies.

    Args:
        profile: how it behaves.
        seed: of the world.
        log: the log's name, which labels its random numbers.
        zero: the world's time zero, seconds since the epoch.
        budget: that of the operator, shared by its logs.
    """

    def __init__(
        self, profile: Profile, seed: int, log: str, zero: float, budget: OperatorBudget
    ) -> None:
        self.profile = profile
        self._seed = seed
        self._label = f"field {log}"
        self._zero = zero
        self._budget = budget
        self._requests = 0
        self._connections: OrderedDict[int, Bucket] = OrderedDict()
        self._small: Bucket | None = None
        self._warm: set[str] = set()
        self._under_way: deque[float] = deque()

    def refusal(self, request: Request, target: RequestTarget, now: float) -> Response | None:
        """Return the 429 that this request meets, or None."""
        self._requests += 1
        for limit in self.profile.limits:
            pause = self._refused_for(limit, request, target, now)
            if pause > 0:
                return _too_many(pause, limit.retry_after, self.profile.head.at(self._luck("late")))
        return None

    def gone(self, target: RequestTarget, size: int) -> Response | None:
        """Return the 404 of a partial tile that no longer exists, or None."""
        return dropped_partial(target.path, size) if self.profile.drops_partials else None

    def late(self, target: RequestTarget, response: Response, now: float) -> Response:
        """Return the answer with its latency, or one that breaks off."""
        delay = self._latency(target).at(self._luck("latency"))
        while self._under_way and self._under_way[0] <= now:
            self._under_way.popleft()
        above = self.profile.resets_above
        if above is not None and named_tile(target.path) is not None:
            if len(self._under_way) >= above and isinstance(response.body, bytes):
                response = replace(response, body=broken_off(response.body))
            self._under_way.append(now + delay)
        return replace(response, delay=response.delay + delay)

    def _refused_for(
        self, limit: Limit, request: Request, target: RequestTarget, now: float
    ) -> float:
        """Return the seconds for which one limit refuses, 0 if it lets the request pass."""
        match limit:
            case Budget():
                return self._budget.refused_for(limit, now)
            case ConnectionRate():
                return self._connection(limit, request, now)
            case AnonymousRate():
                agent = request.headers.get("user-agent", "")
                is_named = "@" in agent or "://" in agent
                return limit.pause * (not is_named and self._luck("anonymous") < limit.share)
            case SharedNames():
                agent = request.headers.get("user-agent", "").lower()
                return limit.pause * (not agent or agent.startswith(limit.names))
            case SmallRequests():
                return limit.pause * self._is_one_small_too_many(limit, target, now)
            case Startup():
                return max(0.0, self._zero + limit.seconds - now)

    def _latency(self, target: RequestTarget) -> Delay:
        profile = self.profile
        cold = profile.cold
        if (
            cold is not None
            and named_tile(target.path) is not None
            and target.path not in self._warm
        ):
            if len(self._warm) >= MAX_TILES:
                self._warm.clear()
            self._warm.add(target.path)
            return cold
        match target.part:
            case "head":
                return profile.head
            case "proofs":
                return profile.proofs
            case "issuers":
                return profile.issuers
            case _:
                return profile.entries

    def _connection(self, limit: ConnectionRate, request: Request, now: float) -> float:
        bucket = self._connections.get(request.connection)
        if bucket is None:
            bucket = self._connections[request.connection] = Bucket(limit.rate, limit.burst)
            if len(self._connections) > MAX_CONNECTIONS:
                self._connections.popitem(last=False)
        return 0.0 if bucket.take(now) else 1 / limit.rate

    def _is_one_small_too_many(
        self, limit: SmallRequests, target: RequestTarget, now: float
    ) -> bool:
        if target.path != "ct/v1/get-entries" or len(target.entries) >= limit.below:
            return False
        if self._small is None:
            self._small = Bucket(limit.rate, limit.burst)
        return not self._small.take(now)

    def _luck(self, what: str) -> float:
        return uniform(choose(self._seed, f"{self._label} {what}", self._requests, 4))


def _too_many(pause: float, retry_after: RetryAfter | None, delay: float) -> Response:
    seconds = max(1, round(pause + 0.5))
    headers = {
        None: (),
        "seconds": (("retry-after", str(seconds)),),
        "date": (("retry-after", formatdate(time.time() + seconds, usegmt=True)),),
    }[retry_after]
    return Response(b"too many requests\n", status=429, headers=headers, delay=delay)
