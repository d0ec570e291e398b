"""What must hold of Redis and the logs after each end-to-end test, whatever it has done.

* Of each log, published + duplicates + rejected + skipped = next - start.
* The frontier of each log ends at its position.
* The streams hold the same ids, from the newest of their oldest ids on.
* Each stream holds each certificate at most once, in the order of ids, as a log committed to it.

A test that has ended Redis empties `Site.redis_url`: then nothing is checked. A Redis that should
answer and does not is an error. What simulated logs committed to is compared while they run.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from certbus.connection import connect
from certbus.keys import Keys
from ctparse.merkle import Frontier
from simlog.oracle.oracle import Delivery, judge
from tests.e2e.site import Site

_TIMEOUT_SECS = 30.0
_MISSED = ("lost", "gaps")
"""What a test may leave undone, or have trimmed."""


async def broken(site: Site) -> list[str]:
    """Return what does not hold; nothing without a Redis.

    Raises:
        redis.exceptions.RedisError, TimeoutError: Redis does not answer.
        httpx.TransportError: the simulated logs run and do not answer.
    """
    found: list[str] = []
    if not site.redis_url:
        return found
    async with asyncio.timeout(_TIMEOUT_SECS):
        found += [*await _wrong_accounts(site), *await _wrong_frontiers(site)]
        streams = await site.streams()
        found += differing_ids(streams)
        if any(process.name == "simlog" and process.running for process in site.processes):
            verdict = judge(await site.record(), streams)
            found += [
                f"{each.where}: {kind} {examples[:3]}"
                for each in verdict.findings
                for kind, examples in each.problems.items()
                if kind not in _MISSED
            ]
    return found


async def _wrong_accounts(site: Site) -> list[str]:
    return [
        f"accounts of {tally}"
        for tally in await site.tallies()
        if tally.accounted != tally.next - tally.start
    ]


async def _wrong_frontiers(site: Site) -> list[str]:
    wrong = []
    async with connect(site.redis_url) as client:
        for log in await site.logs():
            stored = await client.hmget(Keys().log(log.log_id), "next", "frontier")
            end, frontier = stored
            if frontier is None:
                continue
            assert isinstance(frontier, bytes)
            if Frontier.from_bytes(frontier).size != int(end or 0):
                wrong.append(f"{log.name}: frontier {frontier!r}, next {end!r}")
    return wrong


def differing_ids(streams: Sequence[Delivery]) -> list[str]:
    """Return which streams differ from the first one, where both hold something."""
    ids = [
        [msgspec.json.decode(message, type=_Message).id for message in stream.messages]
        for stream in streams
    ]
    if not all(ids):
        return []
    start = max((each[0] for each in ids), key=order_of)
    held = [[each for each in stream if order_of(each) >= order_of(start)] for stream in ids]
    return [
        f"{stream.where} has other ids than {streams[0].where} from {start} on"
        for stream, each in zip(streams, held, strict=True)
        if each != held[0]
    ]


def order_of(message_id: str) -> tuple[int, ...]:
    """Return the id of a message, or of a batch, as the numbers by which ids are ordered."""
    return tuple(map(int, message_id.split("-")))


class _Message(msgspec.Struct):
    id: str
