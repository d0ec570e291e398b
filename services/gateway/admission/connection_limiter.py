"""Connection limits over all gateways.

Each gateway owns the count of its connections by address group. It sends changes to Redis, which
admits waiting connections, in batches: what changes during a call is part of the next one. When
Redis has lost the counts of this gateway (it was emptied, or the counts expired), the gateway sends
all of them. While Redis is unavailable, the gateway admits by its own count. No established
connection is closed.
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

_MAX_BATCH: Final = 500  # address groups per call
_RELEASE_DELAY_SECS: Final = 0.02  # collects releases into one call
_REMOVE_TIMEOUT_SECS: Final = 1.0

_ADMITTED: Final = AdmittedCount(1, full=False)


class ConnectionLimiter:
    """The connections of this gateway, as part of those of all gateways.

    `run` alone calls Redis.

    Args:
        counts: in Redis.
        heartbeat_secs: between two calls that keep the counts from expiring.
        policy: has the limits.

    Attributes:
        held: number of connections by address group.
        policy: may be replaced at any time.
    """

    def __init__(self, counts: ConnectionCounts, heartbeat_secs: float, policy: Policy) -> None:
        self.held: Counter[str] = Counter()
        self.policy = policy
        self._counts = counts
        self._heartbeat_secs = heartbeat_secs
        self._shared = RedisWithFallback("connections")
        self._synced = False  # whether Redis has all counts but the changed ones
        self._changed: dict[str, None] = {}  # in order
        self._waiting: dict[str, list[asyncio.Future[AdmittedCount]]] = {}
        self._wake = asyncio.Event()
        self._release_scheduled = False

    async def acquire(self, group: str) -> AdmittedCount:
        """Wait for admission. An admitted caller (count is 1) must call `release` once."""
        future: asyncio.Future[AdmittedCount] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, []).append(future)
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result().count:
                self.release(group)
            raise

    def acquire_unlimited(self, group: str) -> None:
        """Count a connection while there are no limits."""
        self.held[group] += 1

    def release(self, group: str) -> None:
        """Remove a connection. The next call sends the change to Redis."""
        self.held[group] -= 1
        if self.held[group] <= 0:
            del self.held[group]
        if not self._synced:
            return
        self._changed[group] = None
        if not self._release_scheduled:
            self._release_scheduled = True
            asyncio.get_running_loop().call_later(_RELEASE_DELAY_SECS, self._send_releases)

    async def run(self) -> None:
        """Send counts to Redis and admit waiting connections, until cancelled."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_secs):
                        await self._wake.wait()
                self._wake.clear()
                if self.policy.limits_connections and not self._shared.in_backoff:
                    await self._sync()
                else:
                    self._admit_locally()
                    await self._remove_counts()
        finally:
            with suppress(*UNAVAILABLE, TimeoutError):
                async with asyncio.timeout(_REMOVE_TIMEOUT_SECS):
                    await self._counts.remove()

    def _send_releases(self) -> None:
        self._release_scheduled = False
        self._wake.set()

    def _invalidate(self) -> None:
        """Have the next call send all counts."""
        self._synced = False
        self._changed.clear()

    async def _remove_counts(self) -> None:
        """Remove the counts from Redis: there are no limits."""
        if self._synced:
            self._invalidate()
            with suppress(UnavailableError):
                await self._shared.call(self._counts.remove())

    async def _sync(self) -> None:
        try:
            if not self._synced:
                await self._shared.call(self._counts.reset())
                self._synced = True
                self._changed = dict.fromkeys(self.held)
            await self._apply_batch()  # at least a heartbeat
            while self._synced and (self._changed or self._waiting):
                await self._apply_batch()
        except UnavailableError:
            self._invalidate()
            self._admit_locally()

    async def _apply_batch(self) -> None:
        groups = list(islice(dict.fromkeys(chain(self._waiting, self._changed)), _MAX_BATCH))
        queues = [self._waiting.pop(group, []) for group in groups]
        for group in groups:
            self._changed.pop(group, None)
        connected = [
            ConnectionDelta(group, self.held[group], sum(not future.done() for future in queue))
            for group, queue in zip(groups, queues, strict=True)
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
                for group, queue in zip(groups, queues, strict=True):
                    if queue:
                        self._waiting[group] = queue + self._waiting.get(group, [])
        if answers is None:
            self._invalidate()
            self._wake.set()
            return
        for group, queue, answer in zip(groups, queues, answers, strict=True):
            self._admit(group, queue, answer)

    def _admit(
        self, group: str, queue: Sequence[asyncio.Future[AdmittedCount]], answer: AdmittedCount
    ) -> None:
        left = answer.count
        for future in queue:
            if future.done():
                continue
            if left:
                left -= 1
                self.held[group] += 1
                future.set_result(_ADMITTED)
            else:
                future.set_result(AdmittedCount(0, answer.full))
        if left and self._synced:  # callers have been cancelled during the call
            self._changed[group] = None

    def _admit_locally(self) -> None:
        """Admit waiting connections by the count of this gateway."""
        waiting, self._waiting = self._waiting, {}
        policy, total = self.policy, self.held.total()
        for group, queue in waiting.items():
            requested = sum(not future.done() for future in queue)
            room = room_for_one = requested
            if policy.limits_connections and policy.max_connections is not None:
                room = max(policy.max_connections - total, 0)
            if policy.limits_connections and policy.max_per_address is not None:
                room_for_one = max(policy.max_per_address - self.held[group], 0)
            admitted = min(requested, room, room_for_one)
            total += admitted
            self._admit(group, queue, AdmittedCount(admitted, room < min(requested, room_for_one)))
