"""How many may be connected, over all gateways.

The truth is here: how many connections this process has, by site. Redis is told what has changed,
and lets in who waits, a batch at a time: whoever comes or goes while a call is under way is part
of the next one. When Redis does not know what it was told (it was emptied, or this process was
silent for too long), everything is told again. While it cannot be asked, this process lets in by
its own count; nobody who is connected is sent away.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Final

from certbus.errors import UNAVAILABLE
from certbus.limits.clients import AdmittedCount, ConnectionCounts, ConnectionDelta
from gateway.admission.policy import Policy
from gateway.admission.redis_fallback import RedisWithFallback, UnavailableError

_AT_ONCE: Final = 500  # sites in a call
_GATHER: Final = 0.02  # seconds that those who have gone wait for more of them
_FAREWELL: Final = 1.0  # seconds; a Redis that is gone is not waited for

_IN: Final = AdmittedCount(1, full=False)


class ConnectionLimiter:
    """Connections of this gateway, as part of all.

    Args:
        counts: in Redis.
        beat: seconds between two signs of life.
        policy: has the limits.

    Attributes:
        held: connections by site.
        policy: may be replaced.
    """

    def __init__(self, counts: ConnectionCounts, beat: float, policy: Policy) -> None:
        self.held: Counter[str] = Counter()
        self.policy = policy
        self._counts = counts
        self._beat = beat
        self._shared = RedisWithFallback("connections")
        self._known = False  # whether Redis has been told, apart from what has changed
        self._changed: dict[str, None] = {}  # in order
        self._waiting: dict[str, list[asyncio.Future[AdmittedCount]]] = {}
        self._wake = asyncio.Event()
        self._gathering = False

    async def acquire(self, site: str) -> AdmittedCount:
        """Wait to be let in; whoever is (count is 1) has to `leave` once."""
        future: asyncio.Future[AdmittedCount] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(site, []).append(future)
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result().count:
                self.release(site)
            raise

    def acquire_unlimited(self, site: str) -> None:
        """Come in without being asked, while there are no limits."""
        self.held[site] += 1

    def release(self, site: str) -> None:
        """Go. Redis is told soon."""
        self.held[site] -= 1
        if self.held[site] <= 0:
            del self.held[site]
        if not self._known:
            return
        self._changed[site] = None
        if not self._gathering:
            self._gathering = True
            asyncio.get_running_loop().call_later(_GATHER, self._gathered)

    async def run(self) -> None:
        """Tell Redis and let in who waits, until cancelled."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._beat):
                        await self._wake.wait()
                self._wake.clear()
                if self.policy.limits_connections and not self._shared.in_backoff:
                    await self._tell()
                else:
                    self._let_in_alone()
                    await self._stop_telling()
        finally:
            with suppress(*UNAVAILABLE, TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._counts.remove()

    def _gathered(self) -> None:
        self._gathering = False
        self._wake.set()

    def _forget_redis(self) -> None:
        """Tell everything again the next time."""
        self._known = False
        self._changed.clear()

    async def _stop_telling(self) -> None:
        """There are no limits any more: Redis need not know who is connected."""
        if self._known:
            self._forget_redis()
            with suppress(UnavailableError):
                await self._shared.call(self._counts.remove())

    async def _tell(self) -> None:
        try:
            if not self._known:
                await self._shared.call(self._counts.reset())
                self._known = True
                self._changed = dict.fromkeys(self.held)
            await self._tell_some()  # a sign of life, if nothing else
            while self._known and (self._changed or self._waiting):
                await self._tell_some()
        except UnavailableError:
            self._forget_redis()
            self._let_in_alone()

    async def _tell_some(self) -> None:
        sites = list(islice(dict.fromkeys(chain(self._waiting, self._changed)), _AT_ONCE))
        queues = [self._waiting.pop(site, []) for site in sites]
        for site in sites:
            self._changed.pop(site, None)
        connected = [
            ConnectionDelta(site, self.held[site], sum(not future.done() for future in queue))
            for site, queue in zip(sites, queues, strict=True)
        ]
        answers: list[AdmittedCount] | None = None
        try:
            answers = await self._shared.call(
                self._counts.apply(
                    self.policy.max_connections, self.policy.max_per_address, connected
                )
            )
        finally:
            if answers is None:
                for site, queue in zip(sites, queues, strict=True):
                    if queue:
                        self._waiting[site] = queue + self._waiting.get(site, [])
        if answers is None:
            self._forget_redis()
            self._wake.set()
            return
        for site, queue, answer in zip(sites, queues, answers, strict=True):
            self._let_in(site, queue, answer)

    def _let_in(
        self, site: str, queue: Sequence[asyncio.Future[AdmittedCount]], answer: AdmittedCount
    ) -> None:
        left = answer.count
        for future in queue:
            if future.done():
                continue
            if left:
                left -= 1
                self.held[site] += 1
                future.set_result(_IN)
            else:
                future.set_result(AdmittedCount(0, answer.full))
        if left and self._known:  # some have hung up meanwhile
            self._changed[site] = None

    def _let_in_alone(self) -> None:
        """Let in who waits by this process's own count."""
        waiting, self._waiting = self._waiting, {}
        policy, total = self.policy, self.held.total()
        for site, queue in waiting.items():
            wanted = sum(not future.done() for future in queue)
            room = room_for_one = wanted
            if policy.limits_connections and policy.max_connections is not None:
                room = max(policy.max_connections - total, 0)
            if policy.limits_connections and policy.max_per_address is not None:
                room_for_one = max(policy.max_per_address - self.held[site], 0)
            let_in = min(wanted, room, room_for_one)
            total += let_in
            self._let_in(site, queue, AdmittedCount(let_in, room < min(wanted, room_for_one)))
