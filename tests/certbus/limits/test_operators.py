"""Request slots: one operator, many processes that reserve."""

import asyncio

import pytest
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.limits.operators import OperatorSlots
from tests.certbus.bus import KEYS, LOG, OTHER_LOG
from tests.certbus.servers import RedisServer
from tests.certbus.streams.test_full_redis import TOO_LITTLE, allow
from tests.waiting import until


async def test_slots_are_an_interval_apart_for_all_processes_together(
    client: Redis, server: RedisServer
) -> None:
    async with connect(server.url) as other:
        workers = [OperatorSlots(client, KEYS), OperatorSlots(other, KEYS)]
        names = ["Example", "EXAMPLE"]
        began = asyncio.get_running_loop().time()
        turns = [(await workers[n % 2].reserve(names[n % 2], 10)).wait for n in range(6)]
        spent = asyncio.get_running_loop().time() - began
    assert turns[0] == 0
    # Each wait counts from the moment of its request.
    for n, turn in enumerate(turns):
        assert 10 * n - spent <= turn <= 10 * n
    assert (await OperatorSlots(client, KEYS).reserve("Another", 10)).wait == 0


async def test_unused_slots_do_not_accumulate(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    await operators.reserve("Example", 0.02)

    async def forgotten() -> bool:
        return not await client.exists(KEYS.operator("example"))

    await until(forgotten, "an operator without requests leaves no key")
    assert (await operators.reserve("Example", 10)).wait == 0
    assert (await operators.reserve("Example", 10)).wait > 9


async def test_a_429_of_one_log_does_not_pause_its_operator(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    assert not await operators.record_429("Example", LOG, 60)
    assert not await operators.record_429("Example", LOG, 60)
    assert (await operators.reserve("Example", 0.001)).wait == 0


async def test_a_429_of_a_second_log_pauses_the_operator(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    await operators.record_429("Example", LOG, 60)
    assert await operators.record_429("Example", OTHER_LOG, 5)
    assert 50 < (await operators.reserve("Example", 0.001)).paused <= 60
    assert (await operators.reserve("Another", 0.001)).wait == 0


async def test_a_pause_is_of_the_logs_of_one_api(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    for log in (LOG, OTHER_LOG):
        await operators.record_429("Example", log, 60, api="rfc6962")
    slot = await operators.reserve("Example", 10, api="static-ct")
    assert (slot.wait, slot.paused) == (0, 0)
    assert (await operators.reserve("Example", 10, api="rfc6962")).paused > 50
    assert (await operators.reserve("Example", 10, api="static-ct")).wait <= 10, "no slot is lost"
    assert await operators.record_429("Example", "third", 60, api="static-ct")
    assert (await operators.reserve("Example", 10, api="static-ct")).paused > 50


async def test_an_operator_is_paused_for_a_limited_time(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    await operators.record_429("Example", LOG, 3600)
    assert await operators.record_429("Example", OTHER_LOG, 3600)
    assert 290 < (await operators.reserve("Example", 0.001)).paused <= 300


async def test_an_operator_that_requests_a_long_pause_is_taken_to_count_requests(
    client: Redis,
) -> None:
    operators = OperatorSlots(client, KEYS)
    await operators.record_429("Example", LOG, 9)
    assert (await operators.reserve("Example", 0.001)).counts == 0
    await operators.record_429("Example", LOG, 10)
    await operators.record_429("Example", LOG, 5, requested=False)
    assert 1790 < (await operators.reserve("EXAMPLE", 0.001)).counts <= 1800
    assert 1790 < await client.ttl(KEYS.operator("example")) <= 1801
    assert (await operators.reserve("Another", 0.001)).counts == 0


async def test_times_that_have_passed_do_not_return_when_the_clock_is_set_back(
    client: Redis,
) -> None:
    """Times are moved, because the clock of this Redis cannot be."""
    operators, key = OperatorSlots(client, KEYS), KEYS.operator("example")
    for log in (LOG, OTHER_LOG):
        await operators.record_429("Example", log, 0.02)

    async def ended() -> bool:
        return (await operators.reserve("Example", 0.001)).paused == 0

    await until(ended, "the pause ends")
    assert await client.hmget(key, "paused_until:rfc6962", "refused_until") == [None, None]
    hour = 3600 * 1_000_000
    for name in ("at", "next"):
        await client.hincrby(key, name, hour)
    for _ in range(3):
        slot = await operators.reserve("Example", 0.001)
        assert slot.paused == 0
        assert slot.wait < 1


async def test_a_pause_that_no_release_has_written_is_not_kept(client: Redis) -> None:
    """A release that does not know of it hides that the clock was set back."""
    day = 86400 * 1_000_000
    seconds, micros = await client.time()
    at = seconds * 1_000_000 + micros
    for name, time in {
        "at": at,
        "paused_until:rfc6962": at + day,
        "counts_until": at + day,
    }.items():
        await client.hset(KEYS.operator("example"), name, time)
    slot = await OperatorSlots(client, KEYS).reserve("Example", 0.001)
    assert (slot.paused, slot.counts) == (0, 0)


async def test_a_log_that_refuses_again_pauses_the_operator_while_another_waits(
    client: Redis,
) -> None:
    operators = OperatorSlots(client, KEYS)
    await operators.record_429("Example", LOG, 600)
    assert 290 < await operators.record_429("Example", OTHER_LOG, 1) <= 300
    await client.hdel(KEYS.operator("example"), "paused_until:rfc6962")  # as if it had ended
    assert await operators.record_429("Example", OTHER_LOG, 1) > 290


async def test_text_that_is_no_time_is_replaced(client: Redis) -> None:
    operators, key = OperatorSlots(client, KEYS), KEYS.operator("example")
    for field in ("at", "next", "refused_until", "paused_until:static-ct"):
        await client.hset(key, field, "none")
    assert (await operators.reserve("Example", 10)).wait == 0
    assert (await operators.reserve("Example", 10)).wait > 9


async def test_a_slot_is_as_far_ahead_as_requested(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    assert (await operators.reserve("Example", 0.001, lead=0.5)).wait == 0.5


async def test_an_expired_429_does_not_count(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    await operators.record_429("Example", LOG, 0)
    assert not await operators.record_429("Example", OTHER_LOG, 60)


async def test_a_clock_that_was_set_back_does_not_stop_everything(client: Redis) -> None:
    await client.hset(KEYS.operator("example"), "next", 1 << 52)
    assert (await OperatorSlots(client, KEYS).reserve("Example", 0.5)).wait == 0


async def test_a_full_redis_still_assigns_slots(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    await operators.reserve("Known", 10)
    await allow(client, TOO_LITTLE)
    assert (await operators.reserve("Known", 10)).wait > 9
    assert (await operators.reserve("Unknown", 10)).wait == 0
    assert (await operators.reserve("Unknown", 10)).wait > 9
    assert not await operators.record_429("Unknown", LOG, 10)


@pytest.mark.parametrize("name", ["lets encrypt", "LET'S  ENCRYPT", " Let-s Encrypt."])
async def test_spelling_makes_no_other_operator(client: Redis, name: str) -> None:
    operators = OperatorSlots(client, KEYS)
    await operators.reserve("Let's Encrypt", 10)
    assert (await operators.reserve(name, 10)).wait > 9


async def test_a_429_without_retry_after_pauses_no_other_log(client: Redis) -> None:
    operators = OperatorSlots(client, KEYS)
    for log in (LOG, OTHER_LOG):
        assert not await operators.record_429("Example", log, 5, requested=False)
    assert (await operators.reserve("Example", 0.001)).wait < 1
