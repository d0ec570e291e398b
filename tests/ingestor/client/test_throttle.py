"""Requests wait for their operator's turn, whichever worker sends them, and for their log."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from certbus.connection import connect
from certbus.keys import Keys
from certbus.limits.operators import OperatorSlots, Slot
from certbus.logs.circuit_state import CircuitStatus
from certconf.settings import CTLog
from ingestor.client.errors import LogError, Throttled, UnexpectedStatus
from ingestor.client.http import Fetcher, http_client
from ingestor.client.log_availability import MAX_RESERVED
from ingestor.client.throttle import (
    CATCH_UP_SHARE,
    LATE_SECS,
    LONG_PAUSE_SECS,
    UNLIMITED_AFTER,
    OperatorThrottle,
    Purpose,
    RequestBudget,
    _Turn,
    request_interval,
)
from ingestor.log import Kind
from ingestor.redis_retry import RedisRetry
from launcher.runtime.embedded_redis import find_executable
from tests.certbus.servers import RedisServer
from tests.ingestor.client.available import available
from tests.ingestor.hostile import Answer, HostileServer, hostile_server, redirect
from tests.waiting import until

LIMIT = 1000
RFC6962, STATIC_CT = Kind.RFC6962, Kind.STATIC_CT
INTERVAL = 0.1


class Asker:
    """One log of one worker."""

    def __init__(self, redis: Redis, name: str, operator: str, interval: float = INTERVAL) -> None:
        self.availability = available(redis=redis, name=name, operator=operator, interval=interval)

    async def fetch(self, url: str, *, repeat: bool = False) -> bytes:
        """Send a request; `repeat`: as often as the policy permits."""
        async with http_client() as http:
            fetcher = Fetcher(http, "Test log", 5, availability=self.availability)
            if repeat:
                return await fetcher.get_log(url, LIMIT)
            return (await fetcher.attempt(url, LIMIT)).body


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(find_executable(), tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def redis(shared_server: RedisServer) -> AsyncIterator[Redis]:
    async with connect(shared_server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def web() -> AsyncIterator[HostileServer]:
    async with hostile_server() as hostile:
        hostile.answers["/calm"] = [Answer(b"calm")]
        yield hostile


def refusing(status: str, seconds: str) -> list[Answer]:
    return [Answer(status=status, headers={"retry-after": seconds}), Answer(b"calm")]


async def test_requests_to_an_operator_are_spaced_whoever_sends_them(
    redis: Redis, web: HostileServer
) -> None:
    logs = [Asker(redis, name, "Example") for name in ("one", "two", "three")]
    await asyncio.gather(*(log.fetch(f"{web.url}/calm") for log in logs * 4))
    times = [request.time for request in web.requests]
    assert len(times) == 12
    # What one request is late, the next one is early.
    for first, last in [(0, 11), (0, 6), (5, 11)]:
        assert times[last] - times[first] >= (last - first) * INTERVAL - LATE_SECS


async def test_each_redirect_takes_a_turn(redis: Redis, web: HostileServer) -> None:
    web.answers["/moved"] = [redirect("/moved/again")]
    web.answers["/moved/again"] = [redirect("/calm")]
    log = Asker(redis, "one", "Example", 2 * LATE_SECS)
    assert await log.fetch(f"{web.url}/moved") == b"calm"
    times = [request.time for request in web.requests]
    assert len(times) == 3
    assert times[2] - times[0] >= 2 * 2 * LATE_SECS - LATE_SECS


async def test_a_proof_does_not_wait_for_the_pages_of_its_log(redis: Redis) -> None:
    log = Asker(redis, "log", "Example", 0.01)
    taken: list[str] = []

    async def take(name: str) -> None:
        await log.availability.acquire("url", purpose=Purpose(name))
        taken.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name in ["entries"] * 10 + ["other"] * 5 + ["proof"]:
            tasks.create_task(take(name))
    assert taken[0] == "proof"
    # Those that have begun to wait come before tree heads.
    assert taken.index("other") == 1 + MAX_RESERVED


async def test_all_logs_of_an_operator_get_as_many_turns(redis: Redis) -> None:
    greedy, modest = Asker(redis, "greedy", "Example"), Asker(redis, "modest", "EXAMPLE")
    taken: list[str] = []

    async def take(asker: Asker, name: str) -> None:
        await asker.availability.acquire("url", purpose=Purpose.ENTRIES)
        taken.append(name)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(take(greedy, "greedy"))
        for _ in range(3):
            tasks.create_task(take(modest, "modest"))
    # One after the other, as long as both want to. On a busy machine each may miss a slot.
    assert taken[:6].count("modest") >= 2
    assert "modest" not in taken[9:]


async def test_operators_do_not_wait_for_each_other(redis: Redis, web: HostileServer) -> None:
    await OperatorSlots(redis, Keys()).reserve("Busy", 3600)
    busy = Asker(redis, "busy", "Busy", 3600)
    waiting = asyncio.create_task(busy.availability.acquire("url"))
    assert await Asker(redis, "other", "Other", 3600).fetch(f"{web.url}/calm") == b"calm"
    assert not waiting.done()
    waiting.cancel()


@pytest.mark.parametrize("interval", [INTERVAL, 0.0])
async def test_without_redis_no_request_is_sent(web: HostileServer, interval: float) -> None:
    async with connect("redis://127.0.0.1:1/0") as nowhere:
        log = Asker(nowhere, "log", "Example", interval)
        with capture_logs() as lines:
            asking = asyncio.create_task(log.fetch(f"{web.url}/calm"))
            await until(lambda: any(line["event"].startswith("redis unav") for line in lines))
        assert not asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert not web.requests


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_retry_after_leaves_the_log_alone(
    redis: Redis, web: HostileServer, status: str
) -> None:
    log, other = Asker(redis, "log", "Example", 0), Asker(redis, "other", "Example", 0)
    web.answers["/busy"] = refusing(status, "1")
    with pytest.raises(UnexpectedStatus, match="retry after 1 s"):
        await log.fetch(f"{web.url}/busy")
    with pytest.raises(Throttled, match=r"paused for \d\.\d s more"):
        await log.fetch(f"{web.url}/calm")
    assert [request.path for request in web.requests] == ["/busy"]
    assert await other.fetch(f"{web.url}/calm") == b"calm"

    async def answered() -> bool:
        try:
            return await log.fetch(f"{web.url}/busy") == b"calm"
        except Throttled:
            return False

    await until(answered, "the log is requested again")
    first, *_, last = [request for request in web.requests if request.path == "/busy"]
    assert last.time - first.time >= 0.99


async def test_two_logs_that_refuse_stop_all_requests_to_their_operator(
    redis: Redis, web: HostileServer
) -> None:
    one, two, three = (Asker(redis, name, "Example", 0.001) for name in ("one", "two", "three"))
    web.answers["/busy"] = [refusing("429 Too Many Requests", "1")[0]]
    for log in (one, two):
        with pytest.raises(UnexpectedStatus):
            await log.fetch(f"{web.url}/busy")
    assert await three.fetch(f"{web.url}/calm") == b"calm"
    first, _, last = web.requests
    assert last.time - first.time >= 0.99


async def test_a_log_that_is_being_tried_is_asked_once(redis: Redis, web: HostileServer) -> None:
    log = Asker(redis, "log", "Example", 0)
    web.answers["/down"] = [Answer(status="500 Internal Server Error")]
    with pytest.raises(LogError):
        await log.fetch(f"{web.url}/down", repeat=True)
    assert web.count("/down") == 3
    log.availability.restore(CircuitStatus("half-open", 3))
    with pytest.raises(LogError):
        await log.fetch(f"{web.url}/down", repeat=True)
    assert web.count("/down") == 4


async def test_a_429_without_retry_after_pauses_the_log_and_slows_its_operator_down(
    redis: Redis, web: HostileServer
) -> None:
    log, other = (Asker(redis, name, "Example", 0.01) for name in ("log", "other"))
    web.answers["/busy"] = [Answer(status="429 Too Many Requests")]
    for asker in (log, other):
        with pytest.raises(UnexpectedStatus):
            await asker.fetch(f"{web.url}/busy")
        with pytest.raises(Throttled, match=r"paused for [45]\.\d s more"):
            await asker.fetch(f"{web.url}/calm")
    assert web.count("/busy") == 2
    assert await Asker(redis, "third", "Example", 0.01).fetch(f"{web.url}/calm") == b"calm"


async def test_redis_learns_of_every_answer(redis: Redis, web: HostileServer) -> None:
    log = Asker(redis, "log", "Example", 0.01)
    web.answers["/busy"] = refusing("429 Too Many Requests", "0")
    for _ in range(6):
        await log.fetch(f"{web.url}/calm")
    with pytest.raises(UnexpectedStatus):
        await log.fetch(f"{web.url}/busy")
    answers = str(await redis.hget(Keys().operator("Example"), "answers"))
    assert answers.count("-") == 1
    await log.fetch(f"{web.url}/calm")
    await log.fetch(f"{web.url}/calm")
    answers = str(await redis.hget(Keys().operator("Example"), "answers"))
    assert answers.count("+") >= 1


async def test_all_logs_of_an_operator_learn_that_it_counts_requests(
    redis: Redis, web: HostileServer
) -> None:
    log = Asker(redis, "log", "Example", 0.01)
    web.answers["/busy"] = refusing("429 Too Many Requests", "60")
    assert log.availability.budget.value == "unknown"
    with pytest.raises(UnexpectedStatus):
        await log.fetch(f"{web.url}/busy")
    assert log.availability.budget.value == "limited"
    other = Asker(redis, "other", "EXAMPLE", 0.01)
    assert other.availability.budget.value == "unknown"
    await other.fetch(f"{web.url}/calm")
    assert other.availability.budget.value == "limited"


async def test_an_operator_that_answers_more_requests_than_one_counts_is_unlimited(
    redis: Redis,
) -> None:
    """Of each API alone: Cloudflare counts the requests to its RFC 6962 logs."""
    throttle = OperatorThrottle("Example", 0.0, OperatorSlots(redis, Keys()), RedisRetry())
    for _ in range(UNLIMITED_AFTER):
        assert throttle.budget(STATIC_CT) is RequestBudget.UNKNOWN
        throttle.answered(STATIC_CT)
    assert throttle.budget(STATIC_CT) is RequestBudget.UNLIMITED
    assert throttle.budget(RFC6962) is RequestBudget.UNKNOWN
    await throttle.record_429(STATIC_CT, "log", LONG_PAUSE_SECS - 1, requested=True)
    await throttle.record_429(STATIC_CT, "log", 60.0, requested=False)
    assert throttle.budget(STATIC_CT).value == "unlimited"
    await throttle.record_429(RFC6962, "log", LONG_PAUSE_SECS, requested=True)
    assert throttle.budget(STATIC_CT).value == "limited"
    throttle._counts_until = 0.0  # as if half an hour had passed
    assert throttle.budget(STATIC_CT).value == "unknown"


class Recording(OperatorThrottle):
    """Records of each slot whether a log that catches up got it."""

    served: list[bool]

    def _next(self) -> _Turn | None:
        behind = set(self._behind)
        turn = super()._next()
        self.served.append(turn in behind)
        return turn


async def test_logs_at_their_head_come_first_and_the_others_get_a_part(redis: Redis) -> None:
    throttle = Recording("Example", 0.005, OperatorSlots(redis, Keys()), RedisRetry())
    throttle.served = []
    async with asyncio.TaskGroup() as tasks:
        for is_behind in [True] * 20 + [False] * 10 * (CATCH_UP_SHARE - 1):
            tasks.create_task(throttle.acquire(RFC6962, is_behind=is_behind))
    one_round = [False] * (CATCH_UP_SHARE - 1) + [True]
    assert throttle.served == one_round * 10 + [True] * 10


async def test_a_log_at_its_head_does_not_wait_for_logs_of_the_other_api(redis: Redis) -> None:
    throttle = OperatorThrottle("Example", 0.02, OperatorSlots(redis, Keys()), RedisRetry())
    taken: list[Kind] = []

    async def take(kind: Kind, *, is_behind: bool) -> None:
        await throttle.acquire(kind, is_behind=is_behind)
        taken.append(kind)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(take(RFC6962, is_behind=True))
        await until(lambda: bool(taken), "the first slot")
        tasks.create_task(take(STATIC_CT, is_behind=False))
    # One slot may have been on its way.
    assert taken.index(STATIC_CT) <= 1 + CATCH_UP_SHARE


async def test_a_pause_of_one_api_stops_its_logs_alone(redis: Redis) -> None:
    """Also those that have reserved slots before it began."""
    throttle = OperatorThrottle("X", 0.1, OperatorSlots(redis, Keys()), RedisRetry())
    waiting = [asyncio.create_task(throttle.acquire(RFC6962, is_behind=False)) for _ in range(5)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    began = asyncio.get_running_loop().time()  # the pause begins later
    for log in ("first", "second"):
        await throttle.record_429(RFC6962, log, 1.5, requested=True)
    await asyncio.sleep(0)  # requests that have got their slot end
    done = sum(task.done() for task in waiting)
    for _ in range(3):
        await throttle.acquire(STATIC_CT, is_behind=False)
        is_paused = asyncio.get_running_loop().time() < began + 1.4
        assert not is_paused or sum(task.done() for task in waiting) == done
    await asyncio.wait(waiting)
    assert asyncio.get_running_loop().time() - began > 1.4


async def test_a_cancelled_request_leaves_its_slot_to_another(redis: Redis) -> None:
    throttle = OperatorThrottle("Example", 0.2, OperatorSlots(redis, Keys()), RedisRetry())
    await throttle.acquire(RFC6962, is_behind=False)
    first, second = (
        asyncio.create_task(throttle.acquire(RFC6962, is_behind=False)) for _ in range(2)
    )
    await until(lambda: len(throttle._reserving) == 2, "both have reserved")
    first.cancel()
    await second
    assert not throttle._at_head
    assert len(throttle._reserving) == 1, "the slot of the second request has not come yet"


async def test_every_request_gets_a_slot_or_an_error() -> None:
    """Cancelled ones, pauses and an error of Redis leave no other request without a reservation."""
    slots = Slots(*[0.001] * 40)
    throttle = throttle_of(slots)
    requests = [
        asyncio.create_task(throttle.acquire(kind, is_behind=is_behind))
        for _ in range(15)
        for kind in Kind
        for is_behind in (False, True)
    ]
    await until(requests[0].done, "the first slot")
    throttle._paused_until[RFC6962] = asyncio.get_running_loop().time() + 0.1
    for request in requests[::7]:
        request.cancel()
    async with asyncio.timeout(30):
        ended = await asyncio.gather(*requests, return_exceptions=True)
    assert {type(end) for end in ended} <= {
        type(None),
        asyncio.CancelledError,
        ZeroDivisionError,
    }
    assert 0 < ended.count(None) <= 40
    assert not throttle._at_head
    assert not throttle._behind


async def test_a_pause_delays_no_request_of_the_other_api() -> None:
    """Neither a cancelled request, nor an error, nor another pause takes its reservation."""
    throttle = throttle_of(Slots(*[0.001] * 3))
    loop = asyncio.get_running_loop()
    throttle._paused_until[RFC6962] = loop.time() + 60
    paused = [asyncio.create_task(throttle.acquire(RFC6962, is_behind=False)) for _ in range(4)]
    await until(lambda: throttle._asleep[RFC6962] == 4, "all wait for the pause")
    paused[0].cancel()
    await asyncio.wait(paused[:1])
    async with asyncio.timeout(30):
        await throttle.acquire(STATIC_CT, is_behind=False)
        throttle._paused_until[STATIC_CT] = loop.time() + 0.2
        await throttle.acquire(STATIC_CT, is_behind=True)
        await throttle.acquire(STATIC_CT, is_behind=False)
        with pytest.raises(ZeroDivisionError):
            await throttle.acquire(STATIC_CT, is_behind=False)
    assert not any(task.done() for task in paused[1:])
    for task in paused:
        task.cancel()
    await asyncio.gather(*paused, return_exceptions=True)


async def test_a_pause_makes_requests_that_wait_reserve_nothing(redis: Redis) -> None:
    slots = OperatorSlots(redis, Keys())
    throttle = OperatorThrottle("Example", 0.05, slots, RedisRetry())
    for log in ("first", "second"):
        await throttle.record_429(RFC6962, log, 60.0, requested=True)
    paused = [asyncio.create_task(throttle.acquire(RFC6962, is_behind=False)) for _ in range(20)]
    await until(lambda: throttle._asleep[RFC6962] == 20, "all wait for the pause")
    await throttle.acquire(STATIC_CT, is_behind=False)
    assert (await slots.reserve("Example", 0.05)).wait <= 0.05
    for task in paused:
        task.cancel()
    await asyncio.gather(*paused, return_exceptions=True)


async def test_a_pause_that_another_process_recorded_is_seen_with_the_next_slot(
    redis: Redis,
) -> None:
    slots = OperatorSlots(redis, Keys())
    throttle = OperatorThrottle("Example", 0.01, slots, RedisRetry())
    for log in ("first", "second"):
        await slots.record_429("Example", log, 60.0)
    async with asyncio.timeout(30):
        first = asyncio.create_task(throttle.acquire(STATIC_CT, is_behind=False))
        await asyncio.sleep(0)
        paused = asyncio.create_task(throttle.acquire(RFC6962, is_behind=False))
        for _ in range(3):
            await throttle.acquire(STATIC_CT, is_behind=True)
        await first
    assert not paused.done()
    paused.cancel()
    await asyncio.gather(paused, return_exceptions=True)


async def test_a_slow_redis_delays_requests_but_does_not_stop_them() -> None:
    slots = Slots(0, 0, 0, 0)
    slots.delay = LATE_SECS + 0.05
    throttle = throttle_of(slots)
    async with asyncio.timeout(30):
        await throttle.acquire(RFC6962, is_behind=False)
        await throttle.acquire(RFC6962, is_behind=False)
    assert len(slots.answered) <= 4


class Slots:
    """Slots that come after these seconds; then their server fails.

    Attributes:
        answered: what each call reported.
        delay: seconds that each reservation takes.
        pause: seconds that a 429 pauses the logs.
    """

    delay = 0.0
    pause = 0.0

    def __init__(self, *waits: float) -> None:
        self.answered: list[int] = []
        self._waits = iter(waits)

    async def reserve(self, _: str, interval: float, answered: int, api: str, lead: float) -> Slot:
        assert api in set(Kind)
        self.answered.append(answered)
        await asyncio.sleep(self.delay)
        wait = next(self._waits, None)
        if wait is None:
            raise ZeroDivisionError
        return Slot(max(wait, lead) if lead else wait, 2 * interval, 3.0)

    async def record_429(self, *_: object, answered: int, requested: bool, api: str) -> float:
        assert (requested, api) == (True, RFC6962.value)
        self.answered.append(answered)
        return self.pause


def throttle_of(slots: Slots) -> OperatorThrottle:
    return OperatorThrottle("Example", 1.0, cast("OperatorSlots", slots), RedisRetry())


async def test_each_answer_is_reported_once() -> None:
    slots = Slots(0, 0, 0)
    throttle = throttle_of(slots)
    for answers in (0, 3, 0):
        for _ in range(answers):
            throttle.answered(RFC6962)
        await throttle.acquire(RFC6962, is_behind=False)
    throttle.answered(RFC6962)
    await throttle.record_429(RFC6962, "log", 1.0, requested=True)
    await throttle.record_429(RFC6962, "log", 1.0, requested=True)
    assert slots.answered == [0, 3, 0, 1, 0]
    assert throttle.current == 2.0


async def test_a_429_pauses_requests_before_the_next_slot() -> None:
    slots = Slots()
    slots.pause = 60.0
    throttle = throttle_of(slots)
    await throttle.record_429(RFC6962, "log", 1.0, requested=True)
    waiting = asyncio.create_task(throttle.acquire(RFC6962, is_behind=False))
    await until(lambda: throttle._asleep[RFC6962] == 1, "it waits for the end of the pause")
    assert slots.answered == [0], "no slot was reserved"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_an_answer_that_logs_pause_is_no_slot_for_the_other_api() -> None:
    free = asyncio.Event()

    class Pausing(Slots):
        async def reserve(
            self, _: str, interval: float, answered: int, api: str, lead: float
        ) -> Slot:
            assert (answered, lead) == (0, 0.0)
            if api == RFC6962.value:
                return Slot(0.0, interval, paused=60.0)
            await free.wait()
            return Slot(0.0, interval)

    throttle = throttle_of(Pausing())
    paused, other = [
        asyncio.create_task(throttle.acquire(kind, is_behind=False))
        for kind in (RFC6962, STATIC_CT)
    ]
    await until(lambda: throttle._asleep[RFC6962] == 1 or other.done(), "the pause is known")
    assert not other.done()
    free.set()
    await asyncio.wait_for(other, 30)
    paused.cancel()
    await asyncio.wait([paused])


async def test_requests_that_were_cancelled_in_a_pause_reserve_no_slots_after_it() -> None:
    slots = Slots(*[0.0] * 10)
    throttle = throttle_of(slots)
    throttle._paused_until[RFC6962] = asyncio.get_running_loop().time() + 0.3
    requests = [asyncio.create_task(throttle.acquire(RFC6962, is_behind=False)) for _ in range(5)]
    await asyncio.sleep(0)
    for request in requests[:3]:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    await until(lambda: not throttle._reserving, "no reservation is left")
    assert len(slots.answered) == 2
    assert not throttle._asleep.total()


async def test_a_slot_that_was_missed_is_replaced() -> None:
    slots = Slots(-60, -60, 0)
    await throttle_of(slots).acquire(RFC6962, is_behind=True)
    assert len(slots.answered) == 3


async def test_an_unexpected_error_fails_the_request() -> None:
    async with asyncio.timeout(30):
        with pytest.raises(ZeroDivisionError):
            await throttle_of(Slots()).acquire(RFC6962, is_behind=False)


async def test_an_unexpected_error_fails_one_request() -> None:
    class FailsOnce(Slots):
        fails = True

        async def reserve(self, *of: Any) -> Slot:
            if self.fails:
                self.fails = False
                raise ZeroDivisionError
            return await super().reserve(*of)

    throttle = throttle_of(FailsOnce(*[0.0] * 100))
    requests = [throttle.acquire(RFC6962, is_behind=False) for _ in range(3)]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(each) for each in outcomes] == [ZeroDivisionError, type(None), type(None)]


def test_the_interval_of_an_operator_is_in_seconds() -> None:
    settings = CTLog(operator_rate_limits={"Example": 250}, default_operator_rate_limit_ms=1500)
    assert request_interval("example", settings) == 0.25
    assert request_interval("Other", settings) == 1.5


async def test_logs_that_catch_up_wait_for_their_share() -> None:
    throttle = throttle_of(Slots())
    assert throttle._next() is None

    def turn() -> _Turn:
        made = _Turn()
        made.kind, made.is_proof = RFC6962, False
        return made

    throttle._at_head.extend(turn() for _ in range(30))
    head, behind = throttle._at_head[-1], [turn() for _ in range(3)]
    assert all(throttle._next() is not None for _ in range(5))
    throttle._behind.extend(behind)
    behind[1].cancel()
    order = [throttle._next() for _ in range(27)]
    turns = [order.index(each) for each in (behind[0], behind[2], head)]
    assert turns == [2, 5, 26], "they get one slot in three"
    assert throttle._next() is None
